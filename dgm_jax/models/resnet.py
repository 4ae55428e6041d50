"""The residual pair of ImageNet-50, for square images of side 4 * 2^n: 8, 16, 32 (the paper's), 64 ...

The generator maps the noise to 4x4 maps, then doubles their side in masked residual blocks: two 3x3 convolutions, and
beside them a 1x1 shortcut. Both branches meet *before* the block's last norm, so that a block ends like any other
layer, `gate(relu(norm(sum)))`, and a closed unit emits exactly 0. The shortcut is masked too, and is there even where
the widths are equal: an identity could be neither masked nor protected, and growth would break it. An output layer for
each class, a 3x3 convolution and tanh, ends it.

The discriminator is a ResNet-18 whose first convolution is 3x3 with stride 1, with a layer of features under its heads.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.models.discriminator import Output, heads, init_heads
from dgm_jax.models.generator import DEVIATION, FROM_NOISE, Edge, Generator, OutputLayer, host_generator, n_doublings
from dgm_jax.models.normalisation import batch_norm, init_norm, init_statistics
from dgm_jax.nn import conv, masked_conv, product
from dgm_jax.types import DiscriminatorParams, Statistics, Tree

_BLOCKS_PER_STAGE = 2
_FEATURES = 2  # Times the width: 128 for a width of 64.

_SAME = partial(masked_conv, stride=1, padding=1)
_OUTPUT = partial(conv, stride=1, padding=1)


def _doubled(x: jax.Array) -> jax.Array:
    """Twice as large images, by repeating each pixel."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


def _doubling(params: Mapping[str, jax.Array], x: jax.Array, gate: jax.Array | None) -> jax.Array:
    return masked_conv(params, _doubled(x), gate, stride=1, padding=1)


def _shortcut(params: Mapping[str, jax.Array], x: jax.Array, gate: jax.Array | None) -> jax.Array:
    return _doubled(masked_conv(params, x, gate, stride=1, padding=0))  # The other order, at four times the work.


def generator(image_size: int) -> Generator:
    """A linear layer, then a residual block, of two layers, for each doubling of the side from 4.

    Kernels, in order: the linear one, then of each block the first and second of the main branch, and the shortcut.
    """
    edges = [FROM_NOISE]
    side = 4
    for block in range(n_doublings(image_size)):
        hidden, side = 2 * block + 1, 2 * side
        edges += [
            Edge(hidden - 1, hidden, 3, side**2, _doubling),
            Edge(hidden, hidden + 1, 3, side**2, _SAME),
            # As much as the main branch brings, from a ninth of the weights.
            Edge(hidden - 1, hidden + 1, 1, side**2 // 4, _shortcut, deviation=3 * DEVIATION),
        ]
    return Generator(tuple(edges), OutputLayer(3, side**2, _OUTPUT), sized_by_weights=True)


def generator_widths(width: int, image_size: int) -> tuple[int, ...]:
    """Output units of each masked layer of a new generator: `width` in all."""
    return (width,) * (1 + 2 * n_doublings(image_size))


def init_discriminator(
    key: jax.Array, *, width: int, image_size: int, channels: int, n_classes: int
) -> tuple[DiscriminatorParams, list[Statistics]]:
    """Fresh parameters and running statistics of a discriminator.

    Returns:
      Parameters with the trunk {"stem": layer, "blocks": [{"first": layer, "second": layer, "shortcut": layer (where
      shapes change)}, ...], "features": layer}, where a layer is {"kernel": [k, k, c_in, c_out] or [c_in, c_out],
      "norm": Norm of c_out}; and the statistics of the norms, in this order.
    """
    random = host_generator(key)
    widths: list[int] = []

    def layer(*shape: int) -> dict[str, Any]:
        widths.append(shape[-1])
        deviation = np.sqrt(2 / np.prod(shape[:-1]))  # He et al. 2015: keeps the scale through rectified layers.
        return {"kernel": random.normal(0, deviation, shape).astype(np.float32), "norm": init_norm(shape[-1])}

    trunk: dict[str, Tree] = {"stem": layer(3, 3, channels, width), "blocks": []}
    for c_in, c_out, stride in _blocks(width, image_size):
        block = {"first": layer(3, 3, c_in, c_out), "second": layer(3, 3, c_out, c_out)}
        trunk["blocks"].append(block | ({"shortcut": layer(1, 1, c_in, c_out)} if stride == 2 else {}))
        last = c_out
    trunk["features"] = layer(last, _FEATURES * width)
    params = DiscriminatorParams(trunk, **init_heads(random, _FEATURES * width, n_classes))
    return params, [init_statistics(w) for w in widths]


def _blocks(width: int, image_size: int) -> Iterator[tuple[int, int, int]]:
    """(c_in, c_out, stride) of each residual block: two a stage, a stage for each side down to 4x4."""
    c_in = width
    for stage in range(n_doublings(image_size) + 1):
        for block in range(_BLOCKS_PER_STAGE):
            c_out = width * 2**stage
            yield c_in, c_out, 2 if stage > 0 and block == 0 else 1
            c_in = c_out


@partial(jax.jit, static_argnames=("train", "axis_name", "form"))
def discriminate(
    params: DiscriminatorParams,
    statistics: Sequence[Statistics],
    images: jax.Array,
    *,
    train: bool,
    axis_name: str | None = None,
    form: Literal["xla"] | None = None,
) -> tuple[Output, list[Statistics]]:
    """Computes critic, logits and features of images; see `Pair.discriminate`."""
    trunk, remaining = params.trunk, iter(statistics)
    updated: list[Statistics] = []

    def normalised(layer: Tree, x: jax.Array) -> jax.Array:
        x, running = batch_norm(layer["norm"], next(remaining), x, train=train, axis_name=axis_name)
        updated.append(running)
        return x

    def convolved(layer: Tree, x: jax.Array, stride: int) -> jax.Array:
        padding = layer["kernel"].shape[0] // 2
        return normalised(layer, conv(x, layer["kernel"], stride=stride, padding=padding, form=form))

    x = jax.nn.relu(convolved(trunk["stem"], images, 1))
    for block in trunk["blocks"]:
        stride = 2 if "shortcut" in block else 1
        main = jax.nn.relu(convolved(block["first"], x, stride))
        main = convolved(block["second"], main, 1)
        x = jax.nn.relu(main + (convolved(block["shortcut"], x, stride) if "shortcut" in block else x))
    pooled = jnp.mean(x, axis=(1, 2))
    features = jax.nn.relu(normalised(trunk["features"], product(pooled, trunk["features"]["kernel"])))
    return heads(params, features), updated


def discriminator_flops(width: int, image_size: int, channels: int) -> float:
    """Floating-point operations of one forward pass of the convolutions for one image."""
    side = image_size
    total = side**2 * 9 * channels * width
    for c_in, c_out, stride in _blocks(width, image_size):
        side //= stride
        total += side**2 * (9 * c_in * c_out + 9 * c_out * c_out + (c_in * c_out if stride == 2 else 0))
    return 2.0 * total
