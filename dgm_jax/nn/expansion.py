"""Growth: how wide a network becomes after a task, and how its arrays move into the wider shape (DGM section 3.2).

Three widths are told apart. The *logical* width of a layer is what the method speaks of and what is reported. The
*physical* width is the shape of its arrays: the logical one padded, so that one compiled program serves several tasks.
The surplus has closed gates and contributes exactly nothing to outputs and gradients.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.nn.wiring import INPUT, Ends, chain, check_ends

ArrayT = TypeVar("ArrayT", jax.Array, np.ndarray)


def grown_unit_widths(widths: Sequence[int], newly_reserved: Sequence[int]) -> tuple[int, ...]:
    """The widths of a chain of layers after a task with gated units (DGMa): each gains what the task reserved anew.

    Args:
      widths: output units of each layer.
      newly_reserved: `delta`, units of each layer that this task reserved and no task before.

    Returns:
      The new widths; the number of free units is again what the first task had.
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

    Layers grow first to last. A kernel needs as many new weights as were reserved of it; input channels gained from the
    layer below bring some, whole output channels bring the rest. Where several kernels feed a layer, as the two
    branches of a residual block do, it grows to the width that the neediest of them asks for.

    Args:
      widths: output units of each layer.
      newly_reserved: `delta`, weights of each kernel that this task reserved and no task before.
      inputs: input channels of the network (the noise's size).
      window: weights a pair of channels: `k * k`, or 1 for dense layers; one number for all kernels, or one for each.
      ends: the layers that each kernel joins (`wiring`); None: a chain.

    Returns:
      The new widths; in every kernel the number of free weights is at least what the first task had.

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
    """The physical width: `bucket` times the smallest power of two that makes it at least `width`.

    A geometric ladder: however many tasks a run has, a layer passes through few shapes.
    """
    while bucket < width:
        bucket *= 2
    return bucket


def expand(old: ArrayT, fresh: ArrayT, keep: Sequence[int] | None = None) -> ArrayT:
    """Moves an array into a wider one: `old` keeps its leading place, `fresh` fills what is new.

    Serves growth (`fresh` is a new initialisation of the grown shape) and padding (`fresh` is zeros, or -inf for
    embeddings) alike; use `jax.tree.map` for whole parameter trees.

    Args:
      old: any shape.
      fresh: same rank and dtype, at least as long on every axis.
      keep: how much of `old` to keep on each axis (its logical extents, if it is padded); all of it by default.

    Returns:
      An array of the shape of `fresh`; NumPy's, and nothing compiled, if both are NumPy's.

    Raises:
      ValueError: if the ranks differ, an axis would shrink, or `keep` asks for more than there is.
    """
    kept = tuple(old.shape if keep is None else keep)
    if len(kept) != old.ndim or any(k > n for k, n in zip(kept, old.shape)):
        raise ValueError(f"keep={kept} does not fit an array of shape {old.shape}")
    if old.ndim != fresh.ndim or any(k > n for k, n in zip(kept, fresh.shape)):
        raise ValueError(f"an array of shape {kept} does not expand to {fresh.shape}: no axis may shrink")
    corner = tuple(slice(0, k) for k in kept)
    if isinstance(old, np.ndarray) and isinstance(fresh, np.ndarray):  # On the host nothing need be compiled.
        grown = fresh.copy()
        grown[corner] = old[corner]
        return grown
    return jnp.asarray(fresh).at[corner].set(jnp.asarray(old)[corner])
