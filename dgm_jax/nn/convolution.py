"""Convolutions whose first and second derivatives are fast, on CPUs as well as on accelerators.

XLA's CPU backend is slow at the convolutions that a derivative needs (dilated and transposed ones). On CPUs both
convolutions are therefore written as one matrix product and one of two linear maps, `unfold` (image to patches) and
`fold` (patches to image). Each map is the transpose of the other, so every derivative consists of the same three
operations again, including the gradient of a gradient that the gradient penalty needs. Other platforms use XLA's
convolution.
"""

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from dgm_jax.nn.product import is_sharded, product, promoted, rounded, rounds

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """Cross-correlates `x` with `kernel`, zero outside the image (symmetric padding, not "SAME").

    Differentiable in forward and reverse mode, any number of times.

    Args:
      x: images or features, [batch, height, width, c_in].
      kernel: [k, k, c_in, c_out]; if its dtype is another one than that of `x`, both are promoted as JAX does.
      stride: step of the window, >= 1.
      padding: zeros added on each side, >= 0.

    Returns:
      [batch, (height + 2 padding - k) // stride + 1, likewise for width, c_out].

    Raises:
      ValueError: if the channels of `x` and `kernel` differ, stride or padding is out of range, or the window does not
        fit.
    """
    x, kernel, step = _checked(x, kernel, stride, padding)
    k, padding = kernel.shape[0], step["padding"]
    if min(x.shape[1:3]) + 2 * padding < k:
        raise ValueError(f"a {k}x{k} kernel does not fit an image of {x.shape[1:3]} with padding {padding}")
    in_patches: Convolution = partial(_conv_by_patches, **step)
    in_xla: Convolution = partial(_conv_by_xla, **step)
    if is_sharded(x, (1, 2)):  # Patches are cut out of whole images.
        return in_xla(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=in_patches, default=in_xla)


def conv_transpose(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """Spreads each pixel of `x` over a window of the output: `out[i s - p + a] += x[i] kernel[a]`.

    Takes and raises what `conv` does; here `stride` is the step of the window in the output, and `padding` pixels are
    dropped on each side of the output. The kernel is neither flipped nor transposed.

    Returns:
      [batch, (height - 1) stride - 2 padding + k, likewise for width, c_out].
    """
    x, kernel, step = _checked(x, kernel, stride, padding)
    stride, padding = step["stride"], step["padding"]
    if (min(x.shape[1:3]) - 1) * stride - 2 * padding + kernel.shape[0] < 1:
        raise ValueError(f"padding {padding} leaves no output for an image of {x.shape[1:3]}; use a smaller padding")
    in_patches: Convolution = partial(_conv_transpose_by_patches, **step)
    in_xla: Convolution = partial(_conv_transpose_by_xla, **step)
    if is_sharded(x, (1, 2)):
        return in_xla(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=in_patches, default=in_xla)


def _checked(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """Both arrays in one dtype, and stride and padding as keywords."""
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"x has shape {x.shape} and kernel {kernel.shape}; "
            "expected [batch, height, width, c_in] and [k, k, c_in, c_out]"
        )
    try:
        step = {"stride": operator.index(stride), "padding": operator.index(padding)}
    except TypeError:
        step = {}
    if not step or step["stride"] < 1 or step["padding"] < 0:
        raise ValueError(f"stride={stride!r} and padding={padding!r}; expected whole numbers, at least 1 and 0")
    return (*promoted(x, kernel), step)


def _conv_by_patches(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    k, _, _, c_out = kernel.shape
    return product(unfold(x, k, stride, padding), kernel.reshape(k**2 * kernel.shape[2], c_out))


def _conv_transpose_by_patches(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    k, _, c_in, c_out = kernel.shape
    rows, cols = ((n - 1) * stride - 2 * padding + k for n in x.shape[1:3])
    return fold(product(x, kernel.transpose(2, 0, 1, 3).reshape(c_in, k**2 * c_out)), k, stride, padding, (rows, cols))


def _conv_by_xla(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    return _xla(x, kernel, window_strides=(stride, stride), padding=[(padding, padding)] * 2)


def _conv_transpose_by_xla(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    border = kernel.shape[0] - 1 - padding
    borders = [(border, border)] * 2
    return _xla(x, kernel[::-1, ::-1], window_strides=(1, 1), padding=borders, lhs_dilation=(stride, stride))


def _xla(x: jax.Array, kernel: jax.Array, **geometry: Any) -> jax.Array:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, dimension_numbers=_LAYOUT, **geometry)

    return rounded(convolve)(x, kernel) if rounds(x) else convolve(x, kernel)


def unfold(x: jax.Array, k: int, stride: int, padding: int) -> jax.Array:
    """Collects the k x k window at each output position into one vector: [n, h, w, c] -> [n, h', w', k k c]."""
    return _unfold_p.bind(x, k=k, stride=stride, padding=padding, size=x.shape[1:3])


def fold(patches: jax.Array, k: int, stride: int, padding: int, size: tuple[int, int]) -> jax.Array:
    """Adds each k x k patch to the image at its position; the transpose of `unfold`.

    Maps [n, h', w', k k c] to [n, *size, c].
    """
    return _fold_p.bind(patches, k=k, stride=stride, padding=padding, size=tuple(size))


def _unfold(x: jax.Array, *, k: int, stride: int, padding: int, size: tuple[int, int]) -> jax.Array:
    """As `unfold`, for any number of leading axes."""
    first = x.ndim - 3  # The axis of rows.
    if padding == 0 and size == (k, k):
        return x.reshape(*x.shape[:first], 1, 1, k**2 * x.shape[-1])  # There is one window, the whole image.
    x = _pad(x, (padding, padding), (padding, padding))
    rows, cols = ((n + 2 * padding - k) // stride + 1 for n in size)

    def windows(x: jax.Array, axis: int, count: int) -> jax.Array:
        span = (count - 1) * stride + 1
        slices = [lax.slice_in_dim(x, a, a + span, stride, axis) for a in range(k)]
        return lax.concatenate(slices, x.ndim - 1)

    # Two stages compile in half the time that one concatenation of k k windows takes, and run as fast.
    return windows(windows(x, first + 1, cols), first, rows)


def _pad(x: jax.Array, rows: tuple[int, int], cols: tuple[int, int]) -> jax.Array:
    """Adds zeros around images. `jnp.pad` does the same, but takes several times longer to trace."""
    return lax.pad(x, jnp.zeros((), x.dtype), (*((0, 0, 0),) * (x.ndim - 3), (*rows, 0), (*cols, 0), (0, 0, 0)))


def _fold(patches: jax.Array, *, k: int, stride: int, padding: int, size: tuple[int, int]) -> jax.Array:
    """As `fold`, for any number of leading axes.

    Output pixels with the same row and column modulo the stride (a "phase") receive the same entries of the patches. So
    each phase is a sum of shifted maps, and the phases are interleaved at the end. On CPUs this is far faster than
    adding patches to a strided output.
    """
    *lead, rows, cols, _ = patches.shape
    first = len(lead)
    if rows == cols == 1 and padding == 0 and size == (k, k):
        return patches.reshape(*lead, k, k, patches.shape[-1] // k**2)
    taps = patches.reshape(*lead, rows, cols, k, k, patches.shape[-1] // k**2)
    # Rows and columns of a phase: enough for every patch and for every requested pixel.
    height, width = (max(p + -(-k // stride) - 1, -(-(s + padding) // stride)) for p, s in zip((rows, cols), size))

    def place(a: int, b: int) -> jax.Array:
        i, j = a // stride, b // stride
        tap = lax.index_in_dim(lax.index_in_dim(taps, a, first + 2, keepdims=False), b, first + 2, keepdims=False)
        return _pad(tap, (i, height - rows - i), (j, width - cols - j))

    def phase(r: int, q: int) -> jax.Array:
        maps = [place(a, b) for a in range(r, k, stride) for b in range(q, k, stride)]
        return sum(maps[1:], start=maps[0]) if maps else jnp.zeros_like(place(0, 0))

    def interleaved(parts: list[jax.Array], axis: int) -> jax.Array:
        stacked = jnp.stack(parts, axis + 1)
        before, after = stacked.shape[:axis], stacked.shape[axis + 2 :]
        return stacked.reshape(*before, stacked.shape[axis] * stacked.shape[axis + 1], *after)

    # An axis at a time, because a sharded array refuses a reshape that merges two pairs of axes.
    by_row = [interleaved([phase(r, q) for q in range(stride)], first + 1) for r in range(stride)]
    image = interleaved(by_row, first)
    image = lax.slice_in_dim(image, padding, padding + size[0], axis=first)
    return lax.slice_in_dim(image, padding, padding + size[1], axis=first + 1)


def _linear(name: str, function: Callable[..., jax.Array]) -> Primitive:
    """A linear map as a primitive of JAX, which can be given its transpose; `vmap` adds a leading axis.

    A `custom_vjp` would have no forward mode, and its derivatives fail under `shard_map`.
    """
    primitive = Primitive(name)

    @lru_cache(maxsize=1024)
    def shape_of(x: Any, **geometry: Any) -> Any:
        return jax.make_jaxpr(partial(function, **geometry))(x).out_avals[0]

    def batched(arguments: Sequence[jax.Array], axes: Sequence[int], **geometry: Any) -> tuple[jax.Array, int]:
        return primitive.bind(jnp.moveaxis(arguments[0], axes[0], 0), **geometry), 0

    primitive.def_impl(function)
    primitive.def_abstract_eval(shape_of)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    return primitive


_unfold_p, _fold_p = _linear("unfold", _unfold), _linear("fold", _fold)
ad.deflinear2(_unfold_p, lambda gradient, _, **geometry: [_fold_p.bind(gradient, **geometry)])
ad.deflinear2(_fold_p, lambda gradient, _, **geometry: [_unfold_p.bind(gradient, **geometry)])
