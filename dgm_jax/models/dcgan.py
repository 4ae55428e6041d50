"""The authors' DCGAN pair, for square images of side 4 * 2^n: 16, 32 (theirs), 64 ...

A generator of masked transposed convolutions `noise -> ... -> 2 width -> width` and an output layer for each class; a
discriminator with a convolutional trunk and two linear heads, the critic and the auxiliary classifier. No biases in
convolutions. Kernels are [k, k, c_in, c_out].
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import numpy as np

from dgm_jax.models.discriminator import Output, heads, init_heads
from dgm_jax.models.generator import DEVIATION, FROM_NOISE, Edge, Generator, OutputLayer, host_generator, n_doublings
from dgm_jax.models.normalisation import batch_norm, init_norm, init_statistics
from dgm_jax.nn import conv, conv_transpose, masked_conv_transpose
from dgm_jax.types import DiscriminatorParams, Statistics, Tree

_KERNEL = 4  # Of the generator's layers.
_TRUNK_KERNEL = 5
_LEAK = 0.2

_DOUBLING = partial(masked_conv_transpose, stride=2, padding=1)
_OUTPUT = partial(conv_transpose, stride=2, padding=1)


def generator(image_size: int) -> Generator:
    """A chain of masked layers: the first makes 4x4 maps, each other doubles their side, and so does the output."""
    sides = [4 * 2**i for i in range(n_doublings(image_size))]
    others = [Edge(i - 1, i, _KERNEL, sides[i - 1] ** 2, _DOUBLING) for i in range(1, len(sides))]
    return Generator((FROM_NOISE, *others), OutputLayer(_KERNEL, sides[-1] ** 2, _OUTPUT))


def generator_widths(width: int, image_size: int) -> tuple[int, ...]:
    """Output units of each masked layer of a new generator, first to last: ..., 4 width, 2 width, width."""
    return tuple(width * 2**i for i in reversed(range(n_doublings(image_size))))


def init_discriminator(
    key: jax.Array, *, width: int, image_size: int, channels: int, n_classes: int
) -> tuple[DiscriminatorParams, list[Statistics]]:
    """Fresh parameters and running statistics of a discriminator.

    Returns:
      Parameters with the trunk {"trunk": [{"kernel": [5, 5, c_in, c_out], "norm": Norm (not in the first)}, ...]}, a
      critic [features, 1] and a classifier [features, n_classes]; and the statistics of the norms, second layer to
      last.
    """
    random = host_generator(key)
    widths = _trunk_widths(width, image_size)
    layers: list[dict[str, Tree]] = []
    for c_in, c_out in itertools.pairwise((channels, *widths)):
        shape = (_TRUNK_KERNEL, _TRUNK_KERNEL, c_in, c_out)
        norm = {"norm": init_norm(c_out)} if layers else {}
        layers.append({"kernel": random.normal(0, DEVIATION, shape).astype(np.float32), **norm})
    params = DiscriminatorParams({"trunk": layers}, **init_heads(random, 4 * 4 * widths[-1], n_classes))
    return params, [init_statistics(w) for w in widths[1:]]


def _trunk_widths(width: int, image_size: int) -> list[int]:
    return [width * 2**i for i in range(n_doublings(image_size))]


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
    x = images
    updated = []
    for i, layer in enumerate(params.trunk["trunk"]):
        x = conv(x, layer["kernel"], stride=2, padding=2, form=form)
        if "norm" in layer:
            x, running = batch_norm(layer["norm"], statistics[i - 1], x, train=train, axis_name=axis_name)
            updated.append(running)
        x = jax.nn.leaky_relu(x, _LEAK)
    return heads(params, x.reshape(x.shape[0], -1)), updated


def discriminator_flops(width: int, image_size: int, channels: int) -> float:
    """Floating-point operations of one forward pass of the trunk for one image."""
    total, side = 0.0, image_size
    for c_in, c_out in itertools.pairwise((channels, *_trunk_widths(width, image_size))):
        side //= 2
        total += 2 * side**2 * _TRUNK_KERNEL**2 * c_in * c_out
    return total
