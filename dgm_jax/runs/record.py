"""What a run has measured so far, and the summary it makes of it."""

import dataclasses
import math
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import jax
import numpy as np

from dgm_jax import metrics
from dgm_jax.compilation import BuildClock
from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.version import __version__

READINGS = ("consolidated", "auxiliary")  # Two classifiers, both reported; the first is the default reading of A_t.


@dataclass
class Record:
    """What has been measured so far; goes into every checkpoint."""

    finished_tasks: int = 0
    epochs_done: int = 0  # Of the task after those.
    # [task][class]; None of a class without test images.
    accuracy: dict[str, list[list[float | None]]] = field(default_factory=lambda: {r: [] for r in READINGS})
    micro: dict[str, list[float]] = field(default_factory=lambda: {r: [] for r in READINGS})
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    capacity: list[dict[str, Any]] = field(default_factory=list)
    begun_as: list[list[int]] = field(default_factory=list)  # Of each task, with a warm start: earlier classes.
    privacy: list[dict[str, Any]] = field(default_factory=list)  # Of each class, measured when it was learnt.
    seconds: dict[str, float] = field(default_factory=dict)  # By phase.
    programs: list[list[int]] = field(default_factory=list)  # The physical widths that were trained at, each once.
    best_validation: float | None = None  # Of the task in progress, in the paper protocol.

    @property
    def position(self) -> tuple[int, int]:
        """(finished tasks, epochs done of the next)."""
        return self.finished_tasks, self.epochs_done

    def matrix(self, reading: str, n_classes: int) -> np.ndarray:
        """Accuracy after each task (rows) on each class (columns), NaN where not seen."""
        rows = self.accuracy[reading]
        matrix = np.full((len(rows), n_classes), np.nan)
        for t, row in enumerate(rows):
            matrix[t, : len(row)] = np.asarray(row, float)  # None becomes NaN.
        return matrix

    def average(self, reading: str, task: int) -> dict[str, float]:
        """A_t after a task, over classes ("macro") and over images ("micro")."""
        return {
            "macro": metrics.macro_accuracy(np.asarray(self.accuracy[reading][task], float)),
            "micro": self.micro[reading][task],
        }

    def forgetting(self, reading: str, stream: TaskStream) -> float | None:
        """How far old classes have fallen from their best; None if none of them has test images."""
        return _known(metrics.forgetting(self.matrix(reading, stream.n_classes), stream.tasks))

    def backward_transfer(self, reading: str, stream: TaskStream) -> float | None:
        """What later tasks did to earlier ones; None as above."""
        return _known(metrics.backward_transfer(self.matrix(reading, stream.n_classes), stream.tasks))

    def evaluate(self, reading: str, predictions: np.ndarray, labels: np.ndarray, n_seen: int) -> None:
        """Adds what a classifier says of the test images of the classes seen."""
        accuracy = metrics.per_class_accuracy(predictions, labels, n_seen)
        self.accuracy[reading].append([None if np.isnan(a) else float(a) for a in accuracy])
        self.micro[reading].append(metrics.micro_accuracy(predictions, labels))
        self.confusion[reading] = metrics.confusion_matrix(predictions, labels, n_seen).tolist()

    def end_task(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds the capacity that a task used, one row a layer, and moves on to the next."""
        self.capacity += [{"task": self.finished_tasks, **row} for row in rows]
        self.finished_tasks, self.epochs_done, self.best_validation = self.finished_tasks + 1, 0, None


@contextmanager
def timed(phase: str, building: BuildClock, records: Sequence[Record]) -> Iterator[None]:
    """Adds the time to a phase of each record; what of it went into building programs counts as "compile"."""
    begun, built = time.perf_counter(), building.seconds
    yield
    built = building.seconds - built
    for name, spent in ((phase, time.perf_counter() - begun - built), ("compile", built)):
        for record in records:
            record.seconds[name] = record.seconds.get(name, 0.0) + spent


def summarise(
    record: Record,
    stream: TaskStream,
    config: Config,
    devices: Sequence[jax.Device],
    memory_bytes: Mapping[str, int],
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """What goes into summary.json; accuracies are fractions.

    Args:
      record: what was measured.
      stream: the tasks.
      config: the settings.
      devices: that were trained on.
      memory_bytes: what the method keeps of old classes, by part, and in "total".
      further: what the method tells besides.
    """
    met = sum(sum(stream.train_counts(t)) for t in range(record.finished_tasks))
    replaced = met * math.prod(stream.stored_shape)
    averages = {
        f"A_{stream.n_seen(t)}": {reading: record.average(reading, t) for reading in record.accuracy}
        for t in range(record.finished_tasks)
    }
    return {
        "dataset": stream.name,
        "finished": record.finished_tasks == stream.n_tasks,
        "finished_tasks": record.finished_tasks,
        "protocol": config.protocol,
        "method": config.method,
        "variant": config.variant,
        "seed": config.seed,
        **averages,
        "final": stream.n_seen(record.finished_tasks - 1),  # The last of these: A_final.
        "forgetting": {reading: record.forgetting(reading, stream) for reading in record.accuracy},
        "backward_transfer": {reading: record.backward_transfer(reading, stream) for reading in record.accuracy},
        "confusion": record.confusion,  # Rows: true classes; columns: predicted ones.
        "bytes": {"memory": memory_bytes, "images_replaced": replaced, "image_count": met},
        **further,
        "seconds": {name: round(value, 3) for name, value in record.seconds.items()},
        "tasks": [[stream.classes[c] for c in task] for task in stream.tasks],
        "class_names": list(stream.class_names),
        "versions": _versions(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "config": dataclasses.asdict(config),
    }


def summarise_seeds(summaries: Sequence[dict[str, Any]], folders: Sequence[str]) -> dict[str, Any]:
    """One summary of runs that differ in their seeds: mean and standard deviation of every A_t and of forgetting."""

    def spread(pick: Any) -> Any:
        first = pick(summaries[0])
        if isinstance(first, dict):
            return {name: spread(lambda summary, name=name: pick(summary)[name]) for name in first}
        values = [pick(summary) for summary in summaries]
        known = [value for value in values if value is not None]
        return {
            "mean": statistics.mean(known) if known else None,
            "sd": statistics.stdev(known) if len(known) > 1 else None,
            "values": values,
        }

    same = ("dataset", "finished", "finished_tasks", "protocol", "variant", "final", "tasks", "versions", "device")
    measured = ["forgetting", *(name for name in summaries[0] if name.startswith("A_"))]
    return {
        **{name: summaries[0][name] for name in same},
        "seeds": [summary["seed"] for summary in summaries],
        **{name: spread(lambda summary, name=name: summary[name]) for name in measured},
        "seconds": summaries[0]["seconds"],  # Of all seeds together: they were trained side by side.
        "runs": list(folders),
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {"python": platform.python_version(), "dgm-jax": __version__}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
