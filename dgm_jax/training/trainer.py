"""The loops of training as compiled programs, over devices and over the runs of several seeds side by side."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.system import processes
from dgm_jax.system.worker import Worker
from dgm_jax.training.classifier import CLASSIFIER_METRICS, ClassifierState, Loss, init_classifier, run_classifier_steps
from dgm_jax.training.devices import (
    AXIS,
    Mapped,
    data_parallel,
    local,
    most_devices,
    place,
    placement,
    run_parallel,
    shape_of,
)
from dgm_jax.training.epoch import ReplayedImages, TaskImages, run_steps
from dgm_jax.training.state import Capacity, Clock, TrainState
from dgm_jax.training.step import Step
from dgm_jax.training.subnetwork import OpenUnits, find_open_units
from dgm_jax.training.task import Networks

Tree = TypeVar("Tree")

_SECONDS_PER_CALL = 1.0  # Host and device meet about this often: for progress, and for Ctrl-C.


class Trainer:
    """The compiled programs of a run. Sees arrays, never a stream."""

    def __init__(
        self,
        networks: Networks,
        devices: Sequence[jax.Device],
        *,
        backend: str = "pmap",
        runs_apart: bool = False,
        step: type[Step] = Step,
        worker: Worker | None = None,
    ) -> None:
        """Binds settings to devices; compiles nothing yet.

        Args:
          networks: kinds and sizes of the networks, and the settings.
          devices: to train on.
          backend: what maps over devices (`data_parallel`).
          runs_apart: whether devices train whole runs, each its own, instead of parts of a mini-batch.
          step: what an iteration is made of.
          worker: compiles what `prepare_epoch` and `prepare_consolidation` say.
        """
        self.networks, self.config = networks, networks.config
        self.devices, self.backend, self.runs_apart = devices, backend, runs_apart
        self._n_shards = 1 if runs_apart else len(devices)  # Of a mini-batch.
        self.step = step.of(networks.config, None if runs_apart else AXIS)
        self._steps = partial(run_steps, step=self.step, n_conditioned=networks.n_conditioned, n_devices=self._n_shards)
        self.worker = worker or Worker(())
        self._mapped: dict[tuple[Any, int], Mapped] = {}  # By the number of runs side by side.
        self._pace = {"train": 1, "classify": 1}  # Steps a call, found while running.
        self._compiled: set[tuple[int, tuple[int, ...]]] = set()  # Runs and physical widths of programs that are there.

    def is_new_shape(self, physical: Sequence[int], n_runs: int) -> bool:
        """Whether this process has still to compile, or to finish compiling, the step of `n_runs` at these widths."""
        return (n_runs, tuple(physical)) not in self._compiled

    def stack_runs(self, trees: Sequence[Tree]) -> Tree:
        """Puts the arrays of each run on the devices that need them.

        Those of one run are as they are; those of several are stacked on new first axes: one of devices, if runs are
        apart on several, and one of runs side by side on a device, if there are several.
        """
        if len(trees) == 1:
            return self._place(trees[0], 1)
        axes = self._run_axes(len(trees))
        tree = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(*axes, *np.shape(leaves[0])), *trees)
        return self._place(tree, len(trees))

    def split_runs(self, tree: Tree, n_runs: int) -> list[Tree]:
        """Undoes `stack_runs`; the arrays of more than one run are taken to the host."""
        if n_runs == 1:
            return [local(tree, self._devices_of(1))]
        host, n_axes = jax.device_get(local(tree, self._devices_of(n_runs))), len(self._run_axes(n_runs))
        return [jax.tree.map(lambda a, i=i: a.reshape(n_runs, *a.shape[n_axes:])[i], host) for i in range(n_runs)]

    def _n_apart(self, n_runs: int) -> int:
        """Devices that train runs of their own; 1 if all work on the same runs."""
        return most_devices(n_runs, len(self.devices)) if self.runs_apart else 1

    def _devices_of(self, n_runs: int) -> Sequence[jax.Device]:
        return self.devices[: self._n_apart(n_runs)] if self.runs_apart else self.devices

    def _run_axes(self, n_runs: int) -> tuple[int, ...]:
        """Sizes of the axes before those of a single run's arrays."""
        n_apart = self._n_apart(n_runs)
        return tuple(n for n in (n_apart, n_runs // n_apart) if n > 1)

    def _place(self, tree: Tree, n_runs: int) -> Tree:
        return place(tree, self._devices_of(n_runs), apart=self._n_apart(n_runs) > 1)

    def run_epoch(
        self,
        state: TrainState,
        data: TaskImages,
        replay: ReplayedImages,
        capacity: Capacity,
        keys: Sequence[jax.Array],
        *,
        task: int,
        epoch: int,
        steps: int,
        on_steps: Callable[[int], None],
    ) -> tuple[TrainState, list[dict[str, float]]]:
        """Trains for one epoch of `steps` iterations, each run with a key; calls `on_steps(n)` after every n.

        Returns:
          The new state, and for each run the mean of each metric over the epoch.
        """
        clock = Clock(*map(np.int32, (task, epoch, self.networks.mask_epochs, steps)))
        shape = (len(keys), tuple(norm.scale.shape[-1] for norm in state.generator.norms))
        run = self._epoch_program(len(keys))
        self.worker.wait(("train", shape))
        self._compiled.add(shape)
        key, sums = self._stack_keys(keys), self._no_metrics(self.step.metric_names, len(keys))
        for start, stop in self._calls("train", 0, steps):
            state, sums = run(state, data, replay, capacity, clock, key, sums, np.int32(start), np.int32(stop))
            sums = jax.device_get(sums)
            on_steps(stop - start)
        return state, _means(self.step.metric_names, sums, steps)

    def prepare_epoch(
        self,
        begun: Callable[[], tuple[TrainState, Capacity]],
        physical: Sequence[int],
        data: TaskImages,
        replay: ReplayedImages,
        keys: Sequence[jax.Array],
    ) -> None:
        """Lets the worker compile the program of `run_epoch` for these physical widths, if it is not there yet.

        `begun` makes, on the host, a state and a capacity of these widths; the worker calls it. Of them and of
        the other arguments only shapes count, which are those that `run_epoch` will get.
        """
        shape = (len(keys), tuple(physical))
        if shape in self._compiled:
            return
        run, key = self._epoch_program(len(keys)), self._stack_keys(keys)
        sums, images = self._no_metrics(self.step.metric_names, len(keys)), self._shapes((data, replay), len(keys), ())

        def job() -> None:
            state, capacity = self._shapes(begun(), len(keys))
            run.compile(state, *images, capacity, Clock(*[np.int32()] * 4), key, sums, np.int32(), np.int32())
            self._compiled.add(shape)

        self.worker.prepare(("train", shape), job)

    def prepare_consolidation(self, keys: Sequence[jax.Array], data: TaskImages, seen: np.ndarray) -> None:
        """Lets the worker compile the program of `consolidate`; of the arguments only shapes count."""
        run, key = self._classifier_program(len(keys)), self._stack_keys(keys)
        sums = self._no_metrics(CLASSIFIER_METRICS, len(keys))

        def job() -> None:
            state, source = self._shapes((self._new_classifier(keys[0]), data), len(keys))
            run.compile(state, (source,), seen, None, key, sums, np.int32(), np.int32())

        self.worker.prepare(("classify", None, len(keys)), job)

    def train_classifier(
        self,
        state: ClassifierState,
        sources: tuple[TaskImages, ...],
        seen: np.ndarray,
        keys: Sequence[jax.Array],
        *,
        start: int,
        stop: int,
        on_steps: Callable[[int], None],
        loss: Loss | None = None,
        anchor: Any = None,
    ) -> tuple[ClassifierState, list[dict[str, float]]]:
        """Trains a classifier of each run from step `start` to `stop` of its `consolidation_steps`.

        `state`, `sources` and `anchor` are of all runs, on the devices; see `run_classifier_steps`. The same object
        `loss` gives the same program. `on_steps(n)` is called after every n steps.

        Returns:
          The new state, and for each run the mean of each metric over these steps.
        """
        run = self._classifier_program(len(keys), loss)
        self.worker.wait(("classify", loss, len(keys)))
        key, sums = self._stack_keys(keys), self._no_metrics(CLASSIFIER_METRICS, len(keys))
        for begin, end in self._calls("classify", start, stop):
            state, sums = run(state, sources, seen, anchor, key, sums, np.int32(begin), np.int32(end))
            sums = jax.device_get(sums)
            on_steps(end - begin)
        return state, _means(CLASSIFIER_METRICS, sums, stop - start)

    def consolidate(
        self,
        keys: Sequence[jax.Array],
        data: Sequence[TaskImages],
        seen: np.ndarray,
        *,
        on_steps: Callable[[int], None],
    ) -> list[tuple[ClassifierState, dict[str, float]]]:
        """Trains for each run a fresh classifier on images of all classes seen.

        Returns:
          For each run the classifier, on the host, and the mean of its metrics over all steps.
        """
        init_keys, step_keys = zip(*map(jax.random.split, keys), strict=True)
        state, means = self.train_classifier(
            self.stack_runs([self._new_classifier(key) for key in init_keys]),
            (self.stack_runs(data),),
            seen,
            step_keys,
            start=0,
            stop=self.config.consolidation.consolidation_steps,
            on_steps=on_steps,
        )
        return list(zip(jax.device_get(self.split_runs(state, len(keys))), means, strict=True))

    def _new_classifier(self, key: jax.Array) -> ClassifierState:
        """A fresh classifier, on the host."""
        sizes = {"channels": self.networks.channels, "n_classes": self.networks.n_classes}
        return jax.device_get(init_classifier(key, self.config, **sizes))

    def _shapes(self, tree: Tree, n_runs: int, run_axes: tuple[int, ...] | None = None) -> Tree:
        """What stands for `stack_runs([tree, ...])` when a program is compiled."""
        axes = self._run_axes(n_runs) if run_axes is None else run_axes
        sharding = placement(self._devices_of(n_runs), apart=self._n_apart(n_runs) > 1)
        return jax.tree.map(lambda array: shape_of(array, sharding, axes), tree)

    def _epoch_program(self, n_runs: int) -> Mapped:
        # State, data, replay, capacity, key and sums differ from run to run.
        return self._program("train", self._steps, n_runs, (0, 0, 0, 0, None, 0, 0, None, None, None))

    def _classifier_program(self, n_runs: int, loss: Loss | None = None) -> Mapped:
        n_devices, axis_name = self._n_shards, self.step.axis_name
        steps = partial(run_classifier_steps, config=self.config, n_devices=n_devices, axis_name=axis_name, loss=loss)
        return self._program(("classify", loss), steps, n_runs, (0, 0, None, 0, 0, 0, None, None, None))

    def _program(self, name: Any, steps: Callable[..., Any], n_runs: int, axes: tuple[int | None, ...]) -> Mapped:
        """A loop of steps, mapped over devices, and over runs if there are several; `axes`: which arguments are."""
        if (name, n_runs) not in self._mapped:
            devices, n_apart = self._devices_of(n_runs), self._n_apart(n_runs)
            # A single run on a device is not mapped: its program is the plain one.
            vectorised = steps if n_runs == n_apart else jax.vmap(steps, in_axes=axes)
            if n_apart > 1:
                self._mapped[name, n_runs] = run_parallel(vectorised, devices, self.backend, axes[:-1])
            else:
                self._mapped[name, n_runs] = data_parallel(vectorised, devices, self.backend)
        return self._mapped[name, n_runs]

    def _stack_keys(self, keys: Sequence[jax.Array]) -> jax.Array:
        stacked = keys[0] if len(keys) == 1 else jnp.stack(keys).reshape(self._run_axes(len(keys)))
        return self._place(stacked, len(keys))

    def _no_metrics(self, names: Sequence[str], n_runs: int) -> np.ndarray:
        """Sums of metrics before the first step, for each run."""
        return np.zeros((*self._run_axes(n_runs), len(names)), np.float32)

    def _calls(self, kind: str, start: int, steps: int) -> Iterator[tuple[int, int]]:
        """Cuts a loop into calls of about a second each, as fast as it turns out to run."""
        while start < steps:
            # All processes take the first one's pace, whatever their clocks say.
            stop = min(steps, start + processes.value_of_first(self._pace[kind]))
            begun = time.perf_counter()
            yield start, stop
            per_step = (time.perf_counter() - begun) / (stop - start)
            self._pace[kind] = max(1, min(int(_SECONDS_PER_CALL / max(per_step, 1e-6)), 4 * self._pace[kind]))
            start = stop


class TaskTraining:
    """A task being trained, by one run or by several side by side; once masks are settled, only its open units."""

    def __init__(
        self,
        trainer: Trainer,
        begun: Sequence[tuple[TrainState, Capacity, TaskImages]],
        keys: Sequence[jax.Array],
        *,
        task: int,
        steps: int,
    ) -> None:
        """Moves what each run has begun with to the devices: its state and capacity (`begin_task`), and its images.

        There is a key for each run. `task` is the number of tasks before this one, `steps` those of an epoch.
        """
        self.trainer, self.keys, self.task, self.steps = trainer, keys, task, steps
        states, capacities, data = zip(*begun, strict=True)
        self._capacities: Sequence[Capacity] = capacities  # On the host.
        self._state, self._capacity, self._data = (trainer.stack_runs(trees) for trees in (states, capacities, data))
        self._settled = False
        self._open: list[OpenUnits] | None = None  # One for each run, once only open units are trained.
        self._whole: list[TrainState] = []  # The states that `_open` was cut from.

    def run_epoch(
        self, replay: ReplayedImages, epoch: int, shapes: Sequence[Sequence[int]], on_steps: Callable[[int], None]
    ) -> list[dict[str, float]]:
        """Trains for one epoch; returns for each run the mean of each metric.

        Args:
          replay: images of earlier tasks, on the devices.
          epoch: its number.
          shapes: physical widths that programs are compiled for; settled masks choose among them.
          on_steps: called with n after every n iterations.
        """
        if epoch >= self.trainer.networks.mask_epochs and not self._settled:
            self._settled = True
            self._cut(shapes)
        self._state, means = self.trainer.run_epoch(
            self._state,
            self._data,
            replay,
            self._capacity,
            self.keys,
            task=self.task,
            epoch=epoch,
            steps=self.steps,
            on_steps=on_steps,
        )
        return means

    def prepare_next(
        self,
        begun: Callable[[], tuple[TrainState, Capacity]],
        physical: Sequence[int],
        replay: ReplayedImages,
    ) -> None:
        """Has the program compiled with which a later task begins; see `Trainer.prepare_epoch`."""
        self.trainer.prepare_epoch(begun, physical, self._data, replay, self.keys)

    def states(self) -> list[TrainState]:
        """The whole state of each run."""
        states = self.trainer.split_runs(self._state, len(self.keys))
        if self._open is None:
            return states
        cuts = zip(self._open, jax.device_get(states), self._whole, strict=True)
        return [units.put_back(state, whole) for units, state, whole in cuts]

    def _cut(self, shapes: Sequence[Sequence[int]]) -> None:
        gates = self.trainer.config.gates
        if gates.variant != "dgma" or gates.gate_position != "last":  # Only there does a closed unit emit exactly 0.
            return
        states = jax.device_get(self.states())
        self._open = find_open_units(states, shapes, self.trainer.networks.generator)
        if self._open is not None:
            self._whole = states
            cuts = [units.cut(*own) for units, *own in zip(self._open, states, self._capacities, strict=True)]
            self._state, self._capacity = (self.trainer.stack_runs(trees) for trees in zip(*cuts, strict=True))


def _means(names: Sequence[str], sums: np.ndarray, steps: int) -> list[dict[str, float]]:
    """For each run, the mean of each metric."""
    return [dict(zip(names, row.tolist(), strict=True)) for row in sums.reshape(-1, len(names)).astype(float) / steps]
