"""Class-incremental streams: tasks arrive in order, and the images of a finished task can no longer be read.

A class has a *label*, any integer, in the data set, and an *index*, its position in the class order. A stream gives
indices; `TaskStream.classes[index]` is the label. Within a stream a class belongs to one task. A stream that follows an
earlier one (`TaskStream.after`) may bring more images of a class of that one, if this is asked for.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dgm_jax.data.dataset import DataError, Dataset, Images, Labels, rows_of
from dgm_jax.data.order import check_order, classes_of, task_sizes
from dgm_jax.data.vectors import scale_of

if TYPE_CHECKING:  # JAX is slow to import, and --help does not need it.
    from dgm_jax.types import Scale

Indices = NDArray[np.int32]
Part = tuple[Images, Indices]
Protocol = Literal["strict", "paper"]


class PastTaskError(RuntimeError):
    """Real images of a finished task were requested."""


class FutureTaskError(RuntimeError):
    """Images of a task that has not begun were requested."""


@dataclass(frozen=True)
class Past:
    """What is known of the tasks of an earlier stream: everything except their images.

    Attributes:
      name: name of the data set.
      tasks: the labels of each task.
      class_names: names of all classes, in their order: that of the tasks in which they came first.
      train_counts: number of training images of each class of each task.
      fingerprint: fingerprint of the earlier stream.
      scale: how its vectors were scaled; None for images.
    """

    name: str
    tasks: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    train_counts: tuple[tuple[int, ...], ...]
    fingerprint: str
    scale: Scale | None = None


@dataclass(eq=False, repr=False, kw_only=True)
class TaskStream:
    """Tasks that begin one after the other; made by `class_incremental`.

    The current task is the only state. When a task begins, the stream drops its references to the training images of
    all earlier tasks (in the strict protocol also to their held-out images), so nothing can read them any more.

    Attributes:
      name: name of the data set.
      part_name: name of the data set whose images are available; equals `name` unless this stream continues an earlier
        one.
      tasks: class indices of each task; together 0..K-1, each first in this order. A task may repeat a class of a task
        that belongs to an earlier stream.
      classes: for each class index the label in the data set.
      class_names: for each class index the name.
      image_shape: (h, w, c); (1, 1, d) for vectors.
      stored_shape: (h, w, c) of the images in the data set, before they were resized.
      fingerprint: a checksum of all images and class indices; streams of different data have different ones.
      protocol: "strict" or "paper"; see `validation`.
      n_past: number of tasks at the beginning that were learnt in an earlier stream; their images are not available
        (see `after`).
      scale: of vectors, by the training vectors of the first task; what a stream gives is scaled. None for images.
      current: the task that began last; None before the first one.
    """

    name: str
    part_name: str
    tasks: tuple[tuple[int, ...], ...]
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    stored_shape: tuple[int, ...]
    fingerprint: str
    protocol: Protocol
    n_past: int = 0
    scale: Scale | None = None
    current: int | None = field(default=None, init=False)
    # By task. The images of a part are sorted by class.
    _train: dict[int, Part]
    _validation: dict[int, Part]
    _test: dict[int, Part]
    _train_counts: tuple[tuple[int, ...], ...]

    def after(self, past: Past, *, more_of_known: bool = False) -> TaskStream:
        """A stream in which the tasks of this one follow those of an earlier stream, whose images no longer exist.

        Args:
          past: the earlier stream.
          more_of_known: a class with the name of an earlier class is that class, of which this stream has more images.

        Returns:
          A new stream; its first task is number `n_past`. The indices of new classes follow the earlier ones. If a new
          class has an earlier label (labels of class folders always start at 0), the new classes get new labels, above
          the highest earlier one.

        Raises:
          DataError: if a class has the name of an earlier class and `more_of_known` is False, or a task of this stream
            has begun.
        """
        if self.current is not None:
            raise DataError(f"task {self.current} of the stream has begun; make a new stream.")
        repeated = [name for name in self.class_names if name in past.class_names]
        if repeated and not more_of_known:
            raise DataError(f"class {repeated[0]} was learnt before; a class belongs to one task only.")
        old = classes_of(past.tasks)
        new = [index for index, name in enumerate(self.class_names) if name not in past.class_names]
        classes = [self.classes[index] for index in new]
        if set(classes) & set(old):
            ranks = {label: rank for rank, label in enumerate(sorted(classes), start=1)}
            classes = [max(old) + ranks[label] for label in classes]
        number = {name: index for index, name in enumerate((*past.class_names, *(self.class_names[i] for i in new)))}
        numbers = np.array([number[name] for name in self.class_names], np.int32)  # Of the classes of this stream.
        dtype = np.uint8 if self.scale is None else np.float32
        n_past, no_images = len(past.tasks), (np.zeros((0, *self.image_shape), dtype), np.zeros(0, np.int32))

        def shifted(parts: Mapping[int, Part]) -> dict[int, Part]:
            return {n_past + task: _freeze(x, numbers[indices]) for task, (x, indices) in parts.items()}

        return replace(
            self,
            name=past.name,
            tasks=(*_indices(past.tasks), *(tuple(numbers[list(task)].tolist()) for task in self.tasks)),
            classes=(*old, *classes),
            class_names=tuple(number),
            fingerprint=f"{past.fingerprint}+{self.fingerprint}",
            n_past=n_past,
            scale=past.scale,
            _train=shifted(self._train),
            _validation=dict.fromkeys(range(n_past), no_images) | shifted(self._validation),
            _test=dict.fromkeys(range(n_past), no_images) | shifted(self._test),
            _train_counts=(*past.train_counts, *self._train_counts),
        )

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    @property
    def n_classes(self) -> int:
        """Number of classes, K."""
        return len(self.classes)

    @property
    def test_count(self) -> int:
        """Number of test images of all classes."""
        return sum(len(indices) for _, indices in self._test.values())

    def train_counts(self, task: int) -> tuple[int, ...]:
        """Number of training images (without held-out ones) of each class of any task, also of finished tasks.

        Raises:
          DataError: if there is no such task.
        """
        return self._train_counts[self._known(task)]

    def n_seen(self, task: int) -> int:
        """Number of classes seen when `task` is finished; 0 for task -1."""
        return len(classes_of(self.tasks[: task + 1]))

    def repeated(self, task: int) -> tuple[str, ...]:
        """Names of the classes of `task` that an earlier task has, too."""
        earlier = self.n_seen(task - 1)
        return tuple(self.class_names[index] for index in self.tasks[task] if index < earlier)

    def begin(self, task: int) -> None:
        """Begins `task` and drops the images of all earlier tasks. Tasks may be skipped, as in a resumed run.

        Beginning the current task again changes nothing.

        Raises:
          PastTaskError: if a later task has begun.
          DataError: if there is no such task, or its images are not available.
        """
        self._known(task)
        if task < self.n_past:
            raise DataError(
                f"task {task} belongs to an earlier stream, whose images are not available here; this stream begins "
                f"with task {self.n_past}. Resume with the images of task {task} first."
            )
        if self.current is not None and task < self.current:
            raise PastTaskError(
                f"task {task} is finished and task {self.current} has begun; a stream cannot go back, make a new one."
            )
        self.current = task
        for parts in (self._train, self._validation) if self.protocol == "strict" else (self._train,):
            for past in range(task):
                parts.pop(past, None)

    def train(self, task: int) -> Part:
        """Training images of the current task.

        Returns:
          Images, uint8 [n, h, w, c], or scaled vectors, float32 [n, 1, 1, d], and class indices, int32 [n]; sorted by
          class, then in stored order; read-only.

        Raises:
          PastTaskError: if `task` is finished.
          FutureTaskError: if `task` has not begun.
          DataError: if there is no such task.
        """
        self._require_current(task, "training")
        return self._scaled(self._train[task])

    def validation(self, task: int) -> Part:
        """Held-out training images: of the current task (protocol "strict"), or of all tasks so far ("paper").

        Only the protocol "paper" reads real images of earlier tasks, to choose an epoch as the authors' code does.
        Returns and raises as `train`; the arrays are empty if nothing was held out.
        """
        self._require_current(task, "validation")
        first = 0 if self.protocol == "paper" else task
        return self._scaled(_join([self._validation[t] for t in range(first, task + 1)]))

    def test(self, task: int) -> Part:
        """Test images of all classes up to and including those of `task`, the current one or a finished one.

        Only for evaluation. Returns as `train`, and raises as `train` except that no past task is refused.
        """
        self._require_begun(task, "test")
        return self._scaled(_join([self._test[t] for t in range(task + 1)]))

    def _scaled(self, part: Part) -> Part:
        """A part as the networks see it: vectors are scaled, images stay as they are."""
        images, indices = part
        return part if self.scale is None else _freeze(self.scale.scaled(images[:, 0, 0]), indices)

    def _known(self, task: int) -> int:
        if not 0 <= task < self.n_tasks:
            raise DataError(f"task={task}: the stream has {self.n_tasks} tasks; expected 0..{self.n_tasks - 1}.")
        return task

    def _require_begun(self, task: int, what: str) -> None:
        if self.current is None or self._known(task) > self.current:
            now = "no task has begun" if self.current is None else f"the current task is {self.current}"
            raise FutureTaskError(
                f"{what} images of task {self._known(task)} were requested, but {now}; "
                f"call begin({task}) once the tasks before it are learnt."
            )

    def _require_current(self, task: int, what: str) -> None:
        self._require_begun(task, what)
        if task != self.current:
            raise PastTaskError(
                f"{what} images of task {task} were requested during task {self.current}; the protocol forbids real "
                "images of past tasks; replay them from the generative memory."
            )


def without_images(
    past: Past, *, image_shape: tuple[int, int, int], stored_shape: tuple[int, ...], protocol: Protocol
) -> TaskStream:
    """The stream of tasks that are all learnt and whose images no longer exist."""
    return TaskStream(
        name=past.name,
        part_name=past.name,
        tasks=_indices(past.tasks),
        classes=classes_of(past.tasks),
        class_names=past.class_names,
        image_shape=image_shape,
        stored_shape=stored_shape,
        fingerprint=past.fingerprint,
        protocol=protocol,
        n_past=len(past.tasks),
        scale=past.scale,
        _train={},
        _validation={},
        _test={},
        _train_counts=past.train_counts,
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
      dataset: the data set; the stream copies its images, or vectors, and keeps no reference to it.
      classes_per_task: one number for all tasks, which must divide the number of classes, or one number per task.
      class_order: all labels in order of arrival; by default ascending.
      held_out: share of the training images of every class, in [0, 1), that is held out for `TaskStream.validation`.
      protocol: "strict", or "paper" to validate on real images of all tasks so far.
      seed: chooses the held-out images; it does not matter in which order classes arrive.

    Returns:
      A stream before its first task: call `begin(0)`.

    Raises:
      DataError: if the arguments do not fit the data set, or a class has too few images to hold some out.
    """
    if protocol not in get_args(Protocol):
        raise DataError(f"protocol={protocol!r}: expected one of {', '.join(get_args(Protocol))}.")
    if not 0 <= held_out < 1:
        raise DataError(f"held_out={held_out}: expected a share in [0, 1), e.g. 0.1.")
    classes = dataset.labels if class_order is None else check_order(class_order, dataset.labels)
    tasks = _successive(task_sizes(classes_per_task, len(classes)))
    kept, held = _hold_out(dataset, classes, held_out, seed)
    test_rows = rows_of(dataset.y_test)
    tested = [test_rows[label] for label in classes]
    train, validation = (_parts(dataset.x_train, rows, tasks) for rows in (kept, held))
    test = _parts(dataset.x_test, tested, tasks)
    image_shape = dataset.x_train.shape[1:]
    return TaskStream(
        name=dataset.name,
        part_name=dataset.name,
        tasks=tasks,
        classes=classes,
        class_names=tuple(dataset.class_names[label] for label in classes),
        image_shape=image_shape,
        stored_shape=dataset.stored_shape or image_shape,
        fingerprint=_checksum(*train.values(), *validation.values(), *test.values()),
        protocol=protocol,
        scale=scale_of(train[0][0][:, 0, 0]) if dataset.are_vectors else None,
        _train=train,
        _validation=validation,
        _test=test,
        _train_counts=tuple(tuple(len(kept[index]) for index in task) for task in tasks),
    )


def _hold_out(dataset: Dataset, classes: Sequence[int], share: float, seed: int) -> tuple[list[Labels], list[Labels]]:
    """Rows of the training images of each class: those that are kept, and those that are held out."""
    kept, held, rows_by_label = [], [], rows_of(dataset.y_train)
    numbers = {label: number for number, label in enumerate(dataset.labels)}
    for label in classes:
        rows = rows_by_label[label]
        n_held = round(share * len(rows))
        if share and not 0 < n_held < len(rows):
            raise DataError(
                f"held_out={share} of the {len(rows)} training images of class {label} gives {n_held} for "
                f"validation and {len(rows) - n_held} for training; expected at least 1 of each: "
                "change held_out or add images."
            )
        if not n_held:
            kept.append(rows)
            held.append(rows[:0])
            continue
        shuffled = np.random.default_rng([seed, numbers[label]]).permutation(rows)
        kept.append(np.sort(shuffled[n_held:]))
        held.append(np.sort(shuffled[:n_held]))
    return kept, held


def _successive(sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Groups of these sizes of the numbers 0, 1, 2, ..."""
    numbers = itertools.count()
    return tuple(tuple(itertools.islice(numbers, size)) for size in sizes)


def _indices(tasks: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Tasks given by labels, by class indices."""
    index = {label: number for number, label in enumerate(classes_of(tasks))}
    return tuple(tuple(index[label] for label in task) for task in tasks)


def _parts(images: Images, rows_of: Sequence[Labels], tasks: Sequence[Sequence[int]]) -> dict[int, Part]:
    """Copies the images of each task; separate copies, so that memory is freed when the stream drops one."""
    parts = {}
    for number, task in enumerate(tasks):
        rows = np.concatenate([rows_of[index] for index in task])
        indices = np.concatenate([np.full(len(rows_of[index]), index, np.int32) for index in task])
        parts[number] = _freeze(images[rows], indices)
    return parts


def _checksum(*parts: Part) -> str:
    value = 0
    for images, indices in parts:
        value = zlib.crc32(indices.tobytes(), zlib.crc32(images.tobytes(), value))
    return f"{value:08x}"


def _join(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    images, indices = zip(*parts, strict=True)
    return _freeze(np.concatenate(images), np.concatenate(indices))


def _freeze(images: Images, indices: Indices) -> Part:
    """Makes both arrays read-only, because a stream returns its arrays without copying them."""
    images.flags.writeable = indices.flags.writeable = False
    return images, indices


def describe(stream: TaskStream) -> dict[str, object]:
    """Describes a stream by its data, class order, tasks and counts; different streams differ in one of them."""
    scaled = {}
    if stream.scale is not None:
        scaled = {"scale": {name: array.tolist() for name, array in vars(stream.scale).items()}}
    return {
        "dataset": stream.name,
        "fingerprint": stream.fingerprint,
        "tasks": [[stream.classes[c] for c in task] for task in stream.tasks],
        "image_shape": list(stream.image_shape),
        "train_counts": [list(stream.train_counts(t)) for t in range(stream.n_tasks)],
        **scaled,
    }
