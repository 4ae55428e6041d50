"""Events of a run. To follow a run, subclass `Callback` and override the methods you need; none is required.

Each event is a plain, frozen record. Callbacks run on the host between compiled calls and cannot change a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dgm_jax.config import Config
from dgm_jax.runs.summary import Summary


@dataclass(frozen=True)
class RunStart:
    """A run begins or is resumed."""

    config: Config
    epochs: int  # For each task.
    workdir: Path
    devices: list[str]  # For example ["cpu:0"].
    platform: str  # "cpu", "gpu" or "tpu"
    dataset: str
    seeds: tuple[int, ...]  # One seed, or several that are trained side by side.
    tasks: tuple[tuple[str, ...], ...]  # Names of the classes of each task.
    train_counts: tuple[int, ...]  # Training images of each task; without the tasks of the run that this one continues.
    test_count: int
    estimated_seconds: float | None
    resumed_from: tuple[int, int] | None  # (task, epochs already done), or None if the run is new.


@dataclass(frozen=True)
class TaskStart:
    """A task begins or is resumed."""

    task: int
    classes: tuple[str, ...]
    epochs: int
    first_epoch: int  # Above 0 if the task is resumed from a checkpoint.
    steps: int  # Iterations of an epoch.
    images_per_step: int  # Real images in an iteration.
    widths: tuple[int, ...]
    physical_widths: tuple[int, ...]
    compiles: bool = False  # The first step waits for compilation: no earlier task had these physical widths.


@dataclass(frozen=True)
class Progress:
    """A phase has completed `done` of its `total` units.

    Phases and their units are: "replay", generated classes; "train", iterations of the epoch; "consolidate", steps of
    the consolidated classifier.
    """

    task: int
    phase: str
    done: float
    total: float
    epoch: int | None = None


@dataclass(frozen=True)
class EpochEnd:
    """An epoch has ended; `metrics` are means over its iterations (for method dgm also "scale" and "open_share")."""

    task: int
    epoch: int
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class TaskEnd:
    """A task has been learnt and consolidated.

    `accuracy`, `average` and `forgetting` have no entry if accuracy was not measured after this task.
    """

    task: int
    seed: int
    # By reading: accuracy on each class seen, in stream order; None for a class without test images.
    accuracy: dict[str, list[float | None]]
    average: dict[str, dict[str, float]]  # By reading: "macro" and "micro".
    forgetting: dict[str, float | None]
    class_names: tuple[str, ...]  # Names of the classes seen so far.
    capacity: list[dict[str, Any]]  # A row for each layer, as in capacity.csv.
    widths: tuple[int, ...]  # After growth.
    seconds: float
    protocol: str
    metrics: dict[str, float] = field(default_factory=dict)  # Means over all steps of the classifier's training.


@dataclass(frozen=True)
class RunEnd:
    """All tasks are learnt; `already_finished` means that they were before, and that nothing was trained."""

    summary: Summary
    workdir: Path
    already_finished: bool = False
    files: dict[str, str] = field(default_factory=dict)  # Paths to show to the user, by what they hold.


class Callback:
    """Is called with each event of a run; by default it does nothing."""

    def on_run_start(self, event: RunStart) -> None:
        """The run begins or is resumed."""

    def on_task_start(self, event: TaskStart) -> None:
        """A task begins or is resumed."""

    def on_progress(self, event: Progress) -> None:
        """A phase has advanced; called about once a second."""

    def on_epoch_end(self, event: EpochEnd) -> None:
        """An epoch has ended."""

    def on_task_end(self, event: TaskEnd) -> None:
        """A task has ended."""

    def on_run_end(self, event: RunEnd) -> None:
        """The run has ended."""

    def on_note(self, text: str) -> None:
        """A message for the user, such as a damaged checkpoint that was skipped."""


class Callbacks(Callback):
    """Several callbacks, called one after the other."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        """Will pass each event to these callbacks, in this order."""
        self.callbacks = tuple(callbacks)
        for name in vars(Callback):
            if name.startswith("on_"):
                setattr(self, name, partial(self._pass_on, name))

    def _pass_on(self, name: str, event: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, name)(event)
