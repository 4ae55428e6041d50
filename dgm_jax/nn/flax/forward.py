"""What masked layers of Flax compute: Flax's names and conventions on one side, `dgm_jax.nn` on the other."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax.typing import Dtype, PrecisionLike
from jax.typing import ArrayLike

from dgm_jax.nn.gates import binarise, gate
from dgm_jax.nn.geometry import Padding, Sizes, pairs
from dgm_jax.nn.masked import gate_units, masked_conv, masked_conv_transpose, masked_dense

Gates = Literal["units", "weights"]
Linear = Callable[..., jax.Array]  # Takes {"kernel": array}, inputs and a gate, as `masked_dense` does.

dense: Linear = masked_dense


def conv(window: Sequence[int], strides: Sizes | None, padding: Padding) -> Linear:
    """A convolution with the arguments of Flax's `Conv`."""
    return _over_batch(len(window), partial(masked_conv, stride=1 if strides is None else strides, padding=padding))


def conv_transpose(window: Sequence[int], strides: Sizes | None, padding: Padding) -> Linear:
    """A convolution with the arguments of Flax's `ConvTranspose`.

    Flax counts the zeros around the spread image, `masked_conv_transpose` the pixels dropped from the result; together
    they are the window less 1. More zeros than that are no pixel's neighbours: the result is 0 there. Flax's kernel is
    the other one flipped.
    """
    axes, beyond = len(window), [(0, 0)] * (len(window) + 2)
    if not isinstance(padding, str):
        dropped = [(k - 1 - before, k - 1 - after) for k, (before, after) in zip(window, pairs(padding, axes))]
        padding = [(max(before, 0), max(after, 0)) for before, after in dropped]
        beyond[1:-1] = [(max(-before, 0), max(-after, 0)) for before, after in dropped]

    def flipped(params: Mapping[str, jax.Array], x: jax.Array, units: jax.Array | None) -> jax.Array:
        kernel = jnp.flip(params["kernel"], range(axes))
        mask = units if units is None or units.ndim == 1 else jnp.flip(units, range(axes))
        y = masked_conv_transpose({"kernel": kernel}, x, mask, stride=strides or 1, padding=padding)
        return jnp.pad(y, beyond)

    return _over_batch(axes, flipped)


def _over_batch(axes: int, convolve: Linear) -> Linear:
    """For any number of leading axes, also none, as Flax has it."""

    def convolved(params: Mapping[str, jax.Array], x: jax.Array, mask: jax.Array | None) -> jax.Array:
        lead = x.shape[: x.ndim - axes - 1]
        if len(lead) == 1:
            return convolve(params, x, mask)
        y = convolve(params, x.reshape(-1, *x.shape[len(lead) :]), mask)
        return y.reshape(*lead, *y.shape[1:])

    return convolved


def window(kernel_size: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of a window; a single number is one of one axis, as in Flax."""
    return tuple(kernel_size) if isinstance(kernel_size, Sequence) else (operator.index(kernel_size),)


def fixed(value: Any) -> Any:
    """Lists as tuples, which an nnx module can hold as they are."""
    return tuple(map(fixed, value)) if isinstance(value, (list, tuple)) else value


def gate_shape(gates: Gates, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the gates of a kernel; raises ValueError for other words than "units" and "weights"."""
    if gates not in ("units", "weights"):
        raise ValueError(f"gates={gates!r}; expected 'units' or 'weights'")
    return kernel[-1:] if gates == "units" else kernel


def refuse_bias(use_bias: bool) -> None:
    """Raises ValueError if a layer is to have a bias."""
    if use_bias:
        raise ValueError(
            "use_bias=True, but a masked layer has no bias: no gate would protect it, and later tasks would change it. "
            "Use the shift of a norm, which each task keeps: then=norm at the call"
        )


def mask_of(embedding: jax.Array, slope: ArrayLike | None) -> jax.Array:
    """The gates at this slope, or the binary mask if the slope is None."""
    return binarise(embedding) if slope is None else gate(embedding, slope, epoch_scale=slope)


def masked(
    linear: Linear,
    x: jax.Array,
    kernel: jax.Array,
    embedding: jax.Array,
    slope: ArrayLike | None,
    then: Callable[[jax.Array], jax.Array] | None,
    dtype: Dtype | None,
    precision: PrecisionLike,
) -> jax.Array:
    """Applies a masked layer, then `then`, then the gates of units; see `MaskedLinear`."""
    dtype = jnp.result_type(x, kernel) if dtype is None else dtype
    x, kernel, mask = jnp.asarray(x, dtype), kernel.astype(dtype), mask_of(embedding, slope)
    of_units = mask.ndim == 1
    with _precision(precision):
        y = linear({"kernel": kernel}, x, None if of_units else _in(mask, kernel))
    after = y if then is None else then(y)
    if not of_units:
        return after
    if after.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"`then` turned {y.shape[-1]} units into {after.shape[-1]}; expected a function that keeps the last axis, "
            "because the gates of units follow it"
        )
    return gate_units(after, _in(mask, after))


def _in(mask: jax.Array, x: jax.Array) -> jax.Array:
    """Gates in the dtype of what they gate, so that they do not promote it."""
    return mask if mask.dtype == bool else mask.astype(x.dtype)


def _precision(precision: PrecisionLike) -> Any:
    if precision is None:
        return nullcontext()
    if isinstance(precision, tuple):
        raise ValueError(f"precision={precision}; expected one precision for both factors")
    name = precision.name.lower() if isinstance(precision, jax.lax.Precision) else precision
    return jax.default_matmul_precision(name)
