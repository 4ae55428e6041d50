"""What a method of class-incremental learning is: the interface between a method and the loop over tasks.

A method learns one task after the other, for one seed or for several side by side. Between two tasks all that it knows
lies in a *state*, one for each seed, which a checkpoint can hold. While a task is learnt, all that training needs lies
in a *training*, one for all seeds. To add a method, write a file with a subclass and name it in `methods/__init__.py`
(docs/extend.md).
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import jax
import numpy as np

from dgm_jax.config import Config, MethodSettings
from dgm_jax.data.order import classes_of
from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import Memory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.models.discriminator import for_classes
from dgm_jax.system.worker import Worker
from dgm_jax.training.step import Step
from dgm_jax.training.task import Networks
from dgm_jax.training.trainer import Trainer
from dgm_jax.types import DiscriminatorParams, Scale, Statistics, statistics_from_tree
from dgm_jax.types import Tree as Tree

State = TypeVar("State")
Training = TypeVar("Training", bound="InProgress")


@dataclass(frozen=True)
class Setting:
    """What is known before the first task: the settings, the machine, and the outline of the stream."""

    config: Config
    devices: Sequence[jax.Device]
    backend: str  # "pmap" or "shard_map".
    runs_apart: bool  # Whether devices train whole seeds, each its own, instead of parts of a mini-batch.
    image_shape: tuple[int, int, int]  # (1, 1, d) for vectors.
    stored_shape: tuple[int, ...]  # Of the images before they were resized.
    tasks: tuple[tuple[int, ...], ...]  # Class indices of each task; a later task may bring a class again.
    counts: tuple[tuple[int, ...], ...]  # Training images of each class of each task.
    labels: tuple[int, ...]  # The data set's label of each class.
    names: tuple[str, ...]  # The name of each class.
    scale: Scale | None = None  # Of vectors; None for images.
    worker: Worker = field(default_factory=lambda: Worker(()))  # Compiles ahead.

    @property
    def n_tasks(self) -> int:
        """Tasks of the whole stream."""
        return len(self.tasks)

    @property
    def n_classes(self) -> int:
        """Classes of the whole stream."""
        return len(self.labels)

    @property
    def largest_task(self) -> int:
        """Room for the training images of a task: of the largest one, or for a mini-batch, if that is more."""
        return max(self.config.gan.batch_size, *map(sum, self.counts))

    @property
    def are_vectors(self) -> bool:
        """Whether the stream has vectors, scaled float32 [n, 1, 1, d], and not images, uint8 [n, h, w, c]."""
        return self.config.data.are_vectors

    def room(self, *axes: int) -> np.ndarray:
        """An array for images, or vectors, of the stream: zeros [*axes, h, w, c]."""
        return np.zeros((*axes, *self.image_shape), np.float32 if self.are_vectors else np.uint8)

    def trainer(self, networks: Networks, step: type[Step] = Step) -> Trainer:
        """The compiled programs of the run."""
        return Trainer(
            networks, self.devices, backend=self.backend, runs_apart=self.runs_apart, step=step, worker=self.worker
        )

    def n_seen(self, task: int) -> int:
        """Classes seen once a task is learnt; 0 for task -1."""
        return len(classes_of(self.tasks[: task + 1]))

    def seen(self, task: int) -> np.ndarray:
        """The classes seen once a task is learnt, bool [classes]."""
        return np.arange(self.n_classes) < self.n_seen(task)

    def images_per_class(self, task: int) -> int:
        """Training images per class of a task, on average. A task smaller than a mini-batch counts as a whole one."""
        return round(max(sum(self.counts[task]), self.config.gan.batch_size) / len(self.tasks[task]))

    def steps_per_epoch(self, task: int) -> int:
        """Mini-batches of a task's images in an epoch: at least one, in which the images of a small task repeat."""
        return max(1, sum(self.counts[task]) // self.config.gan.batch_size)

    def classifier(self, params: Any, statistics: Any, task: int, *, network: str | None = None) -> Classifier:
        """A trained classifier of the classes seen once a task is learnt; `network` defaults to that of classifiers."""
        n, network = self.n_seen(task), network or self.config.classifier_network
        facts: dict[str, Any] = {"labels": self.labels[:n], "names": self.names[:n], "scale": self.scale}
        return Classifier(params, statistics, network, image_shape=self.image_shape, **facts)

    def trained(self, params: Tree, statistics: Tree) -> tuple[DiscriminatorParams, list[Statistics]]:
        """Undoes `params_to_tree` for a network and its norms; its class head gets outputs for the stream's classes."""
        return for_classes(DiscriminatorParams.from_tree(params), self.n_classes), statistics_from_tree(statistics)

    def memory(self, kernels: list[np.ndarray], reserved: list[np.ndarray], tasks: tuple[TaskMemory, ...]) -> Memory:
        """A generative memory of the stream's classes."""
        config = self.config
        return Memory(
            kernels,
            reserved,
            tasks,
            noise_dim=config.networks.noise_dim,
            network=config.networks.network,
            image_size=config.data.image_size,
            labels=self.labels,
            names=self.names,
            gate_before_norm=config.gates.gate_position == "before_norm",
            scale=self.scale,
        )

    def bytes_of(self, n_images: int) -> int:
        """Bytes of `n_images` images as the data set stores them; of vectors, as float32."""
        return n_images * math.prod(self.stored_shape) * (4 if self.are_vectors else 1)


@dataclass(frozen=True)
class Plan:
    """What learning a task will take."""

    epochs: int  # A run can be interrupted and resumed between any two.
    steps: int  # Mini-batches in an epoch.
    widths: tuple[int, ...] = ()  # Of the generator's layers, for the widest of the seeds.
    physical_widths: tuple[int, ...] = ()  # As arrays are padded.
    compiles: bool = False  # The first step waits until its program is compiled.


@dataclass(frozen=True)
class TaskInput(Generic[State]):
    """What one seed brings into a task."""

    key: jax.Array  # The seed's.
    state: State
    images: np.ndarray  # uint8 [n, h, w, c], or scaled vectors, float32 [n, 1, 1, d], of the task's classes.
    labels: np.ndarray  # Class indices [n].
    validation: tuple[np.ndarray, np.ndarray] | None = None  # Held-out images of all classes so far (paper protocol).
    in_progress: Tree | None = None  # What `Method.in_progress` gave when the task was interrupted.


class Predictor(Protocol):
    """A trained classifier, as far as evaluation needs it."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores images, as `TaskInput` has them, for every class, [n, classes]; the highest is the prediction."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of such images, [n, features]; only needed if the method has a memory."""


@dataclass(frozen=True)
class Learnt(Generic[State]):
    """What one seed takes out of a task."""

    state: State
    classifiers: Mapping[str, Predictor]  # One for each of `Method.readings`.
    metrics: dict[str, float] = field(default_factory=dict)  # Means over the training of the classifier that is asked.
    capacity: list[dict[str, Any]] = field(default_factory=list)  # What the task used of each layer.
    notes: tuple[str, ...] = ()  # What a person should know.


@dataclass(frozen=True)
class Forgotten(Generic[State]):
    """What one seed knows once it has forgotten classes."""

    state: State
    weights: tuple[tuple[int, int], ...] = ()  # Of each class: those it was drawn with, and those that stay for others.
    remains: tuple[str, ...] = ()  # What else the state still holds of them, for a person.


@dataclass
class InProgress(Generic[State]):
    """A task in progress, of all seeds side by side; a method adds what else it needs."""

    task: int
    inputs: Sequence[TaskInput[State]]
    states: Sequence[State]  # Of each seed, as a checkpoint within the task holds it beside what is in progress.


def with_total(parts: Mapping[str, int]) -> dict[str, int]:
    """Bytes by part, and their "total"."""
    return {**parts, "total": sum(parts.values())}


def bytes_of_arrays(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


class Watch:
    """Follows a task; the loop passes one that reports and measures time. This one does neither."""

    @contextmanager
    def phase(self, name: str, total: float = 0, *, epoch: int | None = None) -> Iterator[Callable[[int], None]]:
        """Surrounds a phase of `total` units of work.

        Args:
          name: for example "replay", "train" or "consolidate".
          total: units of work; 0 if progress is not reported.
          epoch: the epoch, if there are several.

        Yields:
          A function to call with n whenever n more units are done.
        """
        yield lambda n: None


class Method(ABC, Generic[State, Training]):
    """A method of class-incremental learning."""

    paper: ClassVar[str]  # The paper that describes it, and what differs here.
    readings: tuple[str, ...] = ("classifier",)  # Its classifiers; the first is the one that counts.
    protocols: ClassVar[tuple[str, ...]] = ("strict",)
    learns_more_of_known: ClassVar[bool] = False  # Whether a task may bring more images of a class that is known.
    checkpoints_kept: ClassVar[int | None] = None  # Of finished tasks; None: all.
    settings: ClassVar[type[MethodSettings]] = MethodSettings  # The class of the settings that only this method has.

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings and stream; computes nothing."""
        self.setting, self.config = setting, setting.config
        self.method_settings: Any = setting.config.method_settings  # Of the class `settings`.

    def with_classes(self, labels: tuple[int, ...], names: tuple[str, ...], scale: Scale | None = None) -> Self:
        """This method, with the same programs, for a stream that is alike except for which classes it consists of."""
        other = copy.copy(self)
        other.setting = replace(self.setting, labels=labels, names=names, scale=scale)
        return other

    @abstractmethod
    def new_state(self, key: jax.Array) -> State:
        """The state before the first task, from the seed's key."""

    @abstractmethod
    def plan(self, task: int, states: Sequence[State]) -> Plan:
        """What learning a task from these states will take."""

    @abstractmethod
    def begin(self, task: int, inputs: Sequence[TaskInput[State]], watch: Watch) -> Training:
        """Begins a task, or takes it up again where `TaskInput.in_progress` says."""

    @abstractmethod
    def train_epoch(self, training: Training, epoch: int, watch: Watch) -> list[dict[str, float]]:
        """Trains for one epoch; returns for each seed the mean of each metric."""

    @abstractmethod
    def in_progress(self, training: Training) -> list[Tree]:
        """For each seed the arrays, on the host, with which `begin` can take the task up again."""

    @abstractmethod
    def end(self, training: Training, watch: Watch) -> list[Learnt[State]]:
        """Ends a task whose epochs are over."""

    def expand(self, task: int, key: jax.Array, state: State) -> State:
        """Makes room after a task for the next one; does nothing more if called again."""
        return state

    def forget(self, state: State, forgotten: Sequence[int], key: jax.Array, watch: Watch) -> Forgotten[State]:
        """Takes classes out of a state; only of methods that can.

        Args:
          state: it knows the classes.
          forgotten: their class indices in the state. This method is bound to a stream without them, in which all tasks
            are learnt and the other classes are numbered anew, without gaps.
          key: the seed's.
          watch: follows the work.
        """
        raise NotImplementedError

    @abstractmethod
    def to_tree(self, state: State) -> tuple[Tree, dict[str, Any]]:
        """The state as a checkpoint holds it: arrays, and plain values that JSON can hold."""

    @abstractmethod
    def from_tree(self, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> State:
        """Undoes `to_tree`; the stream may have more classes than when the checkpoint was written."""

    @abstractmethod
    def memory_bytes(self, state: State) -> dict[str, int]:
        """Bytes of all that is needed to go on learning, by part, and their "total" (`with_total`).

        A part is what is kept of old classes, such as "images" or "generator", or a network that the next task begins
        with or is compared with, such as "classifier". Optimisers begin afresh with each task, so they do not count.
        """

    def memory(self, state: State) -> Memory | None:
        """The memory whose images a run shows and compares with its training images; None if there is none."""
        return None

    def facts(self, state: State) -> dict[str, Any]:
        """Further entries of summary.json."""
        return {"paper": self.paper}

    def advice(self, states: Sequence[State] = ()) -> list[str]:
        """What a person should know before the run begins, or continues from these states."""
        return []

    def estimated_seconds(self, epochs_done: int) -> float | None:
        """A rough guess of the seconds that a run takes from the first task on; None if nothing is known."""
        return None
