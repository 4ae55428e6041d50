"""Masked layers: linear maps whose weights (DGMw) or output units (DGMa) are gated.

Parameters are plain dicts, `{"kernel": array}`. There are no biases, because no gate would protect them: a bias, or
any other name, is refused. The shape of the gate chooses the variant: the shape of the kernel gates weights, `[c_out]`
gates units, None gates nothing. If a norm or a non-linearity follows a layer of gated units, call the layer without a
gate and then `gate_units`, because a closed unit must emit exactly 0.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from dgm_jax.nn import convolution
from dgm_jax.nn.geometry import Padding, Sizes
from dgm_jax.nn.product import product, promoted


def masked_dense(params: Mapping[str, jax.Array], x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
    """Multiplies `x` by a gated matrix.

    Args:
      params: {"kernel": [c_in, c_out]}.
      x: [batch, c_in].
      gate: of the kernel's shape (DGMw), [c_out] (DGMa) or None, in [0, 1].

    Returns:
      [batch, c_out].

    Raises:
      ValueError: if the gate has neither shape, or `params` has anything beside a kernel.
    """
    kernel, units = _split(params, gate)
    return gate_units(product(x, kernel), units)


def masked_conv(
    params: Mapping[str, jax.Array],
    x: jax.Array,
    gate: jax.Array | None = None,
    *,
    stride: Sizes,
    padding: Padding,
    input_dilation: Sizes = 1,
    kernel_dilation: Sizes = 1,
    feature_group_count: int = 1,
) -> jax.Array:
    """Convolves `x` with a gated kernel; see `masked_dense` for the gate, and `conv` for everything else."""
    kernel, units = _split(params, gate)
    y = convolution.conv(
        x,
        kernel,
        stride=stride,
        padding=padding,
        input_dilation=input_dilation,
        kernel_dilation=kernel_dilation,
        feature_group_count=feature_group_count,
    )
    return gate_units(y, units)


def masked_conv_transpose(
    params: Mapping[str, jax.Array],
    x: jax.Array,
    gate: jax.Array | None = None,
    *,
    stride: Sizes,
    padding: Padding,
    kernel_dilation: Sizes = 1,
    feature_group_count: int = 1,
) -> jax.Array:
    """Applies a transposed convolution with a gated kernel; see `masked_dense` and `conv_transpose`."""
    kernel, units = _split(params, gate)
    y = convolution.conv_transpose(
        x,
        kernel,
        stride=stride,
        padding=padding,
        kernel_dilation=kernel_dilation,
        feature_group_count=feature_group_count,
    )
    return gate_units(y, units)


def gate_units(x: jax.Array, gate: jax.Array | None) -> jax.Array:
    """Multiplies each unit (last axis) of `x` by its gate, [c]; a closed unit emits exactly 0. None returns `x`."""
    return x if gate is None else _gated(x, jnp.expand_dims(gate, range(x.ndim - 1)))


def _gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    """`x` times `gate`, and exactly 0 where the gate is closed, even if `x` is infinite or NaN there.

    The product stays, because the gradient of a closed gate is what `x` says: with it, the gate can open again.
    """
    is_open = gate.astype(bool)
    x, gate = (x, gate.astype(x.dtype)) if gate.dtype == bool else promoted(x, gate)
    return jnp.where(is_open | jnp.isfinite(x), x, jnp.zeros((), x.dtype)) * gate


def gates_weights(gate: jax.Array) -> bool:
    """Whether a mask gates weights (DGMw: it has the shape of a kernel) rather than units (DGMa: it has one axis)."""
    return gate.ndim > 1


def _split(params: Mapping[str, jax.Array], gate: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Returns the kernel, gated if `gate` is for weights, and the gate that is still to be applied to the units."""
    if set(params) != {"kernel"}:
        raise ValueError(
            f"params has {sorted(params)}; expected only ['kernel']. A masked layer has no bias, because no gate would "
            "protect it: remove it, or add it outside the layer, where nothing is gated"
        )
    kernel = params["kernel"]
    if gate is None:
        return kernel, None
    if gate.shape == kernel.shape:
        return _gated(kernel, gate), None
    if gate.shape == kernel.shape[-1:]:
        return kernel, gate
    raise ValueError(
        f"gate has shape {gate.shape}; expected {kernel.shape} to gate the weights (DGMw) "
        f"or {kernel.shape[-1:]} to gate the units (DGMa)"
    )
