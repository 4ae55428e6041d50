"""One unmasked generator for all classes, retrained at every task: what dgr and mergan have in common.

It is DGM's network with every gate open, trained by DGM's step: nothing is protected, nothing grows, and one norm and
one output layer serve all classes.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np

from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import Memory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.methods.method import (
    InProgress,
    Learnt,
    Method,
    Plan,
    Setting,
    TaskInput,
    Tree,
    Watch,
    bytes_of_arrays,
    with_total,
)
from dgm_jax.training import task as tasks
from dgm_jax.training.classifier import init_classifier
from dgm_jax.training.epoch import ReplayedImages, TaskImages, padded
from dgm_jax.training.state import Capacity, TrainState, from_tree, to_tree
from dgm_jax.training.step import Step
from dgm_jax.training.trainer import TaskTraining
from dgm_jax.types import DiscriminatorParams, Statistics, norms_from_tree, params_to_tree, statistics_from_tree

Keys = dict[str, jax.Array]  # By what they are for.

_ABOUT_GATES = {"scale", "open_share", "sparsity", "sparsity_term"}  # Metrics of DGM's step that say nothing here.


def without_gates(means: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The metrics of each seed that say something where every gate is open."""
    return [{name: mean for name, mean in own.items() if name not in _ABOUT_GATES} for own in means]


@dataclass(frozen=True)
class State:
    """What one seed knows between two tasks."""

    classifier: Classifier
    generator: Memory | None = None  # None before the first task.
    discriminator: tuple[DiscriminatorParams, list[Statistics]] | None = None


@dataclass
class Training(InProgress[State]):
    """A task in progress, of all seeds side by side."""

    data: list[TaskImages]  # What each seed learns from, on the host.
    running: TaskTraining
    nothing_replayed: Any  # Replayed images are part of the data already.


class UnmaskedGenerator(Method[State, Training]):
    """Holds a generator, its discriminator, and the classifier that was learnt last."""

    step: type[Step] = Step
    conditional = True  # Whether the noise carries the class.
    random_uses: ClassVar[tuple[str, ...]]  # What a task's key is split for, in this order.

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings and devices."""
        super().__init__(setting)
        config = self.config.with_changes(
            variant="dgma",
            masks="none",
            gate_position="last",
            gate_gradient="closed",
            sparsity_weight=0.0,
            auxiliary_generator=self.conditional,
            replay_steps=1,
        )
        self.networks = tasks.Networks(
            config,
            channels=setting.image_shape[2],
            n_classes=setting.n_classes,
            max_heads=1,
            conditional=self.conditional,
        )
        self.trainer = setting.trainer(self.networks, self.step)
        self.widths = self.networks.first_widths

    # ---- What a subclass says ----

    @abstractmethod
    def data(self, task: int, own: TaskInput[State], keys: Keys, watch: Watch) -> TaskImages:
        """What the networks learn from: new images and, if the method mixes them in, replayed ones."""

    @abstractmethod
    def classifier_data(self, training: Training, run: int, state: State, keys: Keys) -> TaskImages:
        """What the classifier learns from after a task."""

    def adapt(self, capacity: Capacity, begun: TrainState, state: State) -> Capacity:
        """Adds to the capacity what the method's step needs, of the begun training or of the state before it."""
        return capacity

    # ---- The interface ----

    def new_state(self, key: jax.Array) -> State:
        """Fresh networks."""
        channels, n_classes = self.networks.channels, self.networks.n_classes
        new = init_classifier(jax.random.fold_in(key, 0), self.config, channels=channels, n_classes=n_classes)
        return State(self.setting.classifier(new.params, new.statistics, -1))

    def plan(self, task: int, states: Sequence[State]) -> Plan:
        """The epochs and steps of DGM."""
        physical = tuple(self.widths)
        compiles = self.trainer.is_new_shape(physical, len(states))
        return Plan(self.config.gan.epochs, self.setting.steps_per_epoch(task), compiles=compiles)

    def begin(self, task: int, inputs: Sequence[TaskInput[State]], watch: Watch) -> Training:
        """Draws what is replayed, and places both networks on the devices, as the task before left them."""
        keys = [self._keys(task, own) for own in inputs]
        data = [self.data(task, own, key, watch) for own, key in zip(inputs, keys, strict=True)]
        with watch.phase("begin"):
            begun, train_keys = [], []
            for own, images, key in zip(inputs, data, keys, strict=True):
                begin_key, steps_key = jax.random.split(key["train"])
                begun.append((*self._begin(task, own, begin_key), images))
                train_keys.append(steps_key)
            # Task 0: the images are a mixture already, and no other replay is added.
            running = TaskTraining(self.trainer, begun, train_keys, task=0, steps=self.setting.steps_per_epoch(task))
            none = ReplayedImages(self.setting.room(1, 1), np.zeros((1, 1), np.int32), np.zeros(1, np.int32))
            nothing = self.trainer.stack_runs([none] * len(inputs))
        return Training(task, inputs, [own.state for own in inputs], data, running, nothing)

    def _begin(self, task: int, own: TaskInput[State], key: jax.Array) -> tuple[TrainState, Capacity]:
        old = own.state.generator
        state, capacity = tasks.begin_task(
            self.networks,
            key,
            old.kernels if old else self.networks.new_kernels(key, self.widths),
            self._nothing_reserved(),
            physical=self.widths,
            classes=range(self.setting.n_seen(task)),
            discriminator=own.state.discriminator,
        )
        if old is not None:
            kept = old.tasks[0]
            generator = replace(state.generator, norms=kept.norms, heads=kept.heads[:1])
            state = replace(state, generator=generator, generator_statistics=kept.statistics)
        capacity = self.adapt(capacity, state, own.state)
        return from_tree(state, own.in_progress["state"]) if own.in_progress else state, capacity

    def train_epoch(self, training: Training, epoch: int, watch: Watch) -> list[dict[str, float]]:
        """One epoch, as long as DGM's."""
        with watch.phase("train", training.running.steps, epoch=epoch) as on_steps:
            means = training.running.run_epoch(training.nothing_replayed, epoch, [self.widths], on_steps)
        return without_gates(means)

    def in_progress(self, training: Training) -> list[Tree]:
        """Both networks and their moments."""
        return [{"state": to_tree(state)} for state in training.running.states()]

    def end(self, training: Training, watch: Watch) -> list[Learnt[State]]:
        """Keeps both networks, and trains a fresh classifier as DGM's is consolidated."""
        task, states = training.task, []
        for own, train_state in zip(training.inputs, training.running.states(), strict=True):
            host = jax.device_get(train_state)
            kernels, frozen = tasks.freeze(self.networks, host, self.widths, classes=self._known(task), n_heads=1)
            discriminator = (host.discriminator, host.discriminator_statistics)
            states.append(replace(own.state, generator=self._memory(kernels, frozen), discriminator=discriminator))
        keys = [self._keys(task, own) for own in training.inputs]
        with watch.phase("consolidate", self.config.consolidation.consolidation_steps) as on_steps:
            consolidated = self.trainer.consolidate(
                [own["classifier"] for own in keys],
                [self.classifier_data(training, run, state, keys[run]) for run, state in enumerate(states)],
                self.setting.seen(task),
                on_steps=on_steps,
            )
        learnt = []
        for state, (learner, means) in zip(states, consolidated, strict=True):
            classifier = self.setting.classifier(learner.params, learner.statistics, task)
            learnt.append(Learnt(replace(state, classifier=classifier), {"classifier": classifier}, means))
        return learnt

    def replayed(self, task: int, own: TaskInput[State], key: jax.Array, watch: Watch) -> tuple[np.ndarray, np.ndarray]:
        """For each earlier class as many images as the current task has per class, with the classes asked for."""
        old, each = range(self.setting.n_seen(task - 1)), self.setting.images_per_class(task)
        images = [self.setting.room(0)]
        with watch.phase("replay", len(old)) as on_class:
            for index in old:
                assert own.state.generator is not None
                images.append(own.state.generator.images(index, each, jax.random.fold_in(key, index)))
                on_class(1)
        return np.concatenate(images), np.repeat(np.asarray(old, np.int32), each)

    def mixture(self, *parts: tuple[np.ndarray, np.ndarray]) -> TaskImages:
        """Several sets of images and labels as one, with room for the largest."""
        room = self.setting.n_classes * max(map(max, self.setting.counts))
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return padded(images, labels, max(room, len(images), self.config.gan.batch_size))

    def to_tree(self, state: State) -> tuple[Tree, dict[str, Any]]:
        """All networks."""
        tree: Tree = {"params": state.classifier.params, "statistics": state.classifier.statistics}
        if state.generator is not None:
            kept = state.generator.tasks[0]
            tree["generator"] = {
                "kernels": list(state.generator.kernels),
                "norms": kept.norms,
                "statistics": kept.statistics,
                "heads": kept.heads[:1],
            }
            tree["discriminator"] = list(state.discriminator or ())
            return params_to_tree(tree), {"n_conditioned": kept.n_conditioned}
        return params_to_tree(tree), {}

    def from_tree(self, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> State:
        """Undoes `to_tree`; class heads are widened if the stream has more classes now."""
        task, trained = finished_tasks - 1, self.setting.trained
        classifier = self.setting.classifier(*trained(tree["params"], tree["statistics"]), task)
        if "generator" not in tree:
            return State(classifier)
        own = tree["generator"]
        frozen = TaskMemory(
            classes=self._known(task),
            widths=tuple(self.widths),
            masks=[np.ones(width, bool) for width in self.widths],
            norms=norms_from_tree(own["norms"]),
            statistics=statistics_from_tree(own["statistics"]),
            heads=own["heads"],
            # If the stream has more classes now, the generator still expects the noise that it was trained with.
            n_conditioned=plain.get("n_conditioned", self.networks.n_conditioned),
        )
        return State(classifier, self._memory(own["kernels"], frozen), trained(*tree["discriminator"]))

    def memory_bytes(self, state: State) -> dict[str, int]:
        """The generator, the discriminator that the next task begins with, and what labels replayed images."""
        tree, _ = self.to_tree(state)
        parts = {name: bytes_of_arrays(tree.get(name, ())) for name in ("generator", "discriminator")}
        if not self.conditional:  # Otherwise the class that was asked for is the label.
            parts["classifier"] = bytes_of_arrays((tree["params"], tree["statistics"]))
        return with_total(parts)

    def _known(self, task: int) -> tuple[int, ...]:
        return tuple(range(self.setting.n_seen(task)))

    def _keys(self, task: int, own: TaskInput[State]) -> Keys:
        key = jax.random.fold_in(own.key, task + 1)
        return dict(zip(self.random_uses, jax.random.split(key, len(self.random_uses)), strict=True))

    def _memory(self, kernels: list[np.ndarray], frozen: TaskMemory) -> Memory:
        """The generator as a memory of one task, whose one output layer serves all classes."""
        heads = np.broadcast_to(frozen.heads, (len(frozen.classes), *frozen.heads.shape[1:]))
        return self.setting.memory(kernels, self._nothing_reserved(), (replace(frozen, heads=heads),))

    def _nothing_reserved(self) -> list[np.ndarray]:
        return [np.zeros(width, bool) for width in self.widths]
