"""What a run has measured so far."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgm_jax import metrics
from dgm_jax.data import TaskStream


@dataclass
class Record:
    """What has been measured so far; goes into every checkpoint."""

    finished_tasks: int = 0
    epochs_done: int = 0  # Of the task after those.
    # [task][class]; None: no test images; no entry for any class after a task that was not evaluated.
    accuracy: dict[str, list[list[float | None]]] = field(default_factory=dict)
    micro: dict[str, list[float | None]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)  # After the newest task, if it was evaluated.
    capacity: list[dict[str, Any]] = field(default_factory=list)
    privacy: list[dict[str, Any]] = field(default_factory=list)  # Of each class, measured when it was learnt.
    seconds: dict[str, float] = field(default_factory=dict)  # By phase.

    @classmethod
    def new(cls, readings: Sequence[str]) -> "Record":
        """Nothing measured yet, for classifiers of these names."""
        return cls(accuracy={reading: [] for reading in readings}, micro={reading: [] for reading in readings})

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Record":
        """From a checkpoint; facts that earlier versions kept here are left out."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in names})

    @property
    def position(self) -> tuple[int, int]:
        """(finished tasks, epochs done of the next)."""
        return self.finished_tasks, self.epochs_done

    def matrix(self, reading: str, n_classes: int) -> np.ndarray:
        """Accuracy after each task (rows) on each class (columns), NaN where not seen or not measured."""
        rows = self.accuracy[reading]
        matrix = np.full((len(rows), n_classes), np.nan)
        for t, row in enumerate(rows):
            matrix[t, : len(row)] = np.asarray(row, float)  # None becomes NaN.
        return matrix

    def is_evaluated(self, task: int) -> bool:
        """Whether accuracy was measured after a task."""
        return all(rows[task] for rows in self.accuracy.values())

    def averages(self, task: int) -> dict[str, dict[str, float]]:
        """By reading A_t after a task, over classes ("macro") and images ("micro"); empty if it was not measured."""
        if not self.is_evaluated(task):
            return {}
        return {
            reading: {
                "macro": metrics.macro_accuracy(np.asarray(rows[task], float)),
                "micro": float(self.micro[reading][task]),  # type: ignore[arg-type]
            }
            for reading, rows in self.accuracy.items()
        }

    def forgetting(self, reading: str, stream: TaskStream) -> float | None:
        """How far old classes have fallen from the best that was measured.

        None if none of them was measured before and now: they have no test images, or tasks were not evaluated.
        """
        if not all(self.accuracy[reading][-1:]):
            return None
        return _known(metrics.forgetting(self.matrix(reading, stream.n_classes), stream.tasks))

    def backward_transfer(self, reading: str, stream: TaskStream) -> float | None:
        """How later tasks changed the accuracy of those that were measured when just learnt; None as above."""
        if not all(self.accuracy[reading][-1:]):
            return None
        return _known(metrics.backward_transfer(self.matrix(reading, stream.n_classes), stream.tasks))

    def evaluate(self, reading: str, predictions: np.ndarray, labels: np.ndarray, n_seen: int) -> None:
        """Adds a classifier's predictions for the test images of the classes seen."""
        accuracy = metrics.per_class_accuracy(predictions, labels, n_seen)
        self.accuracy[reading].append([None if np.isnan(a) else float(a) for a in accuracy])
        self.micro[reading].append(metrics.micro_accuracy(predictions, labels))
        self.confusion[reading] = metrics.confusion_matrix(predictions, labels, n_seen).tolist()

    def leave_out_evaluation(self) -> None:
        """Says that accuracy is not measured after this task; nothing that was measured before stands for it."""
        for reading, rows in self.accuracy.items():
            rows.append([])
            self.micro[reading].append(None)
        self.confusion = {}

    def end_task(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds the capacity that a task used, one row a layer, and moves on to the next."""
        self.capacity += [{"task": self.finished_tasks, **row} for row in rows]
        self.finished_tasks, self.epochs_done = self.finished_tasks + 1, 0

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Adds time spent in a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
