"""What the methods without a generator have in common: they train one classifier, task after task.

Network, steps, step size, batch and augmentation are those of DGM's consolidated classifier, so that the budget after a
task is the same; unlike that one, these classifiers continue from where the task before left them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import numpy as np
from flax import serialization

from dgm_jax.memory.classifier import Classifier
from dgm_jax.methods.method import (
    InProgress,
    Learnt,
    Method,
    Plan,
    Predictor,
    Setting,
    TaskInput,
    Tree,
    Watch,
    bytes_of_arrays,
    with_total,
)
from dgm_jax.training.classifier import CLASSIFIER_METRICS, ClassifierState, Loss, init_classifier, start_training
from dgm_jax.training.epoch import TaskImages, padded
from dgm_jax.training.task import Networks
from dgm_jax.types import DiscriminatorParams, Statistics, params_to_tree

_STEPS_PER_EPOCH = 100  # These methods count steps; between two epochs a run can be interrupted.


@dataclass(frozen=True)
class State:
    """What one seed knows between two tasks."""

    params: DiscriminatorParams  # Of the classifier.
    statistics: list[Statistics]
    kept: dict[str, Any] = field(default_factory=dict)  # Arrays by name, such as real images of earlier tasks.


@dataclass
class Training(InProgress[State]):
    """A task in progress, of all seeds side by side."""

    keys: list[tuple[jax.Array, ...]]  # For each seed, one to train with and one for the method.
    classifier: ClassifierState  # Of all seeds, on the devices, as are the next two.
    sources: tuple[TaskImages, ...]
    anchor: Any
    totals: list[np.ndarray]  # For each seed, sums of the metrics over all steps so far.


class ClassifierMethod(Method[State, Training]):
    """A method whose state is one classifier and some arrays. A subclass says what the classifier learns from."""

    loss: Loss | None = None  # None: the cross-entropy over the classes seen.
    starts_fresh: ClassVar[bool] = (
        False  # Whether each task begins with a fresh classifier, not that of the task before.
    )

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings and devices."""
        super().__init__(setting)
        self.networks = Networks(self.config, setting.image_shape[2], setting.n_classes, max_heads=1)
        self.trainer = setting.trainer(self.networks)

    # ---- What a subclass says ----

    def sources(self, state: State, images: np.ndarray, labels: np.ndarray) -> tuple[TaskImages, ...]:
        """Where mini-batches come from, each source giving an equal part; here the task's images."""
        return (padded(images, labels, self.setting.largest_task),)

    def anchor(self, task: int, state: State) -> Any:
        """Arrays that the loss needs besides."""

    def remember(self, task: int, state: State, images: np.ndarray, labels: np.ndarray, key: jax.Array) -> State:
        """What is kept of a task once its classifier is trained; here nothing."""
        return state

    def reading(self, task: int, state: State) -> Predictor:
        """What predicts classes after a task; here the classifier."""
        return self.classifier(task, state)

    def kept_bytes(self, state: State) -> dict[str, int]:
        """Bytes of what is kept of old classes, by part; here nothing."""
        return {}

    # ---- The interface ----

    def new_state(self, key: jax.Array) -> State:
        """A fresh classifier."""
        return self.fresh(jax.random.fold_in(key, 0))

    def fresh(self, key: jax.Array) -> State:
        """A fresh classifier, and nothing kept."""
        channels, n_classes = self.networks.channels, self.networks.n_classes
        new = init_classifier(key, self.config, channels=channels, n_classes=n_classes)
        return State(new.params, new.statistics)

    def classifier(self, task: int, state: State) -> Classifier:
        """The state's classifier, which knows the classes up to a task."""
        return self.setting.classifier(state.params, state.statistics, task)

    def plan(self, task: int, states: Sequence[State]) -> Plan:
        """As many steps for every task, whatever its size."""
        steps = self.config.consolidation.consolidation_steps
        return Plan(epochs=-(-steps // _STEPS_PER_EPOCH), steps=min(steps, _STEPS_PER_EPOCH))

    def begin(self, task: int, inputs: Sequence[TaskInput[State]], watch: Watch) -> Training:
        """Places the classifier and what it learns from on the devices."""
        with watch.phase("begin"):
            keys = [tuple(jax.random.split(jax.random.fold_in(own.key, task + 1))) for own in inputs]
            starts = [
                self.fresh(key) if self.starts_fresh else own.state for own, (_, key) in zip(inputs, keys, strict=True)
            ]
            learners = [start_training(own.params, own.statistics, self.config) for own in starts]
            totals = [np.zeros(len(CLASSIFIER_METRICS)) for _ in inputs]
            for run, own in enumerate(inputs):
                if own.in_progress:
                    learners[run] = serialization.from_state_dict(learners[run], own.in_progress["training"])
                    totals[run] = own.in_progress["totals"]
            sources = zip(*(self.sources(own.state, own.images, own.labels) for own in inputs), strict=True)
            return Training(
                task,
                inputs,
                [own.state for own in inputs],
                keys,
                self.trainer.stack_runs(learners),
                tuple(map(self.trainer.stack_runs, sources)),
                self.trainer.stack_runs([self.anchor(task, own.state) for own in inputs]),
                totals,
            )

    def train_epoch(self, training: Training, epoch: int, watch: Watch) -> list[dict[str, float]]:
        """Trains for a hundred steps, or those that are left."""
        start = epoch * _STEPS_PER_EPOCH
        stop = min(start + _STEPS_PER_EPOCH, self.config.consolidation.consolidation_steps)
        with watch.phase("train", stop - start, epoch=epoch) as on_steps:
            training.classifier, means = self.trainer.train_classifier(
                training.classifier,
                training.sources,
                self.setting.seen(training.task),
                [train_key for train_key, _ in training.keys],
                start=start,
                stop=stop,
                on_steps=on_steps,
                loss=self.loss,
                anchor=training.anchor,
            )
        for run, own in enumerate(means):
            training.totals[run] = training.totals[run] + (stop - start) * np.asarray(list(own.values()))
        return [{name.replace("consolidation", "classifier"): value for name, value in own.items()} for own in means]

    def in_progress(self, training: Training) -> list[Tree]:
        """Weights, moments, and sums of the metrics of each seed."""
        learners = self.trainer.split_runs(training.classifier, len(training.inputs))
        return [
            {"training": serialization.to_state_dict(jax.device_get(own)), "totals": totals}
            for own, totals in zip(learners, training.totals, strict=True)
        ]

    def end(self, training: Training, watch: Watch) -> list[Learnt[State]]:
        """Keeps what the method keeps of a task."""
        learners = self.trainer.split_runs(training.classifier, len(training.inputs))
        learnt = []
        with watch.phase("remember"):
            for run, (own, learner) in enumerate(zip(training.inputs, learners, strict=True)):
                learner = jax.device_get(learner)
                state = replace(own.state, params=learner.params, statistics=learner.statistics)
                state = self.remember(training.task, state, own.images, own.labels, training.keys[run][1])
                means = (training.totals[run] / self.config.consolidation.consolidation_steps).tolist()
                readings = {"classifier": self.reading(training.task, state)}
                learnt.append(Learnt(state, readings, dict(zip(CLASSIFIER_METRICS, means, strict=True))))
        return learnt

    def to_tree(self, state: State) -> tuple[Tree, dict[str, Any]]:
        """The classifier, and the arrays that are kept."""
        return params_to_tree({"params": state.params, "statistics": state.statistics, **state.kept}), {}

    def from_tree(self, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> State:
        """Undoes `to_tree`; the class head is widened if the stream has more classes now."""
        kept = {name: own for name, own in tree.items() if name not in ("params", "statistics", "training", "totals")}
        return State(*self.setting.trained(tree["params"], tree["statistics"]), kept)

    def memory_bytes(self, state: State) -> dict[str, int]:
        """What is kept of old classes, and the classifier if the next task begins with it."""
        needed = {} if self.starts_fresh else {"classifier": bytes_of_arrays((state.params, state.statistics))}
        return with_total(self.kept_bytes(state) | needed)
