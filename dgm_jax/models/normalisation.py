"""Batch normalisation with explicit parameters and running statistics."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dgm_jax.nn import platforms
from dgm_jax.types import Norm, Statistics

EPSILON = 1e-5
MOMENTUM = 0.1  # Share of a new batch in the running statistics.


def init_norm(width: int, dtype: np.typing.DTypeLike = np.float32) -> Norm:
    """Parameters of a norm that starts as the identity: scale [width] of 1, shift [width] of 0."""
    return Norm(np.ones(width, dtype), np.zeros(width, dtype))


def init_statistics(width: int, dtype: np.typing.DTypeLike = np.float32) -> Statistics:
    """Running statistics before the first batch: mean [width] of 0, variance [width] of 1."""
    return Statistics(np.zeros(width, dtype), np.ones(width, dtype))


def batch_norm(
    params: Norm, statistics: Statistics, x: jax.Array, *, train: bool, axis_name: str | None = None
) -> tuple[jax.Array, Statistics]:
    """Normalises each channel (last axis) over all others.

    Args:
      params: scale and shift, [c] each.
      statistics: running mean and variance, [c] each; used if not `train`.
      x: [batch, ..., c].
      train: normalise by the batch's mean and biased variance, and update the running statistics (with the unbiased
        variance).
      axis_name: the mapped axis over which the batch is split, if it is: all its parts are normalised together.

    Returns:
      The normalised array and the new running statistics.
    """

    if train and platforms.form("statistics") == "one_pass":
        return _in_one_pass(params, statistics, x, axis_name)

    def channelwise(vector: jax.Array) -> jax.Array:
        return vector.reshape((1,) * (x.ndim - 1) + (-1,))

    if train:
        mean, var = _in_two_passes(x, axis_name)
        statistics = _updated(statistics, mean, var, x, axis_name)
    else:
        mean, var = statistics.mean, statistics.var
    scale = lax.rsqrt(var + EPSILON) * params.scale
    return (x - channelwise(mean)) * channelwise(scale) + channelwise(params.shift), statistics


def _in_two_passes(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each channel, [c] each."""
    n_parts = 1 if axis_name is None else lax.axis_size(axis_name)

    def over_batch(values: jax.Array) -> jax.Array:
        mean = jnp.mean(values, tuple(range(x.ndim - 1)))
        # The mean over a single part is the part itself, but without it XLA's CPU compiler rounds otherwise.
        return lax.pmean(mean, axis_name) if axis_name is not None and n_parts == 1 else mean

    mean = over_batch(x)
    var = over_batch(jnp.square(x - mean.reshape((1,) * (x.ndim - 1) + (-1,))))
    return (mean, var) if axis_name is None or n_parts == 1 else _of_all_parts(mean, var, axis_name)


def _of_all_parts(mean: jax.Array, var: jax.Array, axis_name: str) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of a batch from those of its equal parts, [c] each, in one exchange between devices."""
    means, variances = lax.all_gather(jnp.stack([mean, var]), axis_name, axis=1)
    mean = jnp.mean(means, 0)
    return mean, jnp.mean(variances + jnp.square(means - mean[None]), 0)


def _in_one_pass(
    params: Norm, statistics: Statistics, x: jax.Array, axis_name: str | None
) -> tuple[jax.Array, Statistics]:
    """`batch_norm` in training, with sums that one pass over the batch adds up, and a derivative of one pass.

    The variance is a difference of squares, so digits cancel where the mean is large beside the deviation. All sums are
    therefore of `x` less its first row; any constant gives the same variance and derivatives, and a value of the batch
    is near its mean: usually within a few deviations, and never further than sqrt(rows) of them.
    """
    rows = x.reshape(-1, x.shape[-1])
    first = lax.stop_gradient(rows[:1])
    rows = rows - first
    square, offset = (total / len(rows) for total in _sums(rows, rows))
    var = square - jnp.square(offset)
    var = jnp.where(var < 0, 0, var)  # By rounding; `maximum` would halve the derivative at 0.
    mean = first[0] + offset
    if axis_name is not None and lax.axis_size(axis_name) > 1:  # Each device has its own first row.
        mean, var = _of_all_parts(mean, var, axis_name)
        offset = mean - first[0]
    scale = lax.rsqrt(var + EPSILON) * params.scale
    y = _affine(rows, scale, params.shift - offset * scale)
    return y.reshape(x.shape), _updated(statistics, mean, var, x, axis_name)


@jax.custom_vjp
def _affine(rows: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """`rows * scale + shift`, for rows [n, c]; its derivative is `_sums`, whose derivative it is."""
    return rows * scale[None] + shift[None]


@jax.custom_vjp
def _sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sums of `x * y` and of `x` over all rows, [c] each, in one reduction: as two, XLA often adds them in turn."""
    zero = jnp.zeros((), x.dtype)
    first, second = lax.reduce((x * y, x), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0,))
    return first, second


_affine.defvjp(
    lambda rows, scale, shift: (_affine(rows, scale, shift), (rows, scale)),
    lambda kept, gradient: (gradient * kept[1][None], *_sums(gradient, kept[0])),
)
_sums.defvjp(
    lambda x, y: (_sums(x, y), (x, y)),
    lambda kept, gradients: (_affine(kept[1], *gradients), kept[0] * gradients[0][None]),
)


def _updated(
    statistics: Statistics, mean: jax.Array, var: jax.Array, x: jax.Array, axis_name: str | None
) -> Statistics:
    """Running statistics after a batch `x` with this mean and biased variance."""
    count = x.size // x.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
    new = Statistics(mean, var * (count / max(count - 1, 1)))
    statistics = jax.tree.map(lambda old, batch: (1 - MOMENTUM) * old + MOMENTUM * batch, statistics, new)
    return lax.stop_gradient(statistics)


def in_succession(before: Sequence[Statistics], after: Sequence[Statistics]) -> list[Statistics]:
    """Running statistics after several batches in turn, computed from batches that were passed side by side.

    Args:
      before: statistics before the first batch, one entry for each norm.
      after: for each norm the statistics after each batch as if it had been the only one, [batches, c].
    """

    def follow(old: jax.Array, each: jax.Array) -> jax.Array:
        result = each[0]
        for single in each[1:]:
            result = (1 - MOMENTUM) * (result - old) + single
        return result

    return jax.tree.map(follow, list(before), list(after))
