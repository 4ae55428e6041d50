"""Batch normalisation with explicit parameters and running statistics."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5
MOMENTUM = 0.1  # Share of a new batch in the running statistics.

Arrays = Mapping[str, jax.Array]


def init_norm(width: int, dtype: jax.typing.DTypeLike = jnp.float32) -> dict[str, jax.Array]:
    """Parameters of a norm that starts as the identity: {"scale": [width] of 1, "shift": [width] of 0}."""
    return {"scale": jnp.ones(width, dtype), "shift": jnp.zeros(width, dtype)}


def init_statistics(width: int, dtype: jax.typing.DTypeLike = jnp.float32) -> dict[str, jax.Array]:
    """Running statistics before the first batch: {"mean": [width] of 0, "var": [width] of 1}."""
    return {"mean": jnp.zeros(width, dtype), "var": jnp.ones(width, dtype)}


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
