"""Growth: how wide a network becomes after a task, and how its arrays are copied into wider ones (DGM section 3.2).

A layer has two widths. The *logical* width counts the units that the method uses; it is the one that is reported. The
*physical* width is the shape of the arrays: the logical width plus padding, so that one compiled program serves several
tasks. The gates of padded units are closed, so padding adds exactly 0 to outputs and gradients.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.nn.wiring import INPUT, Ends, chain, check_ends

ArrayT = TypeVar("ArrayT", jax.Array, np.ndarray)


def grown_unit_widths(widths: Sequence[int], newly_reserved: Sequence[int]) -> tuple[int, ...]:
    """The widths of a chain of layers after a task with gated units (DGMa): each grows by its newly reserved units.

    Args:
      widths: output units of each layer.
      newly_reserved: `delta`, for each layer the number of units that this task reserved and no earlier task did.

    Returns:
      The new widths. Each layer then has the same number of free units as before the first task.
    """
    return tuple(width + delta for width, delta in zip(widths, newly_reserved, strict=True))


def grown_weight_widths(
    widths: Sequence[int],
    newly_reserved: Sequence[int],
    *,
    inputs: int,
    window: int | Sequence[int],
    ends: Sequence[Ends] | None = None,
) -> tuple[int, ...]:
    """The widths of the layers after a task with gated weights (DGMw).

    Layers grow from first to last. A kernel needs one new weight for each newly reserved one. Some come with the new
    input channels from the layer below; new output channels supply the rest. Where several kernels feed one layer, as
    the two branches of a residual block do, the layer grows to the largest width that any of them needs.

    Args:
      widths: output units of each layer.
      newly_reserved: `delta`, for each kernel the number of weights that this task reserved and no earlier task did.
      inputs: input channels of the network (entries of the noise).
      window: weights per pair of channels: `k * k`, or 1 for dense layers; one number for all kernels, or one for each.
      ends: the layers that each kernel connects (`wiring`); None: a chain.

    Returns:
      The new widths. Each kernel then has at least as many free weights as before the first task.

    Raises:
      ValueError: if the arguments do not fit each other.
    """
    ends = chain(len(widths)) if ends is None else ends
    check_ends(ends, len(newly_reserved), len(widths))
    windows = [window] * len(ends) if isinstance(window, int) else list(window)
    gained = {INPUT: 0} | dict.fromkeys(range(len(widths)), 0)
    for (source, target), delta, size in zip(ends, newly_reserved, windows, strict=True):
        missing = max(0, delta - gained[source] * widths[target] * size)
        inputs_now = (inputs if source == INPUT else widths[source]) + gained[source]
        gained[target] = max(gained[target], -(-missing // (inputs_now * size)))
    return tuple(width + gained[layer] for layer, width in enumerate(widths))


def padded_width(width: int, bucket: int) -> int:
    """The physical width: `bucket` times the smallest power of two for which it is at least `width`.

    Physical widths grow by doubling, so a layer has few different shapes even in a run of many tasks.
    """
    while bucket < width:
        bucket *= 2
    return bucket


def expand(old: ArrayT, fresh: ArrayT, keep: Sequence[int] | None = None) -> ArrayT:
    """Copies `old` into the leading corner of `fresh`, an array that is at least as large on every axis.

    For growth, `fresh` is a new initialisation of the grown shape; for padding, it holds zeros (-inf for embeddings).
    For whole parameter trees, use `jax.tree.map`.

    Args:
      old: any shape.
      fresh: same rank and dtype, at least as long on every axis.
      keep: entries of `old` to keep on each axis, for example its logical widths if it is padded; by default all.

    Returns:
      An array of the shape of `fresh`. If both are NumPy arrays, so is the result, and nothing is compiled.

    Raises:
      ValueError: if the ranks differ, an axis would shrink, or `keep` is larger than `old`.
    """
    kept = tuple(old.shape if keep is None else keep)
    if len(kept) != old.ndim or any(k > n for k, n in zip(kept, old.shape)):
        raise ValueError(f"keep={kept} does not fit an array of shape {old.shape}")
    if old.ndim != fresh.ndim or any(k > n for k, n in zip(kept, fresh.shape)):
        raise ValueError(f"an array of shape {kept} does not expand to {fresh.shape}: no axis may shrink")
    corner = tuple(slice(0, k) for k in kept)
    if isinstance(old, np.ndarray) and isinstance(fresh, np.ndarray):  # On the host, so nothing is compiled.
        grown = fresh.copy()
        grown[corner] = old[corner]
        return grown
    return jnp.asarray(fresh).at[corner].set(jnp.asarray(old)[corner])
