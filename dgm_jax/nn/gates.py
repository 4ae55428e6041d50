"""Hard attention to the task: gates, their annealing, and what they reserve (Serra et al. 2018; DGM section 3.1).

A gate is `m = sigmoid(s e)`. Its embedding `e` is learnt; its slope `s` grows while a task is learnt, so that a soft
gate becomes a hard one. An embedding of -inf closes a gate permanently: its value and its gradient are exactly 0.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def gate(embedding: jax.Array, scale: ArrayLike, epoch_scale: ArrayLike | None = None) -> jax.Array:
    """Opens each gate by `sigmoid(scale * embedding)`.

    Args:
      embedding: floats of any shape; -inf closes a gate exactly.
      scale: the slope `s` > 0, a scalar.
      epoch_scale: `S_i`, a scalar. If given, the derivative with respect to the embedding is the compensated one in
        closed form, `S_i sigmoid'(e)`, which stays accurate and does not vanish when the gate saturates. If None, it
        is the plain derivative `s sigmoid'(s e)`, which `compensate` can rescale afterwards (the product form).

    Returns:
      The mask, of the embedding's shape, in [0, 1].

    Source: DGM equation 2; the compensation is HAT section 2.4.
    """
    if epoch_scale is None:
        return jax.nn.sigmoid(scale * embedding)
    return _straight_gate(embedding, scale, epoch_scale)


@jax.custom_jvp
def _straight_gate(embedding, scale, epoch_scale):
    del epoch_scale  # It scales only the derivative.
    return jax.nn.sigmoid(scale * embedding)


@_straight_gate.defjvp
def _straight_gate_jvp(primals, tangents):
    embedding, scale, epoch_scale = primals
    mask = _straight_gate(*primals)
    return mask, (epoch_scale * sigmoid_slope(embedding) * tangents[0]).astype(mask.dtype)


def sigmoid_slope(x: jax.Array) -> jax.Array:
    """The derivative of the sigmoid, accurate for large |x| too, where `m (1 - m)` is not (`m` rounds to 1)."""
    q = jnp.exp(-jnp.abs(x))
    return q / (1 + q) ** 2


def annealed_scale(position: ArrayLike, length: ArrayLike, s_max: ArrayLike) -> jax.Array:
    """The slope: it grows linearly from `1 / s_max` at position 0 to `s_max` at position `length`.

    `S_i = annealed_scale(i, I, s_max)` anneals over the `I` epochs of a task. DGMw anneals again within each epoch, up
    to the slope of that epoch: `s = annealed_scale(b, B, S_i)` at step `b` of `B`. (ImageNet: `i + 1` for `i`.)

    Source: DGM section 3.1; HAT equation 3.

    Raises:
      ValueError: if `length` is known and not above 0; under `jit` it is not known.
    """
    if not isinstance(length, jax.core.Tracer) and not np.all(np.asarray(length) > 0):
        raise ValueError(f"length={length}: the slope cannot grow over no epochs or steps; expected more than 0")
    lowest = 1 / jnp.asarray(s_max)
    return lowest + (s_max - lowest) * (position / jnp.asarray(length))


def binarise(embedding: jax.Array) -> jax.Array:
    """The mask that a task keeps after its last epoch: bool, True (open) where the embedding is >= 0."""
    return embedding >= 0


def reserve(reserved: jax.Array, binary: jax.Array) -> jax.Array:
    """Adds a task's binary mask to the cumulative mask: the elementwise maximum of bool arrays (DGM equation 3)."""
    return jnp.logical_or(reserved, binary)


def sparsity(masks: Sequence[jax.Array], reserved: Sequence[jax.Array], n_free: ArrayLike | None = None) -> jax.Array:
    """The share of the free capacity that the masks open, over all layers together (DGM equation 5).

    Re-using reserved units or weights costs nothing. Pass gates that can never open (padding) as reserved.

    Args:
      masks: one array per layer, in [0, 1].
      reserved: the cumulative mask of each layer, bool or in [0, 1], of the same shapes.
      n_free: `sum (1 - r)` over all gates, if permanently closed ones have been left out of both lists.

    Returns:
      `sum m (1 - r) / sum (1 - r)`, a scalar, at least float32; 0 if nothing is free.
    """
    masks = [m.astype(jnp.promote_types(m.dtype, jnp.float32)) for m in masks]  # float16 ends at 65,504.
    free = [1 - r.astype(m.dtype) for m, r in zip(masks, reserved, strict=True)]
    opened = sum(jnp.sum(m * f) for m, f in zip(masks, free))
    capacity = sum(jnp.sum(f) for f in free) if n_free is None else jnp.asarray(n_free)
    return jnp.where(capacity > 0, opened / jnp.where(capacity > 0, capacity, 1), 0.0)
