"""Class-incremental streams: tasks arrive in order, and the images of a task that is over are gone.

Labels and indices: a class has the data set's own *label* (any integer) and an *index*, its position in the class
order. A stream hands out indices; `TaskStream.classes[index]` is the label.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dgm_jax.data.dataset import DataError, Dataset, Images, Labels
from dgm_jax.data.order import check_order, task_sizes

Indices = NDArray[np.int32]
Part = tuple[Images, Indices]
Protocol = Literal["strict", "paper"]


class PastTaskError(RuntimeError):
    """Real images of a task that is over were asked for."""


class FutureTaskError(RuntimeError):
    """Images of a task that has not begun were asked for."""


@dataclass(frozen=True)
class Past:
    """What is left of tasks that were learnt in an earlier stream: everything but their images.

    Attributes:
      name: of the data set.
      tasks: the labels of each task.
      class_names: of all classes, in their order.
      train_counts: number of training images of each class of each task.
      fingerprint: of the stream.
    """

    name: str
    tasks: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    train_counts: tuple[tuple[int, ...], ...]
    fingerprint: str


class TaskStream:
    """Tasks that begin one after the other; made by `class_incremental`.

    The position is the only state. Beginning a task drops the stream's references to the training images of all
    earlier ones (and, in the strict protocol, to their held-out images), so nothing can read them from it.

    Attributes:
      name: of the data set.
      n_tasks: number of tasks.
      n_classes: number of classes, K.
      tasks: class indices of each task; together 0..K-1 in order.
      classes: the data set's label of each class index.
      class_names: the name of each class index.
      image_shape: (h, w, c).
      stored_shape: (h, w, c) of the images as the data set holds them, before they were resized.
      fingerprint: a checksum of all images and class indices: tells a run from one on other data.
      protocol: "strict" or "paper"; see `validation`.
      part_name: of the data set whose images are here: `name`, unless the stream goes on after another.
      n_past: tasks at the beginning that were learnt in an earlier stream, whose images are not here; see `after`.
    """

    def __init__(
        self,
        *,
        name: str,
        tasks: Sequence[Sequence[int]],
        classes: Sequence[int],
        class_names: Sequence[str],
        train: Sequence[Part],
        validation: Sequence[Part],
        test: Sequence[Part],
        protocol: Protocol,
        stored_shape: Sequence[int] | None = None,
    ) -> None:
        """Takes the parts of every task, sorted by class index; see `class_incremental`."""
        self.name = name
        self.tasks = tuple(tuple(task) for task in tasks)
        self.classes = tuple(classes)
        self.class_names = tuple(class_names)
        self.n_tasks, self.n_classes = len(self.tasks), len(self.classes)
        self.image_shape: tuple[int, int, int] = train[0][0].shape[1:]
        self.stored_shape = tuple(stored_shape or self.image_shape)
        self.protocol = protocol
        self._train: list[Part | None] = list(train)
        self._validation: list[Part | None] = list(validation)
        self._test = tuple(test)
        self._train_counts = tuple(
            tuple(int((indices == index).sum()) for index in task)
            for task, (_, indices) in zip(self.tasks, train, strict=True)
        )
        self._current: int | None = None
        self.fingerprint = f"{_checksum([*train, *validation, *test]):08x}"
        self.n_past = 0
        self.part_name = name

    def after(self, past: Past) -> TaskStream:
        """The same tasks, after those of an earlier stream, of which no image is here any more.

        Returns:
          A stream at its start, which begins with task `n_past`. Class indices go on where those of the past end. If
          the past has some of the labels already, such as positions of class folders, all are numbered anew, after its
          highest.

        Raises:
          DataError: if a class has the name of an earlier one, or this stream has begun.
        """
        if self._current is not None:
            raise DataError(f"task {self._current} of the stream has begun; make a new stream.")
        twice = [name for name in self.class_names if name in past.class_names]
        if twice:
            raise DataError(f"class {twice[0]} was learnt before; a class belongs to one task only.")
        old = [label for task in past.tasks for label in task]
        classes = self.classes
        if set(classes) & set(old):
            ranks = {label: rank for rank, label in enumerate(sorted(classes), start=1)}
            classes = tuple(max(old) + ranks[label] for label in classes)
        joined = copy.copy(self)
        first, none = len(old), (np.zeros((0, *self.image_shape), np.uint8), np.zeros(0, np.int32))
        stops = np.cumsum([0, *map(len, past.tasks)]).tolist()
        gone = [tuple(range(start, stop)) for start, stop in zip(stops, stops[1:], strict=False)]

        def moved(parts: Sequence[Part | None]) -> list[Part]:
            return [_freeze(images, indices + np.int32(first)) for images, indices in map(_present, parts)]

        joined.name = past.name
        joined.n_past = len(past.tasks)
        joined.tasks = (*gone, *(tuple(index + first for index in task) for task in self.tasks))
        joined.classes = (*old, *classes)
        joined.class_names = (*past.class_names, *self.class_names)
        joined.n_tasks, joined.n_classes = len(joined.tasks), len(joined.classes)
        joined.fingerprint = f"{past.fingerprint}+{self.fingerprint}"
        joined._train = [*[None] * len(gone), *moved(self._train)]
        joined._validation = [*[none] * len(gone), *moved(self._validation)]
        joined._test = (*[none] * len(gone), *moved(self._test))
        joined._train_counts = (*past.train_counts, *self._train_counts)
        return joined

    @property
    def test_count(self) -> int:
        """Number of test images of all classes."""
        return sum(len(indices) for _, indices in self._test)

    @property
    def current(self) -> int | None:
        """The task that has begun last; None before the first."""
        return self._current

    def train_counts(self, task: int) -> tuple[int, ...]:
        """Number of training images (held-out ones aside) of each class of any task: counts are public, images not.

        Raises:
          ValueError: if there is no such task.
        """
        return self._train_counts[self._known(task)]

    def n_seen(self, task: int) -> int:
        """Number of classes met once a task is learnt; 0 before the first (task -1)."""
        return sum(len(classes) for classes in self.tasks[: task + 1])

    def begin(self, task: int) -> None:
        """Moves on to `task` and drops the images of all earlier ones; skipping is allowed (a resumed run does).

        Beginning the current task again changes nothing.

        Raises:
          PastTaskError: if a later task has begun.
          ValueError: if there is no such task, or its images are not here.
        """
        current = self._current
        self._known(task)
        if task < self.n_past:
            raise DataError(
                f"task {task} was to be learnt from an earlier stream, whose images are not here; this one begins with "
                f"task {self.n_past}. Go on with the images of task {task} first."
            )
        if current is not None and task < current:
            raise PastTaskError(
                f"task {task} is over, task {current} has begun: a stream only moves forward; make a new one."
            )
        self._current = task
        for past in range(task):
            self._train[past] = None
            if self.protocol == "strict":
                self._validation[past] = None

    def train(self, task: int) -> Part:
        """Training images of the current task.

        Args:
          task: the current task.

        Returns:
          Images, uint8 [n, h, w, c], and class indices, int32 [n]; by class, in stored order; read-only.

        Raises:
          PastTaskError: if `task` is over.
          FutureTaskError: if `task` has not begun.
          ValueError: if there is no such task.
        """
        self._require_current(task, "training")
        return _present(self._train[task])

    def validation(self, task: int) -> Part:
        """Held-out training images: of the current task (strict), or of all tasks so far (paper).

        Only the paper protocol reads real images of earlier tasks, to choose an epoch as the authors' code does.

        Args:
          task: the current task.

        Returns:
          As `train`; empty if nothing was held out.

        Raises:
          PastTaskError, FutureTaskError, ValueError: as `train`.
        """
        self._require_current(task, "validation")
        first = 0 if self.protocol == "paper" else task
        return _join([_present(part) for part in self._validation[first : task + 1]])

    def test(self, task: int) -> Part:
        """Test images of all classes up to and including `task`; for evaluation only.

        Args:
          task: any task that has begun or is over.

        Returns:
          As `train`.

        Raises:
          FutureTaskError: if `task` has not begun.
          ValueError: if there is no such task.
        """
        self._require_begun(task, "test")
        return _join(self._test[: task + 1])

    def _known(self, task: int) -> int:
        if not 0 <= task < self.n_tasks:
            raise DataError(f"task={task}: the stream has {self.n_tasks} tasks; expected 0..{self.n_tasks - 1}.")
        return task

    def _require_begun(self, task: int, what: str) -> int:
        current = self._current
        if current is None or self._known(task) > current:
            now = "no task has begun" if current is None else f"the current task is {current}"
            raise FutureTaskError(
                f"{what} images of task {self._known(task)} were asked for, but {now}; "
                f"call begin({task}) once the tasks before it are learnt."
            )
        return current

    def _require_current(self, task: int, what: str) -> None:
        current = self._require_begun(task, what)
        if task < current:
            raise PastTaskError(
                f"{what} images of task {task} were asked for during task {current}: the protocol forbids real images "
                "of past tasks; replay them from the generative memory."
            )


def class_incremental(
    dataset: Dataset,
    *,
    classes_per_task: int | Sequence[int] = 1,
    class_order: Sequence[int] | None = None,
    held_out: float = 0.0,
    protocol: Protocol = "strict",
    seed: int = 0,
) -> TaskStream:
    """Splits a data set into tasks of disjoint classes.

    Args:
      dataset: what to split; the stream copies its images and keeps no reference to it.
      classes_per_task: one number for all tasks, which must divide the number of classes, or one for each task.
      class_order: the labels in order of arrival; ascending by default.
      held_out: share of every class's training images, in [0, 1), set aside for `TaskStream.validation`.
      protocol: "strict", or "paper" to validate on real images of all tasks so far.
      seed: chooses the held-out images; of a class they are the same whatever the class order.

    Returns:
      A stream at its start: call `begin(0)`.

    Raises:
      ValueError: if the arguments do not fit the data set, or a class has too few images to hold some out.
    """
    if protocol not in get_args(Protocol):
        raise DataError(f"protocol={protocol!r}: expected one of {', '.join(get_args(Protocol))}.")
    if not 0 <= held_out < 1:
        raise DataError(f"held_out={held_out}: expected a share in [0, 1), e.g. 0.1.")
    labels = dataset.labels
    classes = labels if class_order is None else check_order(class_order, labels)
    stops = np.cumsum(task_sizes(classes_per_task, len(classes))).tolist()
    tasks = [tuple(range(start, stop)) for start, stop in zip([0, *stops], stops, strict=False)]

    kept: list[Labels] = []
    held: list[Labels] = []
    for label in classes:
        rows = np.flatnonzero(dataset.y_train == label)
        n_held = round(held_out * len(rows))
        if held_out and not 0 < n_held < len(rows):
            raise DataError(
                f"held_out={held_out} of the {len(rows)} training images of class {label} makes {n_held} for "
                f"validation and {len(rows) - n_held} for training; expected at least 1 of each: "
                "change held_out or add images."
            )
        shuffled = np.random.default_rng([seed, labels.index(label)]).permutation(rows)
        kept.append(np.sort(shuffled[n_held:]))
        held.append(np.sort(shuffled[:n_held]))
    tested = [np.flatnonzero(dataset.y_test == label) for label in classes]

    return TaskStream(
        name=dataset.name,
        tasks=tasks,
        classes=classes,
        class_names=[dataset.class_names[label] for label in classes],
        train=[_take(dataset.x_train, kept, task) for task in tasks],
        validation=[_take(dataset.x_train, held, task) for task in tasks],
        test=[_take(dataset.x_test, tested, task) for task in tasks],
        protocol=protocol,
        stored_shape=dataset.stored_shape,
    )


def _take(images: Images, rows_of: Sequence[Labels], task: Sequence[int]) -> Part:
    """Copies the rows of a task's classes, so that dropping the copy frees it."""
    rows = np.concatenate([rows_of[index] for index in task])
    indices = np.concatenate([np.full(len(rows_of[index]), index, np.int32) for index in task])
    return _freeze(images[rows], indices)


def _checksum(parts: Sequence[Part]) -> int:
    value = 0
    for images, indices in parts:
        for array in (images, indices):
            value = zlib.crc32(array.tobytes(), value)
    return value


def _join(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    return _freeze(np.concatenate([images for images, _ in parts]), np.concatenate([indices for _, indices in parts]))


def _freeze(images: Images, indices: Indices) -> Part:
    """Makes both read-only: the stream hands out its own arrays, not copies."""
    images.flags.writeable = indices.flags.writeable = False
    return images, indices


def _present(part: Part | None) -> Part:
    assert part is not None, "dropped parts are refused before they are looked up"
    return part


def describe(stream: TaskStream) -> dict[str, object]:
    """What tells a stream from another: data, order, tasks, counts."""
    return {
        "dataset": stream.name,
        "fingerprint": stream.fingerprint,
        "tasks": [[stream.classes[c] for c in task] for task in stream.tasks],
        "image_shape": list(stream.image_shape),
        "train_counts": [list(stream.train_counts(t)) for t in range(stream.n_tasks)],
    }
