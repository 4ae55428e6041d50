"""A convolution that stands in for `jax.lax.conv_general_dilated`, for anyone's layers."""

from collections.abc import Sequence
from functools import partial
from operator import index
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from dgm_jax.nn.convolution import by_platform, conv_by_patches, conv_by_xla, is_split_in_space, layout, string_padding
from dgm_jax.nn.geometry import Geometry, extents

Form = Literal["patches", "xla"]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    *,
    form: Form | None = None,
) -> jax.Array:
    """Takes and returns what `jax.lax.conv_general_dilated` does; its derivatives are fast on every platform.

    For `flax.linen.Conv(..., conv_general_dilated=nn.conv_general_dilated)` and `flax.nnx.Conv` alike. Where nothing is
    differentiated, XLA's convolution computes the values. Where something is, values and derivatives are those of
    `conv`, which on CPUs and GPUs differ from XLA's in their last bits. What patches cannot do goes to XLA: channels
    that are not last, dtypes other than float32 and float64, groups of the batch, negative padding, a precision, a
    preferred dtype or a sharding of the output, images that are split over devices in space.

    Within `jax.default_matmul_precision("bfloat16")` factors are rounded on every platform, as by `product`; what goes
    to XLA is computed as JAX does there.

    Args:
      form: which convolution serves always: "patches" that of patches, on every platform, "xla" that of XLA. To pin it
        in a layer, pass `functools.partial(nn.conv_general_dilated, form=...)`.

    Raises:
      ValueError: if `form` is "patches" and patches cannot do it, or `form` is unknown; all that XLA raises.
    """
    if form not in (None, "patches", "xla"):
        raise ValueError(f"form={form!r}; expected 'patches', 'xla' or None")
    in_xla = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    if form == "xla":
        return in_xla(lhs, rhs)
    shape = jax.eval_shape(in_xla, lhs, rhs).shape  # Raises what XLA's convolution raises.
    axes = lhs.ndim - 2
    ones = (1,) * axes
    numbers = (ones if listed is None else listed for listed in (window_strides, lhs_dilation, rhs_dilation))
    stride, spread, dilation = (tuple(map(index, listed)) for listed in numbers)
    if isinstance(padding, str):
        spans = extents(rhs.shape[:-2], dilation)
        around = string_padding(padding, lhs.shape[1:-1], spans, stride)
    else:
        around = tuple((index(before), index(after)) for before, after in padding)
    obstacles = {
        f"dimension_numbers={dimension_numbers}": lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        != layout(axes),
        f"dtype {lhs.dtype}": lhs.dtype not in (jnp.float32, jnp.float64),
        f"padding={padding}": any(min(pair) < 0 for pair in around),
        f"an output of {shape}": 0 in shape,
        f"batch_group_count={batch_group_count}": batch_group_count != 1,
        f"precision={precision}": precision is not None,
        f"preferred_element_type={preferred_element_type}": preferred_element_type not in (None, lhs.dtype),
        f"out_sharding={out_sharding}": out_sharding is not None,
        "arrays that are split over devices in space": is_split_in_space(lhs, rhs),
    }
    obstacle = next((what for what, is_there in obstacles.items() if is_there), None)
    geometry = Geometry(stride, around, spread, dilation, feature_group_count)
    if form == "patches":
        if obstacle is not None:
            raise ValueError(f"form='patches' cannot have {obstacle}; use form=None or 'xla'")
        return conv_by_patches(lhs, rhs, geometry)
    return in_xla(lhs, rhs) if obstacle is not None else _convolve(lhs, rhs, geometry)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    return conv_by_xla(x, kernel, geometry)


@partial(_convolve.defjvp, symbolic_zeros=True)
def _(geometry: Geometry, arrays: Sequence[jax.Array], tangents: Sequence[Any]) -> tuple[jax.Array, jax.Array]:
    """Both in the form of `conv`: where it is that of patches, a derivative needs the patches anyway."""
    varied = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]
    if not varied:
        y = conv_by_xla(arrays[0], arrays[1], geometry)
        return y, jnp.zeros_like(y)

    def convolve(*some: jax.Array) -> jax.Array:
        x, kernel = (dict(enumerate(arrays)) | dict(zip(varied, some, strict=True))).values()
        return by_platform(x, kernel, geometry, conv_by_patches, conv_by_xla)

    return jax.jvp(convolve, [arrays[i] for i in varied], [tangents[i] for i in varied])
