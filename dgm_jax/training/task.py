"""Trains the networks on one task: from what memory holds to a trained state, epoch by epoch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax import nn, processes
from dgm_jax.config import Config
from dgm_jax.models import pair
from dgm_jax.models.generator import host_generator
from dgm_jax.models.normalisation import init_norm
from dgm_jax.training.classifier import (
    CLASSIFIER_METRICS,
    ClassifierState,
    init_classifier,
    run_classifier_steps,
)
from dgm_jax.training.devices import AXIS, data_parallel, replicate
from dgm_jax.training.epoch import ReplayedImages, TaskImages, run_steps
from dgm_jax.training.state import Capacity, Clock, Params, TrainState, init_optimiser, make_capacity, of_average
from dgm_jax.training.step import Step
from dgm_jax.training.subnetwork import OpenUnits, find_open_units
from dgm_jax.training.warm_start import Owned, begin_as

Tree = TypeVar("Tree")

_SECONDS_PER_CALL = 1.0  # Host and device meet about this often: for progress, and for Ctrl-C.


@dataclass(frozen=True)
class FrozenTask:
    """What training a task leaves behind, of logical widths, as NumPy arrays."""

    kernels: list[np.ndarray]
    masks: list[np.ndarray]  # Binary.
    norms: list[Params]
    statistics: list[Params]
    heads: np.ndarray


class Trainer:
    """The compiled programs of a run, and the states they work on. Sees arrays, never a stream."""

    def __init__(
        self,
        config: Config,
        devices: Sequence[jax.Device],
        *,
        channels: int,
        n_classes: int,
        max_heads: int,
        backend: str = "pmap",
        n_conditioned: int | None = None,
        step: type[Step] = Step,
    ) -> None:
        """Binds settings to devices; compiles nothing yet.

        Args:
          config: the settings.
          devices: to train on.
          channels: of the images, 1 or 3.
          n_classes: of the whole stream: the width of the classifiers, and of the one-hot class in the noise.
          max_heads: classes of the largest task.
          backend: what maps over devices, see `data_parallel`.
          n_conditioned: entries of the noise that carry the class; None: one for each class, 0: no condition.
          step: what an iteration is made of.
        """
        self.config = config
        self.devices = devices
        self.backend = backend
        self.channels = channels
        self.n_classes = n_classes
        self.max_heads = max_heads
        self.step = step.of(config, AXIS)
        self.generator = self.step.generator
        self.first_widths = pair(config.network).generator_widths(config.generator_width, config.image_size)
        n_devices = len(devices)
        conditioned = n_classes if n_conditioned is None else n_conditioned
        self._steps = partial(run_steps, step=self.step, n_conditioned=conditioned, n_devices=n_devices)
        self._classifier_steps = partial(run_classifier_steps, config=config, n_devices=n_devices)
        self._mapped: dict[tuple[str, int], Callable[..., Any]] = {}  # By the number of runs side by side.
        self._pace = {"train": 1, "classify": 1}  # Steps a call, found while running.
        self._compiled: set[tuple[int, tuple[int, ...]]] = set()  # Runs and physical widths that have been trained at.

    @property
    def mask_epochs(self) -> int:
        """Epochs of a task in which masks are learnt; in the rest they are settled."""
        if self.config.masks != "learnt":
            return 0
        return max(1, round(self.config.mask_share * self.config.epochs))

    def is_new_shape(self, physical: Sequence[int], n_runs: int) -> bool:
        """Whether a step of so many runs at these physical widths has still to be compiled by this process."""
        return (n_runs, tuple(physical)) not in self._compiled

    def together(self, trees: Sequence[Tree]) -> Tree:
        """Puts the arrays of each run on all devices: as they are for one run, stacked on a new first axis for more."""
        tree = trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
        return replicate(tree, self.devices)

    def apart(self, tree: Tree, n_runs: int) -> list[Tree]:
        """Undoes `together`; the arrays of more than one run are taken to the host."""
        if n_runs == 1:
            return [tree]
        host = jax.device_get(tree)
        return [jax.tree.map(lambda a, i=i: a[i], host) for i in range(n_runs)]

    def new_kernels(self, key: jax.Array, widths: Sequence[int]) -> list[np.ndarray]:
        """Fresh shared weights of these logical widths."""
        return self.generator.init_kernels(key, widths, self.config.noise_dim)

    def mask_shapes(self, widths: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of the masks at these widths: of each layer's units (DGMa) or each kernel's weights (DGMw)."""
        return self.generator.mask_shapes(self.config.variant, widths, self.config.noise_dim)

    def gated(self, kernels: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
        """What each mask gates: its output units, and its weights."""
        widths, targets = self.generator.widths(kernels), [target for _, target in self.generator.ends]
        if self.config.variant == "dgmw":
            return [widths[target] for target in targets], [kernel.size for kernel in kernels]
        into = [0] * len(widths)
        for target, kernel in zip(targets, kernels, strict=True):
            into[target] += kernel.size
        return list(widths), into

    def begin(
        self,
        key: jax.Array,
        kernels: Sequence[np.ndarray],
        reserved: Sequence[np.ndarray],
        *,
        physical: Sequence[int],
        classes: Sequence[int],
        discriminator: tuple[Params, Params] | None,
        like: Sequence[Owned] = (),
    ) -> tuple[TrainState, Capacity]:
        """The state in which a task's training begins, and what earlier tasks left to it; on the host.

        Args:
          key: a PRNG key.
          kernels: shared weights, of logical widths.
          reserved: cumulative masks, of logical widths.
          physical: the padded widths to train at (`shapes.physical_widths`); they change no result beyond rounding, but
            for free weights of closed units (`subnetwork`).
          classes: class indices of the task.
          discriminator: parameters and statistics to go on with; None: fresh ones.
          like: for each of the classes one of an earlier task to begin as, each as a task of one class; if any.
        """
        task_key, discriminator_key = jax.random.split(key)
        noise_dim = self.config.noise_dim
        widths = self.generator.widths(kernels)
        shapes = self.mask_shapes(physical)
        kernel_shapes = self.generator.kernel_shapes(physical, noise_dim)
        live = [nn.expand(np.ones(r.shape, bool), np.zeros(s, bool)) for r, s in zip(reserved, shapes, strict=True)]
        # Neutral where padded: a unit that is 0 stays 0 through its norm and ReLU, and no output layer reads it.
        heads = self.generator.init_task(task_key, widths, self.channels, self.max_heads)["heads"]
        generator = {
            "kernels": [nn.expand(k, np.zeros(s, k.dtype)) for k, s in zip(kernels, kernel_shapes, strict=True)],
            "norms": [init_norm(width) for width in physical],
            "heads": nn.expand(heads, np.zeros((*heads.shape[:3], physical[-1], self.channels), heads.dtype)),
            "embeddings": self._first_embeddings(task_key, reserved, shapes),
        }
        statistics = self.generator.init_statistics(physical)
        if like:
            generator, statistics = begin_as(generator, statistics, like, self._first_slope)
        if discriminator is None:
            discriminator = self.step.pair.init_discriminator(
                discriminator_key,
                width=self.config.discriminator_width,
                image_size=self.config.image_size,
                channels=self.channels,
                n_classes=self.n_classes,
            )
        critic = {name: own for name, own in discriminator[0].items() if name != "projection"}  # Each task has its own.
        if self.config.critic_condition == "projection" and self.max_heads > 1:
            critic["projection"] = np.zeros((self.max_heads, len(critic["critic"]["kernel"])), np.float32)
        state = TrainState(
            generator=generator,
            generator_statistics=statistics,
            generator_optimiser=init_optimiser(self.step.optimisers.generator, generator),
            discriminator=critic,
            discriminator_statistics=discriminator[1],
            discriminator_optimiser=init_optimiser(self.step.optimisers.discriminator, critic),
        )
        if self.config.generator_average:
            state = replace(state, average=of_average(state.generator, state.generator_statistics))
        grown = self.generator.size(widths, noise_dim) / self.generator.size(self.first_widths, noise_dim)
        capacity = make_capacity(
            [nn.expand(r, np.zeros(s, bool)) for r, s in zip(reserved, shapes, strict=True)],
            live,
            sparsity_weight=self.config.sparsity_weight * grown,
            seen=np.arange(self.n_classes) <= max(classes),
            first_class=min(classes),
        )
        return state, capacity

    @property
    def _first_slope(self) -> float:
        """The slope of the first epoch that can turn a gate: at 1 / s_max, steps of `e` turn nothing."""
        return float(self.step.epoch_scale(self.config.scale_lead or 1, self.mask_epochs))

    def _first_embeddings(
        self, key: jax.Array, reserved: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]
    ) -> list[np.ndarray]:
        """A task's embeddings before its first step: 0, or drawn, or open; -inf where a gate cannot be used."""
        random = host_generator(jax.random.fold_in(key, 1))
        values = {"learnt": (0.0,), "random": (-1.0, 1.0), "none": (np.inf,)}[self.config.masks]
        drawn = [random.choice(values, r.shape).astype(np.float32) for r in reserved]
        usable = [e if self.config.reuse else np.where(r, np.float32(-np.inf), e) for e, r in zip(drawn, reserved)]
        return [nn.expand(e, np.full(s, -np.inf, np.float32)) for e, s in zip(usable, shapes, strict=True)]

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
        """Trains for one epoch of `steps` iterations, each run with its own key; calls `on_steps(n)` after every n.

        Returns:
          The new state, and for each run the mean of each metric over the epoch.
        """
        clock = Clock(*(np.int32(n) for n in (task, epoch, self.mask_epochs, steps)))
        physical = tuple(norm["scale"].shape[-1] for norm in state.generator["norms"])
        self._compiled.add((len(keys), physical))
        # State, data, replay, capacity, key and sums are each run's own.
        run = self._program("train", self._steps, len(keys), (0, 0, 0, 0, None, 0, 0, None, None, None))
        key, sums = _stacked(keys), _no_metrics(self.step.metric_names, len(keys))
        for start, stop in self._calls("train", steps):
            state, sums = run(state, data, replay, capacity, clock, key, sums, np.int32(start), np.int32(stop))
            sums = jax.device_get(sums)
            on_steps(stop - start)
        return state, _means(self.step.metric_names, sums, steps)

    def freeze(self, state: TrainState, widths: Sequence[int], *, n_heads: int) -> FrozenTask:
        """Ends a task: binarises its masks and cuts the padding off all arrays."""
        host = jax.device_get(state)
        drawn_with = of_average(host.generator, host.generator_statistics) if host.average is None else host.average
        generator, statistics = drawn_with["generator"], drawn_with["statistics"]
        kernel_shapes = self.generator.kernel_shapes(widths, self.config.noise_dim)

        def trimmed(norms: Params) -> Params:
            return [{name: _corner(v, (w,)) for name, v in norm.items()} for norm, w in zip(norms, widths, strict=True)]

        embeddings = host.generator["embeddings"]
        return FrozenTask(
            kernels=[_corner(k, s) for k, s in zip(generator["kernels"], kernel_shapes, strict=True)],
            masks=[
                _corner(np.asarray(nn.binarise(e)), s)
                for e, s in zip(embeddings, self.mask_shapes(widths), strict=True)
            ],
            norms=trimmed(generator["norms"]),
            statistics=trimmed(statistics),
            heads=_corner(generator["heads"], (n_heads, *generator["heads"].shape[1:3], widths[-1], self.channels)),
        )

    def grow(
        self,
        key: jax.Array,
        kernels: Sequence[np.ndarray],
        reserved: Sequence[np.ndarray],
        newly_reserved: Sequence[int],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Expands shared weights and cumulative masks after a task (section 7); old weights keep their place."""
        widths = self.generator.widths(kernels)
        if self.config.variant == "dgma":
            grown = nn.grown_unit_widths(widths, newly_reserved)
        else:
            window = [edge.window**2 for edge in self.generator.edges]
            ends = self.generator.ends
            grown = nn.grown_weight_widths(
                widths, newly_reserved, inputs=self.config.noise_dim, window=window, ends=ends
            )
        fresh = self.new_kernels(key, grown)
        shapes = self.mask_shapes(grown)
        return (
            [nn.expand(old, new) for old, new in zip(kernels, fresh, strict=True)],
            [nn.expand(r, np.zeros(s, bool)) for r, s in zip(reserved, shapes, strict=True)],
        )

    def consolidate(
        self,
        keys: Sequence[jax.Array],
        data: Sequence[TaskImages],
        seen: np.ndarray,
        *,
        on_steps: Callable[[int], None],
    ) -> list[tuple[ClassifierState, dict[str, float]]]:
        """Learns for each run a classifier afresh from images of all classes seen.

        Returns:
          For each run the classifier, and the mean of its metrics over all steps.
        """
        init_keys, step_keys = zip(*map(jax.random.split, keys), strict=True)
        fresh = [
            init_classifier(key, self.config, channels=self.channels, n_classes=self.n_classes) for key in init_keys
        ]
        state, images = self.together(jax.device_get(fresh)), self.together(data)
        run = self._program("classify", self._classifier_steps, len(keys), (0, 0, None, 0, 0, None, None, None))
        key, sums = _stacked(step_keys), _no_metrics(CLASSIFIER_METRICS, len(keys))
        steps = self.config.consolidation_steps
        for start, stop in self._calls("classify", steps):
            state, sums = run(state, images, seen, key, sums, np.int32(start), np.int32(stop))
            sums = jax.device_get(sums)
            on_steps(stop - start)
        return list(zip(self.apart(state, len(keys)), _means(CLASSIFIER_METRICS, sums, steps), strict=True))

    def _program(self, name: str, steps: Callable[..., Any], n_runs: int, axes: tuple[int | None, ...]) -> Any:
        """A loop of steps, mapped over devices, and over runs if there are several; `axes`: which arguments are."""
        if (name, n_runs) not in self._mapped:
            # A single run is not mapped: its program is the plain one.
            vectorised = steps if n_runs == 1 else jax.vmap(steps, in_axes=axes)
            self._mapped[name, n_runs] = data_parallel(vectorised, self.devices, self.backend)
        return self._mapped[name, n_runs]

    def _calls(self, kind: str, steps: int) -> Iterator[tuple[int, int]]:
        """Cuts a loop into calls of about a second each, as fast as it turns out to run."""
        start = 0
        while start < steps:
            stop = min(steps, start + processes.of_first(self._pace[kind]))  # The same on all, whatever their clocks.
            begun = time.perf_counter()
            yield start, stop
            per_step = (time.perf_counter() - begun) / (stop - start)
            self._pace[kind] = max(1, min(int(_SECONDS_PER_CALL / max(per_step, 1e-6)), 4 * self._pace[kind]))
            start = stop


class TaskTraining:
    """A task being trained, by one run or by several side by side; once masks are settled, its open units alone."""

    def __init__(
        self,
        trainer: Trainer,
        begun: Sequence[tuple[TrainState, Capacity, TaskImages]],
        keys: Sequence[jax.Array],
        *,
        task: int,
        steps: int,
    ) -> None:
        """Moves everything to the devices.

        Args:
          trainer: the programs.
          begun: of each run the training state, what is reserved (see `Trainer.begin`) and the task's images.
          keys: of each run.
          task: number of tasks before this one.
          steps: iterations in an epoch.
        """
        self.trainer, self.keys, self.task, self.steps = trainer, keys, task, steps
        states, capacities, data = zip(*begun, strict=True)
        self._capacities: Sequence[Capacity] = capacities  # On the host.
        self._state, self._capacity, self._data = (trainer.together(trees) for trees in (states, capacities, data))
        self._settled = False
        self._open: list[OpenUnits] | None = None  # Of each run, once they are trained alone,
        self._whole: list[TrainState] = []  # and the states they were cut out of.

    def run_epoch(
        self,
        replay: ReplayedImages,
        epoch: int,
        shapes: Sequence[Sequence[int]],
        on_steps: Callable[[int], None],
    ) -> list[dict[str, float]]:
        """Trains for one epoch.

        Args:
          replay: images of earlier tasks, on the devices.
          epoch: its number.
          shapes: physical widths that programs are compiled for; settled masks choose among them.
          on_steps: called with n after every n iterations.

        Returns:
          For each run the mean of each metric.
        """
        if epoch >= self.trainer.mask_epochs and not self._settled:
            self._settled = True
            self._cut(shapes)
        self._state, means = self.trainer.run_epoch(
            *(self._state, self._data, replay, self._capacity, self.keys),
            task=self.task,
            epoch=epoch,
            steps=self.steps,
            on_steps=on_steps,
        )
        return means

    def states(self) -> list[TrainState]:
        """The whole state of each run."""
        states = self.trainer.apart(self._state, len(self.keys))
        if self._open is None:
            return states
        cuts = zip(self._open, jax.device_get(states), self._whole, strict=True)
        return [units.put_back(state, whole) for units, state, whole in cuts]

    def _cut(self, shapes: Sequence[Sequence[int]]) -> None:
        config = self.trainer.config
        if config.variant != "dgma" or config.gate_position != "last":  # Only there does a closed unit emit exactly 0.
            return
        states = jax.device_get(self.states())
        self._open = find_open_units(states, shapes, self.trainer.generator)
        if self._open is not None:
            self._whole = states
            cuts = [units.cut(*own) for units, *own in zip(self._open, states, self._capacities, strict=True)]
            self._state, self._capacity = (self.trainer.together(trees) for trees in zip(*cuts, strict=True))


def _stacked(keys: Sequence[jax.Array]) -> jax.Array:
    """The keys of all runs, as a program takes them: see `Trainer.together`."""
    return keys[0] if len(keys) == 1 else jnp.stack(keys)


def _no_metrics(names: Sequence[str], n_runs: int) -> np.ndarray:
    """Sums of metrics before the first step: a vector, or a row for each of several runs."""
    return np.zeros(len(names) if n_runs == 1 else (n_runs, len(names)), np.float32)


def _means(names: Sequence[str], sums: np.ndarray, steps: int) -> list[dict[str, float]]:
    """For each run, the mean of each metric."""
    return [dict(zip(names, row.tolist(), strict=True)) for row in np.atleast_2d(sums).astype(float) / steps]


def _corner(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Cuts the leading corner of this shape out of an array."""
    return np.ascontiguousarray(array[tuple(slice(0, n) for n in shape)])
