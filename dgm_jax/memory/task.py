"""What one finished task owns of the memory, and how its sub-network is cut out of the shared weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dgm_jax import nn
from dgm_jax.models.generator import Generator

Params = Any


@dataclass(frozen=True)
class TaskMemory:
    """What one finished task owns; arrays are NumPy's, of logical widths."""

    classes: tuple[int, ...]  # Class indices, in the order of the output layers.
    widths: tuple[int, ...]  # Output units of each layer when the task ended.
    masks: list[np.ndarray]  # Binary: of each layer, [c_l] (DGMa), or of each kernel, of its shape (DGMw).
    norms: list[Params]
    statistics: list[Params]
    heads: np.ndarray  # [classes of the task, k, k, c_last, channels]
    n_conditioned: int  # Entries of the noise that carry the one-hot class.


def cut_units(generator: Generator, kernels: Sequence[np.ndarray], task: TaskMemory) -> Params:
    """Keeps the open units of a DGMa task: its sub-network as a smaller, unmasked one."""
    units: dict[int, Any] = dict(enumerate(map(np.flatnonzero, task.masks)))
    cut: Params = {"kernels": []}
    for kernel, (source, target) in zip(kernels, generator.ends, strict=True):
        inputs = slice(None) if source == nn.INPUT else units[source]
        cut["kernels"].append(kernel[:, :, inputs][..., units[target]])
    for name, own in (("norms", task.norms), ("statistics", task.statistics)):
        cut[name] = [jax.tree.map(lambda a, i=i: a[units[i]], arrays) for i, arrays in enumerate(own)]
    return _padded(generator, cut | {"heads": task.heads[:, :, :, units[len(units) - 1]]})


def cut_weights(generator: Generator, kernels: Sequence[np.ndarray], task: TaskMemory) -> Params:
    """Slices the weights to a task's widths and applies its masks: of weights (DGMw), or of units as they stand."""
    cut: Params = {"kernels": [], "norms": task.norms, "statistics": task.statistics, "heads": task.heads}
    for number, (kernel, (source, target)) in enumerate(zip(kernels, generator.ends, strict=True)):
        c_in = kernel.shape[2] if source == nn.INPUT else task.widths[source]
        sliced = kernel[:, :, :c_in, : task.widths[target]]
        mask = task.masks[number if task.masks[0].ndim > 1 else target]
        cut["kernels"].append(np.where(mask, sliced, np.zeros((), sliced.dtype)))
    return _padded(generator, cut)


def _padded(generator: Generator, cut: Params) -> Params:
    """Pads a sub-network with units that emit exactly 0, so that many tasks share a compiled sampler."""
    padded = [nn.padded_width(max(width, 1), 8) for width in generator.widths(cut["kernels"])]

    def grow(array: np.ndarray, shape: Sequence[int], fill: float = 0.0) -> np.ndarray:
        grown = np.full(tuple(shape), fill, array.dtype)
        grown[tuple(slice(0, n) for n in array.shape)] = array
        return grown

    shapes = generator.kernel_shapes(padded, cut["kernels"][0].shape[2])
    heads = cut["heads"]
    return {
        "kernels": [grow(kernel, shape) for kernel, shape in zip(cut["kernels"], shapes, strict=True)],
        # Scale and shift of 0: whatever the statistics, a padded unit emits relu(0).
        "norms": [jax.tree.map(lambda a, w=w: grow(a, (w,)), norm) for norm, w in zip(cut["norms"], padded)],
        "statistics": [jax.tree.map(lambda a, w=w: grow(a, (w,), 1.0), s) for s, w in zip(cut["statistics"], padded)],
        "heads": grow(heads, (*heads.shape[:3], padded[-1], heads.shape[4])),
    }


def unite_masks(tasks: Sequence[TaskMemory], shapes: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
    """For each mask of these shapes, the gates that some task opens, bool."""
    for number, shape in enumerate(shapes):
        reserved = np.zeros(shape, bool)
        for task in tasks:
            own = task.masks[number]
            reserved[tuple(slice(0, n) for n in own.shape)] |= own
        yield reserved
