"""Images to patches and back: the two linear maps of which convolutions by patches consist, beside a matrix product."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dgm_jax.nn.geometry import Padding, Pairs, Sizes, extents, pairs, per_axis
from dgm_jax.nn.primitives import transposes

Numbers = tuple[int, ...]


def unfold(x: jax.Array, window: Sizes, stride: Sizes, padding: Padding, dilation: Sizes = 1) -> jax.Array:
    """Collects the window at each output position into one vector.

    Args:
      x: [batch, *space, c], with any number of axes of space.
      window: size of the window: a number, or one for each axis of space; likewise `stride` and `dilation`.
      stride: step of the window, >= 1.
      padding: zeros added to each axis: a number, or a number or a pair (before, after) for each axis.
      dilation: step between two pixels of a window, >= 1.

    Returns:
      [batch, *positions, window * c]; within a vector, channels change fastest.

    Raises:
      ValueError: names the argument that does not fit.
    """
    return unfold_p.bind(x, **_parameters(x.ndim - 2, window, stride, padding, dilation, x.shape[1:-1]), rounded=False)


def fold(
    patches: jax.Array, window: Sizes, stride: Sizes, padding: Padding, size: Sequence[int], dilation: Sizes = 1
) -> jax.Array:
    """Adds each patch to the image at its position: the transpose of `unfold` from images of `size`.

    Maps [batch, *positions, window * c] to [batch, *size, c]. Raises ValueError if images of this size have another
    number of positions.
    """
    parameters = _parameters(patches.ndim - 2, window, stride, padding, dilation, size)
    if patches.shape[1:-1] != (counts := _positions(**parameters)):
        raise ValueError(f"patches at {patches.shape[1:-1]} positions; an image of {tuple(size)} has {counts}")
    return fold_p.bind(patches, **parameters, rounded=False)


def _parameters(
    axes: int, window: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, size: Sequence[int]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "window": per_axis("window", window, axes),
        "stride": per_axis("stride", stride, axes),
        "padding": pairs(padding, axes),
        "dilation": per_axis("dilation", dilation, axes),
        "size": tuple(size),
    }
    if min(_positions(**found)) < 1:
        raise ValueError(f"a window of {found['window']} does not fit an image of {found['size']}")
    return found


def _positions(*, window: Numbers, stride: Numbers, padding: Pairs, dilation: Numbers, size: Numbers) -> Numbers:
    spans = extents(window, dilation)
    return tuple((n + sum(p) - span) // step + 1 for n, p, span, step in zip(size, padding, spans, stride, strict=True))


def _unfold(
    x: jax.Array, *, window: Numbers, stride: Numbers, padding: Pairs, dilation: Numbers, size: Numbers, rounded: bool
) -> jax.Array:
    """As `unfold`, for any number of leading axes.

    `rounded`: the patches are factors of products in bfloat16. To round the image is less work than to round patches,
    each pixel of which is there many times; and where a device multiplies such numbers, they are written in half the
    bytes.
    """
    if rounded:
        # As integers: XLA's CPU backend copies no bfloat16, but makes float32 of it.
        own: dict[str, Any] = {
            "window": window,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "size": size,
        }
        bits = _unfold(lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16), **own, rounded=False)
        return lax.bitcast_convert_type(bits, jnp.bfloat16).astype(x.dtype)
    n = len(window)
    first = x.ndim - 1 - n  # The first axis of space.
    if _is_whole_image(window, padding, size):
        return x.reshape(*x.shape[:first], *(1,) * n, math.prod(window) * x.shape[-1])
    counts = _positions(window=window, stride=stride, padding=padding, dilation=dilation, size=size)
    spans = extents(window, dilation)
    x = _pad(x, padding)
    # An axis at a time, the last one first: this compiles in half the time that one concatenation takes, and runs as
    # fast.
    for axis in reversed(range(n)):
        reach = (counts[axis] - 1) * stride[axis] + 1
        starts = range(0, spans[axis], dilation[axis])
        slices = [lax.slice_in_dim(x, start, start + reach, stride[axis], first + axis) for start in starts]
        x = lax.concatenate(slices, x.ndim - 1)
    return x


def _fold(
    patches: jax.Array,
    *,
    window: Numbers,
    stride: Numbers,
    padding: Pairs,
    dilation: Numbers,
    size: Numbers,
    rounded: bool,
) -> jax.Array:
    """As `fold`, for any number of leading axes; `rounded` says what the transpose does.

    Output pixels with the same remainders modulo the strides (a "phase") receive the same entries of the patches. So
    each phase is a sum of shifted maps, and the phases are interleaved at the end. On CPUs this is far faster than
    adding patches to a strided output.
    """
    n = len(window)
    first = patches.ndim - 1 - n
    lead, counts, channels = patches.shape[:first], patches.shape[first:-1], patches.shape[-1] // math.prod(window)
    if _is_whole_image(window, padding, size):
        return patches.reshape(*lead, *window, channels)
    taps = patches.reshape(*lead, *counts, *window, channels)
    # The size of a phase: enough for every patch and for every requested pixel.
    reach = [
        max(count + (span - 1) // step, -(-(pixels + before) // step))
        for count, span, step, pixels, (before, _) in zip(
            counts, extents(window, dilation), stride, size, padding, strict=True
        )
    ]

    def place(entry: Sequence[int]) -> jax.Array:
        tap, borders = taps, []
        for axis, index in enumerate(entry):
            tap = lax.index_in_dim(tap, index, first + n, keepdims=False)
            shift = index * dilation[axis] // stride[axis]
            borders.append((shift, reach[axis] - counts[axis] - shift))
        return _pad(tap, borders)

    def phase(remainders: Sequence[int]) -> jax.Array:
        entries = (
            [index for index in range(k) if index * d % step == remainder]
            for k, d, step, remainder in zip(window, dilation, stride, remainders, strict=True)
        )
        maps = [place(entry) for entry in product(*entries)]
        return sum(maps[1:], start=maps[0]) if maps else jnp.zeros_like(place((0,) * n))

    def interleaved(remainders: tuple[int, ...]) -> jax.Array:
        """All phases with these first remainders, an axis at a time: a sharded array refuses to merge two at once."""
        axis = len(remainders)
        if axis == n:
            return phase(remainders)
        parts = [interleaved((*remainders, remainder)) for remainder in range(stride[axis])]
        stacked = jnp.stack(parts, first + axis + 1)
        before, after = stacked.shape[: first + axis], stacked.shape[first + axis + 2 :]
        return stacked.reshape(*before, reach[axis] * stride[axis], *after)

    image = interleaved(())
    for axis, (begin, _) in enumerate(padding):
        image = lax.slice_in_dim(image, begin, begin + size[axis], axis=first + axis)
    return image


def _is_whole_image(window: Numbers, padding: Pairs, size: Numbers) -> bool:
    """Whether there is one window, the whole image."""
    return size == window and not any(map(any, padding))


def _pad(x: jax.Array, borders: Sequence[tuple[int, int]]) -> jax.Array:
    """Adds zeros around images. `jnp.pad` does the same, but takes several times longer to trace."""
    first = x.ndim - 1 - len(borders)
    return lax.pad(
        x, jnp.zeros((), x.dtype), ((0, 0, 0),) * first + tuple((*pair, 0) for pair in borders) + ((0, 0, 0),)
    )


unfold_p, fold_p = transposes("unfold", _unfold, "fold", _fold)
