"""Convolutions whose first and second derivatives are fast on every platform.

On CPUs and GPUs both convolutions are written as one matrix product and one of two linear maps, `unfold` (image to
patches) and `fold` (patches to image). Each map is the transpose of the other, so every derivative consists of the same
three operations again, including the gradient of a gradient that the gradient penalty needs. TPUs use XLA's convolution
(`platforms` says why).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dgm_jax.nn import platforms
from dgm_jax.nn.geometry import Geometry, Padding, Pairs, Sizes, extents, pairs, per_axis
from dgm_jax.nn.patches import fold_p, unfold_p
from dgm_jax.nn.product import Product, is_placed, is_sharded, product, promoted, rounded, rounds

Convolution = Callable[..., jax.Array]  # Of x, kernel and geometry.


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: Sizes,
    padding: Padding,
    input_dilation: Sizes = 1,
    kernel_dilation: Sizes = 1,
    feature_group_count: int = 1,
    form: Literal["xla"] | None = None,
) -> jax.Array:
    """Cross-correlates `x` with `kernel`, zero outside the image. Names and meanings are those of `flax.linen.Conv`.

    Differentiable in forward and reverse mode, any number of times.

    Args:
      x: images or features, [batch, *space, c_in], with 1 to 3 axes of space.
      kernel: [*window, c_in / groups, c_out]; if its dtype is another one than that of `x`, both are promoted as JAX
        does.
      stride: step of the window, >= 1: a number, or one for each axis of space.
      padding: zeros around the image: 'SAME' (the output has ceil(size / stride) pixels), 'VALID' (none), a number
        >= 0, or a number or a pair (before, after) for each axis.
      input_dilation: step between two pixels of `x`, with zeros between them; like `stride`.
      kernel_dilation: step between two entries of the kernel; like `stride`.
      feature_group_count: number of groups into which the channels are split; each group of outputs reads one group of
        inputs.
      form: "xla": XLA's convolution on every platform. On CPUs it is up to three times as fast where only values are
        needed, outside of loops; the values differ in their last bits. None: the form whose derivatives are fast.

    Returns:
      [batch, *positions, c_out]; without dilation an axis of n pixels has (n + padding - k) // stride + 1 positions.

    Raises:
      ValueError: names the argument that does not fit, or says that the window does not fit the image.
    """
    x, kernel, window = _checked(x, kernel, feature_group_count)
    axes = len(window)
    step = per_axis("stride", stride, axes)
    spread = per_axis("input_dilation", input_dilation, axes)
    dilation = per_axis("kernel_dilation", kernel_dilation, axes)
    size, spans = extents(x.shape[1:-1], spread), extents(window, dilation)
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        around = string_padding(padding, size, spans, step)
    else:
        around = pairs(padding, axes)
    if any(n + sum(p) < span for n, p, span in zip(size, around, spans)):
        shape = "x".join(map(str, spans))
        raise ValueError(f"a {shape} kernel does not fit an image of {size} with padding {padding}")
    geometry = Geometry(step, around, spread, dilation, feature_group_count)
    if form == "xla":
        return conv_by_xla(x, kernel, geometry)
    return by_platform(x, kernel, geometry, conv_by_patches, conv_by_xla)


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: Sizes,
    padding: Padding,
    kernel_dilation: Sizes = 1,
    feature_group_count: int = 1,
) -> jax.Array:
    """Spreads each pixel of `x` over a window of the output: `out[i s - p + a] += x[i] kernel[a]`.

    Takes and raises what `conv` does; here `stride` is the step of the window in the output, and `padding` pixels are
    dropped on each side of the output. 'SAME' gives stride times as many pixels as `x` has, 'VALID' drops none (and
    adds zeros behind the last pixel where the stride is larger than the window), both as `flax.linen.ConvTranspose`
    does. The kernel is neither flipped nor transposed: it is that of `flax.linen.ConvTranspose`, flipped.

    Returns:
      [batch, *space, c_out]; without dilation an axis of n pixels becomes one of (n - 1) stride - padding + k.
    """
    x, kernel, window = _checked(x, kernel, feature_group_count)
    axes = len(window)
    step = per_axis("stride", stride, axes)
    dilation = per_axis("kernel_dilation", kernel_dilation, axes)
    spans = extents(window, dilation)
    dropped = _dropped(padding, spans, step)
    size = tuple((n - 1) * s - sum(p) + span for n, s, p, span in zip(x.shape[1:-1], step, dropped, spans))
    if min(size) < 1:
        raise ValueError(f"padding {padding} leaves no output for an image of {x.shape[1:-1]}; use a smaller padding")
    geometry = Geometry(step, dropped, (1,) * axes, dilation, feature_group_count)
    return by_platform(x, kernel, geometry, _conv_transpose_by_patches, _conv_transpose_by_xla)


def layout(axes: int) -> lax.ConvDimensionNumbers:
    """The order of the axes of images and kernels: for two axes of space NHWC and HWIO."""
    image = (0, axes + 1, *range(1, axes + 1))
    return lax.ConvDimensionNumbers(image, (axes + 1, axes, *range(axes)), image)


def string_padding(padding: str, size: Sequence[int], spans: Sequence[int], stride: Sequence[int]) -> Pairs:
    """What a name of JAX, such as 'SAME', adds before and after each axis."""
    return tuple((int(before), int(after)) for before, after in lax.padtype_to_pads(size, spans, stride, padding))


def _dropped(padding: Padding, spans: Sequence[int], stride: Sequence[int]) -> Pairs:
    """What a transposed convolution drops on each side; a number below 0 adds zeros."""
    if padding == "VALID":
        return tuple((0, min(span - s, 0)) for span, s in zip(spans, stride, strict=True))
    if padding == "SAME":
        before = ((span - s) // 2 if span > s else 0 for span, s in zip(spans, stride, strict=True))
        return tuple((first, span - s - first) for first, span, s in zip(before, spans, stride, strict=True))
    return pairs(padding, len(spans))


def _checked(x: jax.Array, kernel: jax.Array, groups: int) -> tuple[jax.Array, jax.Array, tuple[int, ...]]:
    """Both arrays in one dtype, and the window of the kernel."""
    if groups < 1:
        raise ValueError(f"feature_group_count={groups}; expected a whole number >= 1")
    if not (x.ndim == kernel.ndim and 3 <= x.ndim <= 5):
        fits = False
    elif groups == 1:
        fits = x.shape[-1] == kernel.shape[-2]
    else:
        fits = x.shape[-1] == groups * kernel.shape[-2] and kernel.shape[-1] % groups == 0
    if not fits:
        of_group = "" if groups == 1 else f" / {groups}"
        raise ValueError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected [batch, *space, c_in] and "
            f"[*window, c_in{of_group}, c_out], with as many axes of window as of space (1 to 3)"
            + (f" and c_out a multiple of {groups}" if of_group else "")
        )
    return (*promoted(x, kernel), kernel.shape[:-2])


def by_platform(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, by_patches: Convolution, by_xla: Convolution
) -> jax.Array:
    """By patches or by XLA, as the platform takes it (`platforms.FORMS`)."""
    if is_split_in_space(x, kernel):
        return by_xla(x, kernel, geometry)
    forms = {"patches": by_patches, "xla": by_xla}
    if geometry.groups > 1 or is_placed(x) or is_placed(kernel):
        # Chosen now: XLA's convolution of groups or of sharded arrays lacks some derivatives, and may not be traced.
        return forms[platforms.form("convolution")](x, kernel, geometry)
    bound = {name: partial(form, geometry=geometry) for name, form in forms.items()}
    return platforms.by_platform("convolution", x, kernel, **bound)


def is_split_in_space(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether images or windows are split over devices: patches are cut out of whole images."""
    return is_sharded(x, range(1, x.ndim - 1)) or is_sharded(kernel, range(kernel.ndim - 2))


def conv_by_patches(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """`conv` of arrays that fit, as a product of patches and a matrix."""

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        *window, c_in, c_out = kernel.shape
        if max(geometry.input_dilation) > 1:
            between = tuple((0, 0, d - 1) for d in (1, *geometry.input_dilation, 1))
            x = lax.pad(x, jnp.zeros((), x.dtype), between)
        patches = unfold_p.bind(x, size=x.shape[1:-1], rounded=rounds(x), **_of_patches(window, geometry))
        return product(patches, kernel.reshape(math.prod(window) * c_in, c_out))

    return _by_groups(convolve, geometry.groups)(x, kernel)


def _conv_transpose_by_patches(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        *window, c_in, c_out = kernel.shape
        axes = range(len(window))
        by_input = kernel.transpose(len(window), *axes, len(window) + 1).reshape(c_in, math.prod(window) * c_out)
        spans = extents(window, geometry.kernel_dilation)
        size = tuple((x.shape[1 + a] - 1) * geometry.stride[a] - sum(geometry.padding[a]) + spans[a] for a in axes)
        return fold_p.bind(product(x, by_input), size=size, rounded=rounds(x), **_of_patches(window, geometry))

    return _by_groups(convolve, geometry.groups)(x, kernel)


def _of_patches(window: Sequence[int], geometry: Geometry) -> dict[str, tuple[object, ...]]:
    return {
        "window": tuple(window),
        "stride": geometry.stride,
        "padding": geometry.padding,
        "dilation": geometry.kernel_dilation,
    }


def _by_groups(convolve: Product, groups: int) -> Product:
    """The convolution of each group of channels, side by side."""
    if groups == 1:
        return convolve

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        c_out = kernel.shape[-1]
        kernel = kernel.reshape(*kernel.shape[:-1], groups, c_out // groups)
        y = jax.vmap(convolve, (x.ndim - 2, kernel.ndim - 2), x.ndim - 2)(x, kernel)
        return y.reshape(*y.shape[:-2], c_out)

    return grouped


def conv_by_xla(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """`conv` of arrays that fit, as XLA's convolution."""

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            geometry.stride,
            geometry.padding,
            geometry.input_dilation,
            geometry.kernel_dilation,
            layout(x.ndim - 2),
            geometry.groups,
        )

    return rounded(convolve)(x, kernel) if rounds(x) else convolve(x, kernel)


def _conv_transpose_by_xla(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    axes = range(x.ndim - 2)
    spans = extents(kernel.shape[:-2], geometry.kernel_dilation)
    around = tuple((span - 1 - p, span - 1 - q) for span, (p, q) in zip(spans, geometry.padding, strict=True))
    ones = (1,) * len(spans)
    turned = Geometry(ones, around, geometry.stride, geometry.kernel_dilation, geometry.groups)
    return conv_by_xla(x, lax.rev(kernel, axes), turned)
