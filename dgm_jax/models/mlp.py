"""The pair for vectors, such as features of another network: all layers are dense.

A vector of d numbers is an image of a single pixel with d channels, and a dense layer is a convolution with a 1x1
kernel. So masks, gates, reservation and growth are the same code as for images. The generator is a chain of masked
layers and a linear output layer for each class; no tanh bounds it, because vectors have no range. The discriminator has
a trunk of dense layers and the two linear heads.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import numpy as np

from dgm_jax.models.discriminator import Output, heads, init_heads
from dgm_jax.models.generator import Edge, Generator, OutputLayer, host_generator
from dgm_jax.models.normalisation import batch_norm, init_norm, init_statistics
from dgm_jax.nn import INPUT, conv, masked_conv, product
from dgm_jax.types import DiscriminatorParams, Statistics, Tree

_LAYERS = 2  # Hidden layers, of the generator and of the trunk.
_LEAK = 0.2
_GAIN = 2.0  # Of fresh output layers: what they give varies about as much as scaled vectors do, at any width.

_DENSE = partial(masked_conv, stride=1, padding=0)
_OUTPUT = partial(conv, stride=1, padding=0)


def _unbounded(x: jax.Array) -> jax.Array:
    return x


def generator(image_size: int) -> Generator:
    """A chain of masked dense layers; `image_size` is 1."""
    edges = [Edge(INPUT, 0, 1, 1, _DENSE), *(Edge(i - 1, i, 1, 1, _DENSE) for i in range(1, _LAYERS))]
    return Generator(tuple(edges), OutputLayer(1, 1, _OUTPUT, _unbounded, gain=_GAIN))


def generator_widths(width: int, image_size: int) -> tuple[int, ...]:
    """Output units of each masked layer of a new generator: `width` in all."""
    return (width,) * _LAYERS


def init_discriminator(
    key: jax.Array, *, width: int, image_size: int, channels: int, n_classes: int
) -> tuple[DiscriminatorParams, list[Statistics]]:
    """Fresh parameters and running statistics of a discriminator of vectors of `channels` numbers.

    Returns:
      Parameters with the trunk {"trunk": [{"kernel": [c_in, width], "norm": Norm (not in the first)}, ...]}, a critic
      [width, 1] and a classifier [width, n_classes]; and the statistics of the norms, second layer to last.
    """
    random = host_generator(key)
    widths = [channels, *[width] * _LAYERS]
    layers: list[dict[str, Tree]] = []
    for c_in, c_out in itertools.pairwise(widths):
        deviation = np.sqrt(2 / c_in)  # He et al. 2015: keeps the scale through rectified layers.
        norm = {"norm": init_norm(c_out)} if layers else {}
        layers.append({"kernel": random.normal(0, deviation, (c_in, c_out)).astype(np.float32), **norm})
    params = DiscriminatorParams({"trunk": layers}, **init_heads(random, width, n_classes))
    return params, [init_statistics(width) for _ in layers[1:]]


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
    """Computes critic, logits and features of scaled vectors, [batch, 1, 1, channels]; see `Pair.discriminate`."""
    x = images.reshape(images.shape[0], -1)
    updated = []
    for i, layer in enumerate(params.trunk["trunk"]):
        x = product(x, layer["kernel"])
        if "norm" in layer:
            x, running = batch_norm(layer["norm"], statistics[i - 1], x, train=train, axis_name=axis_name)
            updated.append(running)
        x = jax.nn.leaky_relu(x, _LEAK)
    return heads(params, x), updated


def discriminator_flops(width: int, image_size: int, channels: int) -> float:
    """Floating-point operations of one forward pass of the trunk for one vector."""
    return 2.0 * (channels * width + (_LAYERS - 1) * width**2)
