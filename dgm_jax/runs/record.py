"""What a run has measured so far."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgm_jax import metrics
from dgm_jax.data import TaskStream
from dgm_jax.data.order import classes_of, first_tasks, last_tasks


@dataclass
class Record:
    """What has been measured so far; goes into every checkpoint."""

    finished_tasks: int = 0
    epochs_done: int = 0  # Of the task after those.
    # [task][class]; None: no test images; no entry for any class after a task that was not evaluated.
    accuracy: dict[str, list[list[float | None]]] = field(default_factory=dict)
    micro: dict[str, list[float | None]] = field(default_factory=dict)
    # As `accuracy`, if the task is known: None also for a class that is alone in its task; no entry if all are.
    task_known: dict[str, list[list[float | None]]] = field(default_factory=dict)
    # [task]: what `_calibration` finds; None if the task was not evaluated, or the reading has no probabilities.
    calibration: dict[str, list[dict[str, float] | None]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)  # After the newest task, if it was evaluated.
    capacity: list[dict[str, Any]] = field(default_factory=list)
    privacy: list[dict[str, Any]] = field(default_factory=list)  # Of each class, measured when it was learnt.
    seconds: dict[str, float] = field(default_factory=dict)  # By phase.
    forgotten: list[dict[str, Any]] = field(default_factory=list)  # Classes removed on request, and what was said then.

    @classmethod
    def new(cls, readings: Sequence[str]) -> "Record":
        """Nothing measured yet, for classifiers of these names."""
        return cls(
            accuracy={reading: [] for reading in readings},
            micro={reading: [] for reading in readings},
            task_known={reading: [] for reading in readings},
            calibration={reading: [] for reading in readings},
        )

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Record":
        """From a checkpoint; facts that earlier versions kept here are left out, what they did not measure is empty."""
        names = {f.name for f in dataclasses.fields(cls)}
        record = cls(**{name: value for name, value in found.items() if name in names})
        for reading, rows in record.accuracy.items():
            record.task_known.setdefault(reading, [[] for _ in rows])
            record.calibration.setdefault(reading, [None for _ in rows])
        return record

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
                "micro": self.micro[reading][task],  # type: ignore[dict-item]  # None only after classes were forgotten.
            }
            for reading, rows in self.accuracy.items()
        }

    def average_incremental(self, reading: str) -> dict[str, float | None]:
        """The mean of A_1 to A_T so far ("from_1"), and without the first task ("from_2"); None if one is not known."""
        curve = [metrics.macro_accuracy(np.asarray(row, float)) if row else None for row in self.accuracy[reading]]
        means = {f"from_{start + 1}": metrics.average_incremental_accuracy(curve[start:]) for start in (0, 1)}
        return {name: _known(mean) for name, mean in means.items()}

    def with_task_known(self, reading: str, stream: TaskStream) -> dict[str, list[float | None]]:
        """If the task is known: A_t after each task, and the accuracy of each class when it was just learnt."""
        rows = self.task_known[reading]
        learnt = [
            rows[t][c] if rows[t] else None
            for t, task in enumerate(first_tasks(stream.tasks)[: len(rows)])
            for c in task
        ]
        return {"A_t": [_mean(row) for row in rows], "just_learnt": learnt}

    def forgetting_by_class(self, reading: str, stream: TaskStream) -> list[float | None]:
        """How far each class seen has fallen from the best that was measured; None where that is not known."""
        falls = metrics.forgetting_by_class(*self._comparable(reading, stream))
        return [_known(fall) for fall in falls[: stream.n_seen(self.finished_tasks - 1)].tolist()]

    def forgetting(self, reading: str, stream: TaskStream) -> float | None:
        """How far old classes have fallen from the best that was measured.

        None if none of them was measured before and now: they have no test images, or tasks were not evaluated.
        """
        if not all(self.accuracy[reading][-1:]):
            return None
        return _known(metrics.forgetting(*self._comparable(reading, stream)))

    def backward_transfer(self, reading: str, stream: TaskStream) -> float | None:
        """How later tasks changed the accuracy of those that were measured when just learnt; None as above."""
        if not all(self.accuracy[reading][-1:]):
            return None
        return _known(metrics.backward_transfer(*self._comparable(reading, stream)))

    def _comparable(self, reading: str, stream: TaskStream) -> tuple[np.ndarray, tuple[tuple[int, ...], ...]]:
        """The matrix and the tasks so far; of a class that came again, only from the last task that brought it.

        Before that task its accuracy was measured on other test images, with which no later one compares.
        """
        matrix = self.matrix(reading, stream.n_classes)
        tasks = last_tasks(stream.tasks[: len(matrix)])
        for task, classes in enumerate(tasks):
            matrix[:task, list(classes)] = np.nan
        return matrix, tasks

    def evaluate(
        self,
        reading: str,
        scores: np.ndarray,
        labels: np.ndarray,
        tasks: Sequence[Sequence[int]],
        temperature: float | None = None,
    ) -> None:
        """Adds a classifier's scores [n, classes] for the test images of the classes of the tasks so far.

        `temperature` is what its logits are divided by; None: its scores are no logits of probabilities.
        """
        predictions, n_seen = scores.argmax(axis=1), len(classes_of(tasks))
        accuracy = metrics.per_class_accuracy(predictions, labels, n_seen)
        self.accuracy[reading].append([_known(a) for a in accuracy.tolist()])
        self.micro[reading].append(metrics.micro_accuracy(predictions, labels))
        self.task_known[reading].append([])
        if max(map(len, tasks)) > 1:
            known = metrics.accuracy_with_task_known(scores, labels, first_tasks(tasks))
            self.task_known[reading][-1] = [_known(a) for a in known.tolist()]
        self.calibration[reading].append(
            None if temperature is None else _calibration(scores, labels, n_seen, temperature)
        )
        self.confusion[reading] = metrics.confusion_matrix(predictions, labels, n_seen).tolist()

    def leave_out_evaluation(self) -> None:
        """Says that accuracy is not measured after this task; nothing that was measured before stands for it."""
        for reading, rows in self.accuracy.items():
            rows.append([])
            self.micro[reading].append(None)
            self.task_known[reading].append([])
            self.calibration[reading].append(None)
        self.confusion = {}

    def end_task(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds the capacity that a task used, one row a layer, and moves on to the next."""
        self.capacity += [{"task": self.finished_tasks, **row} for row in rows]
        self.finished_tasks, self.epochs_done = self.finished_tasks + 1, 0

    def without(self, forgotten: Collection[int], names: Sequence[str], tasks: Sequence[Sequence[int]]) -> "Record":
        """What was measured of the other classes, as it was measured: with classifiers that still knew all classes.

        Rows of tasks that are left without a class go; the other tasks are numbered anew. Confusion goes, and so does
        calibration since the first of the classes came. A micro accuracy is computed anew from accuracies and numbers
        of test images, and is None where these are not known.

        Args:
          forgotten: class indices.
          names: of all classes, by index.
          tasks: the class indices of each finished task.
        """
        number = {t: new for new, t in enumerate(t for t, task in enumerate(tasks) if set(task) - set(forgotten))}
        counts = [sum(row) for rows in list(self.confusion.values())[:1] for row in rows]
        gone = {names[index] for index in forgotten}
        first = min(t for t, task in enumerate(tasks) if set(task) & set(forgotten))

        def shortened(rows: Sequence[list[float | None]]) -> list[list[float | None]]:
            left = [[a for index, a in enumerate(rows[t]) if index not in forgotten] for t in number]
            return [row if any(a is not None for a in row) else [] for row in left]

        def micro(row: list[float | None], measured: float | None) -> float | None:
            if all(row[index : index + 1] in ([], [None]) for index in forgotten):
                return measured
            left = {index: a for index, a in enumerate(row) if index not in forgotten and a is not None}
            if not left or not all(index < len(counts) and counts[index] for index in left):
                return None
            return sum(a * counts[index] for index, a in left.items()) / sum(counts[index] for index in left)

        return dataclasses.replace(
            self,
            finished_tasks=len(number),
            epochs_done=0,
            accuracy={reading: shortened(rows) for reading, rows in self.accuracy.items()},
            micro={
                reading: [micro(self.accuracy[reading][t], values[t]) for t in number]
                for reading, values in self.micro.items()
            },
            task_known={reading: shortened(rows) for reading, rows in self.task_known.items()},
            calibration={
                reading: [rows[t] if t < first else None for t in number] for reading, rows in self.calibration.items()
            },
            confusion={},
            capacity=[{**row, "task": number[row["task"]]} for row in self.capacity if row["task"] in number],
            privacy=[
                {**row, "task": number[row["task"]]}
                for row in self.privacy
                if row["task"] in number and row["class"] not in gone
            ],
        )

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Adds time spent in a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


def _calibration(scores: np.ndarray, labels: np.ndarray, n_seen: int, temperature: float) -> dict[str, float]:
    """Calibration error and log-likelihood with the temperature, and without."""
    found = {"temperature": temperature}
    for name, divisor in (("", temperature), ("_before", 1.0)):
        predicted = metrics.log_probabilities(scores[:, :n_seen], divisor)
        found[f"ece{name}"] = metrics.expected_calibration_error(predicted, labels)
        found[f"nll{name}"] = metrics.negative_log_likelihood(predicted, labels)
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
