"""What a run tells whoever watches it. Subclass `Callback` and override what interests you; nothing is required.

Each event is a plain, frozen record. Callbacks run on the host between compiled calls and cannot change a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgm_jax.config import Config
from dgm_jax.runs.summary import Summary


@dataclass(frozen=True)
class RunStart:
    """A run begins or goes on."""

    config: Config
    epochs: int  # Of each task.
    workdir: Path
    devices: list[str]  # For example ["cpu:0"].
    platform: str  # "cpu", "gpu" or "tpu"
    dataset: str
    seeds: tuple[int, ...]  # One, or several that are trained side by side.
    tasks: tuple[tuple[str, ...], ...]  # Names of the classes of each task.
    train_counts: tuple[int, ...]  # Training images of each task; of a run that goes on, of the new ones.
    test_count: int
    estimated_seconds: float | None
    resumed_from: tuple[int, int] | None  # (task, epochs already done), or None if the run is new.


@dataclass(frozen=True)
class TaskStart:
    """A task begins or goes on."""

    task: int
    classes: tuple[str, ...]
    epochs: int
    first_epoch: int  # > 0 if the task goes on from a checkpoint.
    steps: int  # Iterations in an epoch.
    images_per_step: int  # Real images in an iteration.
    widths: tuple[int, ...]
    physical_widths: tuple[int, ...]
    compiles: bool = False  # The first step waits for its program: no task of this process had these physical widths.


@dataclass(frozen=True)
class Progress:
    """Work was done: `done` of `total` units of a phase ("replay", "train", "consolidate").

    The units are classes drawn, iterations of the epoch, and steps of the consolidated classifier.
    """

    task: int
    phase: str
    done: float
    total: float
    epoch: int | None = None


@dataclass(frozen=True)
class EpochEnd:
    """An epoch of a task is over; `metrics` are means over its iterations (for dgm also "scale" and "open_share")."""

    task: int
    epoch: int
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class TaskEnd:
    """A task is learnt, consolidated and evaluated."""

    task: int
    seed: int
    # "consolidated" and "auxiliary": accuracy of each class seen, in stream order; None of one without test images.
    accuracy: dict[str, list[float | None]]
    average: dict[str, dict[str, float]]  # reading -> {"macro", "micro"}
    forgetting: dict[str, float | None]
    class_names: tuple[str, ...]  # Of the classes seen so far.
    capacity: list[dict[str, Any]]  # One row a layer, as in capacity.csv.
    widths: tuple[int, ...]  # After growth.
    seconds: float
    protocol: str
    metrics: dict[str, float] = field(default_factory=dict)  # Means over all steps of the classifier that is asked.


@dataclass(frozen=True)
class RunEnd:
    """All tasks are done; `already_finished` if the run was found finished and nothing was trained."""

    summary: Summary
    workdir: Path
    already_finished: bool = False
    files: dict[str, str] = field(default_factory=dict)  # What it is -> path, for a person to open.


class Callback:
    """Hears what happens in a run."""

    def on_run_start(self, event: RunStart) -> None:
        """The run begins or goes on."""

    def on_task_start(self, event: TaskStart) -> None:
        """A task begins or goes on."""

    def on_progress(self, event: Progress) -> None:
        """Part of a phase is done; called about once a second."""

    def on_epoch_end(self, event: EpochEnd) -> None:
        """An epoch is over."""

    def on_task_end(self, event: TaskEnd) -> None:
        """A task is over."""

    def on_run_end(self, event: RunEnd) -> None:
        """The run is over."""

    def on_note(self, text: str) -> None:
        """Something a person should know, such as a damaged checkpoint that was passed over."""


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        """Passes every event on to these, in this order."""
        self.callbacks = tuple(callbacks)

    def on_run_start(self, event: RunStart) -> None:
        """Passes it on, as do the others."""
        for callback in self.callbacks:
            callback.on_run_start(event)

    def on_task_start(self, event: TaskStart) -> None:  # noqa: D102
        for callback in self.callbacks:
            callback.on_task_start(event)

    def on_progress(self, event: Progress) -> None:  # noqa: D102
        for callback in self.callbacks:
            callback.on_progress(event)

    def on_epoch_end(self, event: EpochEnd) -> None:  # noqa: D102
        for callback in self.callbacks:
            callback.on_epoch_end(event)

    def on_task_end(self, event: TaskEnd) -> None:  # noqa: D102
        for callback in self.callbacks:
            callback.on_task_end(event)

    def on_run_end(self, event: RunEnd) -> None:  # noqa: D102
        for callback in self.callbacks:
            callback.on_run_end(event)

    def on_note(self, text: str) -> None:  # noqa: D102
        for callback in self.callbacks:
            callback.on_note(text)
