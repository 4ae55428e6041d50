"""A finished task's part of the memory, and how its sub-network is cut out of the shared weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from dgm_jax import nn
from dgm_jax.models.generator import Generator
from dgm_jax.types import GeneratorParams, Norm, SamplerParams, Statistics


@dataclass(frozen=True)
class TaskMemory:
    """What belongs to one finished task; arrays are NumPy's, of logical widths."""

    classes: tuple[int, ...]  # Class indices, in the order of the output layers.
    widths: tuple[int, ...]  # Output units of each layer when the task ended.
    masks: list[np.ndarray]  # Binary: of each layer, [c_l] (DGMa), or of each kernel, of its shape (DGMw).
    norms: list[Norm]
    statistics: list[Statistics]
    heads: np.ndarray  # [classes of the task, k, k, c_last, channels]
    n_conditioned: int  # Entries of the noise that carry the one-hot class.
    kernels: list[np.ndarray] | None = None  # Its own generator, without masks; None: it uses the shared weights.
    counts: tuple[int, ...] | None = None  # Training images of each class; None: an early memory does not say.
    # Where the one-hot of each class is 1; None: at the class index. They differ once an earlier class was forgotten.
    conditions: tuple[int, ...] | None = None

    @property
    def noise_entries(self) -> tuple[int, ...]:
        """For each class the entry of the noise that is 1."""
        return self.classes if self.conditions is None else self.conditions

    def of_class(self, index: int) -> "TaskMemory":
        """What belongs to the class of this index, as if it had been the only one of the task."""
        place = self.classes.index(index)
        one = slice(place, place + 1)
        counts = None if self.counts is None else self.counts[one]
        return replace(self, classes=(index,), conditions=self.noise_entries[one], counts=counts, heads=self.heads[one])


def own_generator(generator: Generator, kernels: Sequence[np.ndarray], task: TaskMemory) -> SamplerParams:
    """The generator of a task that shares no weight: nothing is cut out of it."""
    return _padded(generator, SamplerParams(GeneratorParams(list(kernels), task.norms, task.heads), task.statistics))


def cut_units(generator: Generator, kernels: Sequence[np.ndarray], task: TaskMemory) -> SamplerParams:
    """Keeps the open units of a DGMa task: its sub-network as a smaller, unmasked one."""
    units = [np.flatnonzero(mask) for mask in task.masks]
    open_kernels = []
    for kernel, (source, target) in zip(kernels, generator.ends, strict=True):
        inputs = slice(None) if source == nn.INPUT else units[source]
        open_kernels.append(kernel[:, :, inputs][..., units[target]])
    # The arrays of a norm have an entry for each unit.
    norms, statistics = (
        [jax.tree.map(lambda a, i=i: a[units[i]], layer) for i, layer in enumerate(layers)]
        for layers in (task.norms, task.statistics)
    )
    heads = task.heads[:, :, :, units[-1]]
    return _padded(generator, SamplerParams(GeneratorParams(open_kernels, norms, heads), statistics))


def cut_weights(generator: Generator, kernels: Sequence[np.ndarray], task: TaskMemory) -> SamplerParams:
    """Slices the weights to a task's widths, and sets those that its masks close to 0.

    A mask of units (DGMa with `gate_before_norm`) closes all weights that feed a closed unit.
    """
    masked_kernels = []
    for number, (kernel, (source, target)) in enumerate(zip(kernels, generator.ends, strict=True)):
        c_in = kernel.shape[2] if source == nn.INPUT else task.widths[source]
        sliced = kernel[:, :, :c_in, : task.widths[target]]
        mask = task.masks[number if task.masks[0].ndim > 1 else target]
        masked_kernels.append(np.where(mask, sliced, np.zeros((), sliced.dtype)))
    params = GeneratorParams(masked_kernels, task.norms, task.heads)
    return _padded(generator, SamplerParams(params, task.statistics))


def _padded(generator: Generator, cut: SamplerParams) -> SamplerParams:
    """Pads a sub-network with units that emit exactly 0, so that many tasks share a compiled sampler."""
    params = cut.generator
    padded = [nn.padded_width(max(width, 1), 8) for width in generator.widths(params.kernels)]

    def grow(array: np.ndarray, shape: Sequence[int], fill: float = 0.0) -> np.ndarray:
        grown = np.full(tuple(shape), fill, array.dtype)
        grown[tuple(slice(0, n) for n in array.shape)] = array
        return grown

    shapes = generator.kernel_shapes(padded, params.kernels[0].shape[2])
    heads = params.heads
    return SamplerParams(
        GeneratorParams(
            kernels=[grow(kernel, shape) for kernel, shape in zip(params.kernels, shapes, strict=True)],
            # With a scale and a shift of 0, a padded unit emits relu(0) = 0, whatever its statistics are.
            norms=[jax.tree.map(lambda a, w=w: grow(a, (w,)), norm) for norm, w in zip(params.norms, padded)],
            heads=grow(heads, (*heads.shape[:3], padded[-1], heads.shape[4])),
        ),
        statistics=[jax.tree.map(lambda a, w=w: grow(a, (w,), 1.0), s) for s, w in zip(cut.statistics, padded)],
    )


def unite_masks(tasks: Sequence[TaskMemory], shapes: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
    """For each mask of these shapes, the gates that some task opens, bool."""
    for number, shape in enumerate(shapes):
        reserved = np.zeros(shape, bool)
        for task in tasks:
            mask = task.masks[number]
            reserved[tuple(slice(0, n) for n in mask.shape)] |= mask
        yield reserved
