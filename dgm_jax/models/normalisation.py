"""Batch normalisation with explicit parameters and running statistics."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

EPSILON = 1e-5
MOMENTUM = 0.1  # Share of a new batch in the running statistics.

Arrays = Mapping[str, jax.Array]


def init_norm(width: int, dtype: np.typing.DTypeLike = np.float32) -> dict[str, np.ndarray]:
    """Parameters of a norm that starts as the identity: {"scale": [width] of 1, "shift": [width] of 0}."""
    return {"scale": np.ones(width, dtype), "shift": np.zeros(width, dtype)}


def init_statistics(width: int, dtype: np.typing.DTypeLike = np.float32) -> dict[str, np.ndarray]:
    """Running statistics before the first batch: {"mean": [width] of 0, "var": [width] of 1}."""
    return {"mean": np.zeros(width, dtype), "var": np.ones(width, dtype)}


def batch_norm(
    params: Arrays, statistics: Arrays, x: jax.Array, *, train: bool, axis_name: str | None = None
) -> tuple[jax.Array, Arrays]:
    """Normalises each channel (last axis) over all others.

    Args:
      params: {"scale": [c], "shift": [c]}.
      statistics: running {"mean": [c], "var": [c]}; used if not `train`.
      x: [batch, ..., c].
      train: normalise by the batch's mean and biased variance, and update the running statistics (with the unbiased
        variance).
      axis_name: the mapped axis over which the batch is split, if it is: all its parts are normalised together.

    Returns:
      The normalised array and the new running statistics.
    """

    def channelwise(vector: jax.Array) -> jax.Array:
        return vector.reshape((1,) * (x.ndim - 1) + (-1,))

    if train:
        axes = tuple(range(x.ndim - 1))
        mean = jnp.mean(x, axes)
        count = x.size // x.shape[-1]
        if axis_name is not None:
            mean = lax.pmean(mean, axis_name)
            count *= lax.axis_size(axis_name)
        var = jnp.mean(jnp.square(x - channelwise(mean)), axes)
        if axis_name is not None:
            var = lax.pmean(var, axis_name)
        new = {"mean": mean, "var": var * (count / max(count - 1, 1))}
        statistics = jax.tree.map(lambda old, batch: (1 - MOMENTUM) * old + MOMENTUM * batch, dict(statistics), new)
        statistics = lax.stop_gradient(statistics)
    else:
        mean, var = statistics["mean"], statistics["var"]
    scale = lax.rsqrt(var + EPSILON) * params["scale"]
    return (x - channelwise(mean)) * channelwise(scale) + channelwise(params["shift"]), statistics


def in_succession(before: Sequence[Arrays], after: Sequence[Arrays]) -> list[Arrays]:
    """Running statistics after several batches in turn, from those after each batch alone.

    Args:
      before: statistics before the first batch, one entry a norm.
      after: statistics after each batch had it been the only one, [batches, c].
    """

    def follow(old: jax.Array, each: jax.Array) -> jax.Array:
        result = each[0]
        for alone in each[1:]:
            result = (1 - MOMENTUM) * (result - old) + alone
        return result

    return jax.tree.map(follow, list(before), list(after))
