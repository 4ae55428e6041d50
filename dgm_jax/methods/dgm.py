"""Dynamic Generative Memory (Ostapenko et al., CVPR 2019): one task from begin to end, in the paper's order.

The order is `begin`; `train_epoch`, which replays earlier classes and trains; `end`, which fixes the masks, reserves
what they open and trains a classifier of all classes; `expand`. The loop that calls them is `runs/session.py`. One
training iteration is in `training/step.py`; on the way there, `TaskTraining` (`training/trainer.py`) keeps the task's
arrays on the devices, and `run_steps` (`training/epoch.py`) draws mini-batches. `Step.generator_step` protects what
earlier tasks reserved (`nn.block`; which weights these are: `nn.reserved_weights`). What a checkpoint holds and what a
run reports is in `dgm_state.py`. Sections are those of the paper; docs/method.md goes through its equations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from dgm_jax import metrics
from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.forgetting import read_weights, weights_of_class
from dgm_jax.memory.memory import Memory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.methods.best_epoch import BestEpoch
from dgm_jax.methods.combined import more_readings
from dgm_jax.methods.confidence import calibrated, known_quotient, real_to_drawn
from dgm_jax.methods.dgm_state import GenerativeMemory, State, without_classes
from dgm_jax.methods.feature_memory import FeatureLearner
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.methods.mean_images import moved_to_means, with_mean_images
from dgm_jax.methods.memory_limit import allowed_growth, require_room, said_of_growth
from dgm_jax.methods.method import Forgotten, InProgress, Learnt, Plan, Setting, TaskInput, Tree, Watch
from dgm_jax.methods.replay import images_of_all_classes, replayed_images, room_for_all_classes
from dgm_jax.training import task as tasks
from dgm_jax.training.epoch import TaskImages, padded
from dgm_jax.training.shapes import physical_widths
from dgm_jax.training.state import Capacity, TrainState, from_tree, to_tree
from dgm_jax.training.trainer import TaskTraining
from dgm_jax.training.warm_start import most_similar_classes


@dataclass
class Training(InProgress[State]):
    """A task in progress, of all seeds side by side."""

    running: TaskTraining
    replayed: Any = None  # Images of earlier classes, on the devices.
    best: list[BestEpoch] = field(default_factory=list)  # One for each seed in the paper protocol.
    is_prepared: bool = False  # Whether what follows the task is being compiled.


class DGM(GenerativeMemory[Training]):
    """Learns with a generative memory whose weights are protected by learnt masks and which grows."""

    paper = "Ostapenko et al. 2019 (arXiv 1904.03137)"
    readings: tuple[str, ...] = ("consolidated", "auxiliary")
    protocols = ("strict", "paper")
    learns_more_of_known = True

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings and devices; compiles nothing yet."""
        super().__init__(setting)
        self.networks = tasks.Networks(
            self.config,
            channels=setting.image_shape[2],
            n_classes=setting.n_classes,
            max_heads=max(map(len, setting.tasks)),
            conditional=self._conditional(setting),
        )
        require_room(self.networks, None, self._sizes_after(-1))
        self.trainer = setting.trainer(self.networks)
        self.features = FeatureLearner(setting) if self.config.features.combined else None
        if self.features:
            self.readings = (*self.readings, "analytic", "combined")

    def _conditional(self, setting: Setting) -> bool:
        """Whether the noise carries the class."""
        return True

    def new_state(self, key: jax.Array) -> State:
        """An empty memory with fresh weights."""
        widths = self.networks.first_widths
        kernels = self.networks.new_kernels(derive_key(key, Purpose.INITIALISE), widths)
        nothing_reserved = [np.zeros(shape, bool) for shape in self.networks.mask_shapes(widths)]
        memory = self.setting.memory(kernels, nothing_reserved, tasks=())
        return State(memory, features=self.features.new() if self.features else None)

    def plan(self, task: int, states: Sequence[State]) -> Plan:
        """Epochs and steps, and the widths at which the task is trained."""
        histories = [[*(earlier.widths for earlier in s.memory.tasks), s.memory.widths] for s in states]
        # Seeds grow at different times. Arrays are sized for the widest seed, so that few shapes must be compiled.
        widest = [tuple(map(max, zip(*widths))) for widths in zip(*histories, strict=True)]
        physical = physical_widths(widest, headroom=self.config.gates.headroom, n_tasks=self.setting.n_tasks)
        return Plan(
            epochs=self.config.gan.epochs,
            steps=self.setting.steps_per_epoch(task),
            widths=widest[-1],
            physical_widths=physical,
            compiles=self.trainer.is_new_shape(physical, len(states)),
        )

    # ---- Begin a task: new masks, norms and output layers; perhaps those of similar classes (warm start) ----

    def begin(self, task: int, inputs: Sequence[TaskInput[State]], watch: Watch) -> Training:
        """Copies to the devices: the shared weights, the new masks (section 3.1), the discriminator, and the images."""
        plan = self.plan(task, [given.state for given in inputs])
        with watch.phase("begin"):
            begun = [self._begin(task, given, plan.physical_widths) for given in inputs]
            running = TaskTraining(
                self.trainer,
                [(train_state, capacity, images) for _, train_state, capacity, images in begun],
                [derive_key(given.key, Purpose.TRAIN, task) for given in inputs],
                task=task,
                steps=plan.steps,
            )
            best = [
                BestEpoch(self.setting, task, given, train_state)
                for given, (_, train_state, *_) in zip(inputs, begun, strict=True)
                if given.validation is not None
            ]
            keys = [derive_key(given.key, Purpose.CONSOLIDATE, task) for given in inputs]
            self.trainer.prepare_consolidation(keys, room_for_all_classes(self.setting), self.setting.seen(task))
        return Training(task, inputs, [state for state, *_ in begun], running, best=best)

    def _begin(
        self, task: int, given: TaskInput[State], physical: tuple[int, ...]
    ) -> tuple[State, TrainState, Capacity, TaskImages]:
        """What one seed begins a task with, on the host."""
        state, memory = given.state, given.state.memory
        similar = [] if given.in_progress else self._similar_classes(task, given)
        if not given.in_progress:
            before = (*state.begun_as, *((),) * task)[:task]
            state = replace(state, begun_as=(*before, tuple(earlier.classes[0] for earlier in similar)))
        kept = None if self.config.gan.reinitialise_discriminator else state.auxiliary
        train_state, capacity = tasks.begin_task(
            self.networks,
            derive_key(given.key, Purpose.BEGIN_TASK, task),
            memory.kernels,
            memory.reserved,
            physical=physical,
            classes=self.setting.tasks[task],
            n_seen=self.setting.n_seen(task),
            discriminator=None if kept is None else (kept.params, kept.statistics),
            similar=similar,
        )
        if given.in_progress:
            train_state = from_tree(train_state, given.in_progress["state"])
        if physical not in state.programs:
            state = replace(state, programs=(*state.programs, physical))
        return state, train_state, capacity, padded(given.images, given.labels, self.setting.largest_task)

    def _similar_classes(self, task: int, given: TaskInput[State]) -> list[TaskMemory]:
        """For each new class, the earlier class to copy norms, output layer and masks from (not in the paper)."""
        state = given.state
        # A discriminator that is kept anyway has a classifier, too.
        classifier = state.classifier if self.config.gan.reinitialise_discriminator else state.auxiliary
        if not self.config.gates.warm_start or classifier is None:
            return []
        predicted = classifier.logits(given.images).argmax(axis=1)
        earlier = state.memory.tasks
        chosen = most_similar_classes(
            predicted, given.labels, self.setting.tasks[task], [finished.classes for finished in earlier]
        )
        # Of several tasks that have all of these classes, the newest.
        sources = [finished for finished in earlier if set(chosen) <= set(finished.classes)]
        return [source.of_class(index) for source in sources[-1:] for index in chosen]

    # ---- Replay earlier classes, and train generator and discriminator (section 3) ----

    def train_epoch(self, training: Training, epoch: int, watch: Watch) -> list[dict[str, float]]:
        """One epoch on the task's real images and replayed ones; the gates' slope grows from epoch to epoch."""
        fresh = self.config.replay.replay == "fresh"
        if training.replayed is None or fresh:
            training.replayed = self._replay(training, epoch if fresh else 0, watch)
        with watch.phase("train", training.running.steps, epoch=epoch) as on_steps:
            shapes = training.states[0].programs
            means = training.running.run_epoch(training.replayed, epoch, shapes, on_steps)
        if self.config.protocol == "paper":
            for run, state in enumerate(training.running.states()):
                means[run]["validation_accuracy"] = training.best[run].offer(state)
        elif epoch + 1 >= self.networks.mask_epochs:
            self._prepare(training)
        return means

    def _prepare(self, training: Training) -> None:
        """Has a second core compile what follows the task: once masks are settled, they say at which shapes."""
        if training.is_prepared or not self.setting.worker.works:
            return
        training.is_prepared, task = True, training.task
        states = [self._freeze(training, run, state).state for run, state in enumerate(training.running.states())]
        key, first_class = training.inputs[0].key, self.setting.tasks[task][0]
        drawn = [partial(state.memory.images, first_class, 1, key) for state in states]
        self.setting.worker.prepare(("sample", task), lambda: [draw() for draw in drawn])
        if task + 1 == self.setting.n_tasks or training.replayed is None:  # None: resumed after the last epoch.
            return
        grown = [self.expand(task, given.key, state) for given, state in zip(training.inputs, states, strict=True)]
        memory, physical = grown[0].memory, self.plan(task + 1, grown).physical_widths
        begin = partial(tasks.begin_task, self.networks, key, memory.kernels, memory.reserved, discriminator=None)
        training.running.prepare_next(
            partial(
                begin, physical=physical, classes=self.setting.tasks[task + 1], n_seen=self.setting.n_seen(task + 1)
            ),
            physical,
            training.replayed,
        )

    def _replay(self, training: Training, epoch: int, watch: Watch) -> Any:
        memories = [state.memory for state in training.states]
        keys = [derive_key(given.key, Purpose.REPLAY, training.task, epoch) for given in training.inputs]
        drawn = replayed_images(memories, self.setting, training.task, keys, watch)
        return self.trainer.stack_runs(drawn)

    def in_progress(self, training: Training) -> list[Tree]:
        """The training state of each seed, and in the paper protocol its best one so far."""
        trees = [{"state": to_tree(state)} for state in training.running.states()]
        return [tree | best.to_tree() for tree, best in zip(trees, training.best)] if training.best else trees

    # ---- Freeze and reserve (section 3.1), consolidate ----

    def end(self, training: Training, watch: Watch) -> list[Learnt[State]]:
        """Fixes what the task learnt, reserves what its masks open, and trains a classifier of all classes."""
        task = training.task
        self._prepare(training)
        frozen = [self._freeze(training, run, state) for run, state in enumerate(training.running.states())]
        keys, states = [given.key for given in training.inputs], [run.state for run in frozen]
        learnt = []
        consolidated = self._consolidate(task, keys, states, watch)
        for run, given, (classifier, means) in zip(frozen, training.inputs, consolidated, strict=True):
            memory, key = run.state.memory, derive_key(given.key, Purpose.CALIBRATE, task)
            quotient = real_to_drawn(classifier, memory, key, given.images, given.labels)
            classifier = calibrated(classifier, memory, key, quotient)
            readings = {"consolidated": classifier, **run.classifiers}
            state = replace(run.state, classifier=classifier)
            learnt.append(replace(run, state=state, classifiers=readings, metrics=means))
        return self._with_features(training, learnt, watch) if self.features else learnt

    def _consolidate(
        self, task: int, keys: Sequence[jax.Array], states: Sequence[State], watch: Watch
    ) -> list[tuple[Classifier, dict[str, float]]]:
        """Trains a classifier of all classes of each state on images that its memory draws; also their metrics."""
        with watch.phase("consolidate", self.config.consolidation.consolidation_steps) as on_steps:
            self.setting.worker.wait(("sample", task))
            sample_keys = [derive_key(key, Purpose.SAMPLE_FOR_CONSOLIDATION, task) for key in keys]
            consolidated = self.trainer.consolidate(
                [derive_key(key, Purpose.CONSOLIDATE, task) for key in keys],
                [self.images_to_consolidate(state, key) for state, key in zip(states, sample_keys, strict=True)],
                self.setting.seen(task),
                on_steps=on_steps,
            )
        return [
            (self.setting.classifier(learner.params, learner.statistics, task), means)
            for learner, means in consolidated
        ]

    def images_to_consolidate(self, state: State, key: jax.Array) -> TaskImages:
        """What the classifier of all classes learns from: drawn images, perhaps moved to the mean of the real ones."""
        drawn = images_of_all_classes(state.memory, self.setting, key)
        if state.means is None or not self.config.consolidation.consolidation_means:
            return drawn
        return moved_to_means(drawn, state.means)

    def _with_features(self, training: Training, learnt: Sequence[Learnt[State]], watch: Watch) -> list[Learnt[State]]:
        """Adds the task's real images to sums of features, which give two more readings (not in the paper)."""
        found = []
        with watch.phase("features", sum(len(given.images) for given in training.inputs)) as on_images:
            for run, given in zip(learnt, training.inputs, strict=True):
                classifier = run.state.classifier
                assert self.features and run.state.features and classifier
                features = self.features.learn(run.state.features, given.key, given.images, given.labels, on_images)
                readings = {**run.classifiers, **more_readings(classifier, features)}
                found.append(replace(run, state=replace(run.state, features=features), classifiers=readings))
        return found

    def _freeze(self, training: Training, run: int, train_state: TrainState) -> Learnt[State]:
        """Makes the masks binary, and reserves what they open: no later task may change it (section 3.1)."""
        memory, classes = training.states[run].memory, self.setting.tasks[training.task]
        if training.best:
            train_state = training.best[run].state or train_state
        train_state = jax.device_get(train_state)
        kernels, finished = tasks.freeze(self.networks, train_state, memory.widths, classes=classes)
        finished = replace(finished, counts=self.setting.counts[training.task])
        rows = metrics.capacity(finished.masks, memory.reserved, *self.networks.gated(kernels))
        reserving, masks = self.config.gates.masks != "none", zip(memory.reserved, finished.masks, strict=True)
        reserved = [before | (mask & reserving) for before, mask in masks]
        memory = replace(memory, kernels=kernels, reserved=reserved, tasks=(*memory.tasks, finished))
        notes = tuple(
            f"task {training.task} closed every gate of layer {row['layer']}: nothing passes through it, and the "
            f"images are useless; try a smaller sparsity_weight than {self.config.gates.sparsity_weight}"
            for row in rows
            if row["used"] == 0
        )
        if self._grows and training.task + 1 < self.setting.n_tasks and self._growth(training.task, memory)[1]:
            notes += (said_of_growth(self.config.gates.memory_limit_kb, training.task),)
        params, statistics = train_state.discriminator, train_state.discriminator_statistics
        network = self.config.networks.network
        auxiliary = self.setting.classifier(params, statistics, training.task, network=network)
        state = replace(training.states[run], memory=memory, auxiliary=auxiliary)
        if self.config.consolidation.consolidation_means:
            given = training.inputs[run]
            means = with_mean_images(state.means, memory.tasks[:-1], given.images, given.labels, classes)
            state = replace(state, means=means)
        return Learnt(state, {"auxiliary": auxiliary}, capacity=rows, notes=notes)

    # ---- Expand (section 3.2) ----

    def expand(self, task: int, key: jax.Array, state: State) -> State:
        """Adds as many gates as the task newly reserved, so that the next one has as many free ones as the first."""
        memory = state.memory
        require_room(self.networks, memory, self._sizes_after(task))  # More tasks may come than when it grew.
        is_expanded = memory.widths != memory.tasks[-1].widths or task in state.limited_after
        if is_expanded or not self._grows:
            return state
        key, (opened, is_limited) = derive_key(key, Purpose.EXPAND, task), self._growth(task, memory)
        kernels, reserved = tasks.grow(self.networks, key, memory.kernels, memory.reserved, opened)
        limited = (*state.limited_after, task) if is_limited else state.limited_after
        return replace(state, memory=replace(memory, kernels=kernels, reserved=reserved), limited_after=limited)

    @property
    def _grows(self) -> bool:
        return self.config.gates.expansion and self.config.gates.masks != "none"

    def _sizes_after(self, task: int) -> list[int]:
        """Classes of each task to come."""
        return list(map(len, self.setting.tasks[task + 1 :]))

    def _growth(self, task: int, memory: Memory) -> tuple[list[int], bool]:
        """Gates to add to each mask after a task, and whether the limit to the memory makes them fewer."""
        opened = memory.newly_reserved()
        allowed = allowed_growth(self.networks, memory, opened, self._sizes_after(task))
        return allowed, allowed != opened

    # ---- Forget classes on request (not in the paper) ----

    def forget(self, state: State, forgotten: Sequence[int], key: jax.Array, watch: Watch) -> Forgotten[State]:
        """Takes classes out, gives weights that no class needs a fresh start, and trains the classifier anew."""
        left = without_classes(state, forgotten)
        remains = state.features.remains if state.features else ()
        if self.config.gan.reinitialise_discriminator:
            left = replace(left, auxiliary=None)  # Nothing reads it again, and it learnt the classes.
        else:
            remains = (*remains, "the discriminator, with which the next task begins, learnt them; only its outputs go")
        for task, earlier in zip(state.memory.tasks, state.begun_as):  # The earlier classes that a task began as.
            names = ", ".join(state.memory.names[i] for i in task.classes if i not in forgotten)
            if names and set(earlier) & set(forgotten):
                remains = (*remains, f"masks, norms and output layers of {names} began as copies (warm start)")
        # Where all weights of a unit are 0, no gradient would reach them.
        used, widths = read_weights(left.memory), left.memory.widths
        fresh = self.networks.new_kernels(derive_key(key, Purpose.FORGET, left.memory.n_classes), widths)
        kernels = [np.where(of, *pair) for of, *pair in zip(used, left.memory.kernels, fresh, strict=True)]
        left = replace(left, memory=replace(left.memory, kernels=kernels))
        last = len(left.memory.tasks) - 1
        ((classifier, _),) = self._consolidate(last, [key], [left], watch)
        key = derive_key(key, Purpose.CALIBRATE, last)
        quotient = known_quotient(state.classifier, state.memory, key) if state.classifier else 1.0
        classifier = calibrated(classifier, left.memory, key, quotient)
        weights = tuple(weights_of_class(state.memory, left.memory, index) for index in forgotten)
        return Forgotten(replace(left, classifier=classifier), weights, remains)
