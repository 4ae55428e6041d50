"""The authors' DCGAN pair, for square images of side 4 * 2^n: 16, 32 (theirs), 64 ...

A generator of masked transposed convolutions `noise -> ... -> 2 width -> width` and an output layer for each class; a
discriminator with a convolutional trunk and two linear heads, the critic and the auxiliary classifier. No biases in
convolutions. Kernels are [k, k, c_in, c_out].
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.models.normalisation import batch_norm, init_norm, init_statistics
from dgm_jax.nn import conv, conv_transpose, gate_units, gates_weights, masked_conv_transpose, product

Params = Any

_KERNEL = 4  # Of the generator's layers.
_TRUNK_KERNEL = 5
_DEVIATION = 0.02
_LEAK = 0.2


class Output(NamedTuple):
    """What the discriminator says of a batch."""

    critic: jax.Array  # [batch]
    logits: jax.Array  # [batch, classes]
    features: jax.Array  # [batch, n]: what both heads see.


def n_layers(image_size: int) -> int:
    """Masked layers of the generator, and convolutions of the trunk: one for each halving of the image down to 4x4."""
    return int(np.log2(image_size)) - 2


def generator_widths(width: int, image_size: int) -> tuple[int, ...]:
    """Output units of each masked layer of a new generator, first to last: ..., 4 width, 2 width, width."""
    return tuple(width * 2**i for i in reversed(range(n_layers(image_size))))


def kernel_shapes(widths: Sequence[int], noise_dim: int) -> list[tuple[int, int, int, int]]:
    """Shapes of the masked kernels of a generator of these widths."""
    inputs = (noise_dim, *widths[:-1])
    return [(_KERNEL, _KERNEL, c_in, c_out) for c_in, c_out in zip(inputs, widths)]


def init_kernels(key: jax.Array, widths: Sequence[int], noise_dim: int) -> list[np.ndarray]:
    """Fresh weights of the masked layers, N(0, 0.02): what tasks share, protect and grow."""
    random = host_generator(key)
    return [random.normal(0, _DEVIATION, shape).astype(np.float32) for shape in kernel_shapes(widths, noise_dim)]


def init_task(key: jax.Array, widths: Sequence[int], channels: int, n_heads: int) -> Params:
    """Fresh parameters that belong to one task alone: its norms, and an output layer for each of its classes.

    Returns:
      {"norms": [{"scale": [c_l], "shift": [c_l]}, ...], "heads": [n_heads, 4, 4, c_last, channels]}.
    """
    # Output layers start wide, U(+-1 / sqrt(k^2 channels)): with N(0, 0.02) a short training stays grey.
    bound = 1 / np.sqrt(_KERNEL**2 * channels)
    shape = (n_heads, _KERNEL, _KERNEL, widths[-1], channels)
    heads = host_generator(key).uniform(-bound, bound, shape).astype(np.float32)
    return {"norms": [init_norm(width) for width in widths], "heads": heads}


def host_generator(key: jax.Array) -> np.random.Generator:
    """NumPy's generator for a key: what is drawn once in ever new shapes would be compiled anew on a device."""
    return np.random.Generator(np.random.Philox(key=np.asarray(jax.random.key_data(key), np.uint64)))


def init_generator_statistics(widths: Sequence[int]) -> list[Params]:
    """Running statistics of a task's norms before its first batch."""
    return [init_statistics(width) for width in widths]


def conditioned_noise(key: jax.Array, classes: jax.Array, *, noise_dim: int, n_conditioned: int) -> jax.Array:
    """Draws noise whose first `n_conditioned` entries are the one-hot class (ALGORITHM, section 2).

    Args:
      key: a PRNG key.
      classes: [batch] class indices below `n_conditioned`.
      noise_dim: entries in all.
      n_conditioned: entries for the class.

    Returns:
      [batch, noise_dim]: one-hot, then N(0, 1).
    """
    free = jax.random.normal(key, (classes.shape[0], noise_dim - n_conditioned))
    return jnp.concatenate([jax.nn.one_hot(classes, n_conditioned), free], axis=1)


# Both networks are jitted, so that a program which calls them several times traces them once.
@partial(jax.jit, static_argnames=("train", "gate_before_norm", "axis_name"))
def generate(
    params: Params,
    statistics: Sequence[Params],
    masks: Sequence[jax.Array | None],
    noise: jax.Array,
    head: jax.Array,
    *,
    train: bool,
    gate_before_norm: bool = False,
    axis_name: str | None = None,
) -> tuple[jax.Array, list[Params]]:
    """Draws images: G(z, y).

    Args:
      params: {"kernels": [...], "norms": [...], "heads": [n_heads, 4, 4, c_last, channels]}, the last two of one task.
      statistics: running {"mean", "var"} of each norm.
      masks: one a layer: [c_l] gates units after norm and ReLU (DGMa); a kernel's shape gates weights (DGMw); None
        gates nothing.
      noise: [batch, noise_dim], the one-hot class already in it.
      head: [batch], which of the task's output layers each image uses.
      train: normalise by the batch, and update the running statistics.
      gate_before_norm: gate units before their norm, as the released code does (DGMa only).
      axis_name: the mapped axis over which the batch is split, if any.

    Returns:
      Images in [-1, 1], [batch, 4 * 2^layers, 4 * 2^layers, channels], and the new running statistics.
    """
    x = noise[:, None, None, :]
    updated = []
    layers = zip(params["kernels"], params["norms"], statistics, masks, strict=True)
    for i, (kernel, norm, running, mask) in enumerate(layers):
        unit_gate = None if mask is None or gates_weights(mask) else mask
        weight_gate = mask if unit_gate is None else None
        if gate_before_norm and weight_gate is not None:
            raise ValueError("gate_before_norm is for gated units (DGMa); weights are always gated before the norm")
        geometry = {"stride": 1, "padding": 0} if i == 0 else {"stride": 2, "padding": 1}
        before = unit_gate if gate_before_norm else weight_gate
        x = masked_conv_transpose({"kernel": kernel}, x, before, **geometry)
        x, running = batch_norm(norm, running, x, train=train, axis_name=axis_name)
        x = jax.nn.relu(x)
        if not gate_before_norm:
            x = gate_units(x, unit_gate)
        updated.append(running)
    return jnp.tanh(_output_layer(params["heads"], x, head)), updated


def _output_layer(heads: jax.Array, x: jax.Array, head: jax.Array) -> jax.Array:
    """Applies to each image the output layer of its class."""
    if heads.shape[0] == 1:  # One class a task: one product for the whole batch.
        return conv_transpose(x, heads[0], stride=2, padding=1)

    def one(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv_transpose(image[None], kernel, stride=2, padding=1)[0]

    return jax.vmap(one)(x, heads[head])


def init_discriminator(
    key: jax.Array, *, width: int, image_size: int, channels: int, n_classes: int
) -> tuple[Params, list[Params]]:
    """Fresh parameters and running statistics of a discriminator.

    Returns:
      {"trunk": [{"kernel": [5, 5, c_in, c_out], "norm": {...} (not in the first)}, ...],
       "critic": {"kernel": [features, 1], "bias": [1]}, "classifier": {"kernel": [features, n_classes], "bias": ...}},
      and the statistics of the trunk's norms, second layer to last.
    """
    random = host_generator(key)
    depth = n_layers(image_size)
    widths = [width * 2**i for i in range(depth)]
    trunk: list[Params] = []
    for i, c_out in enumerate(widths):
        shape = (_TRUNK_KERNEL, _TRUNK_KERNEL, channels if i == 0 else widths[i - 1], c_out)
        layer: Params = {"kernel": random.normal(0, _DEVIATION, shape).astype(np.float32)}
        trunk.append(layer if i == 0 else layer | {"norm": init_norm(c_out)})
    features = 4 * 4 * widths[-1]
    params = {
        "trunk": trunk,
        "critic": _init_linear(random, features, 1),
        "classifier": _init_linear(random, features, n_classes),
    }
    return params, [init_statistics(w) for w in widths[1:]]


def _init_linear(random: np.random.Generator, inputs: int, outputs: int) -> Params:
    bound = 1 / np.sqrt(inputs)
    return {
        "kernel": random.uniform(-bound, bound, (inputs, outputs)).astype(np.float32),
        "bias": random.uniform(-bound, bound, outputs).astype(np.float32),
    }


@partial(jax.jit, static_argnames=("train", "axis_name"))
def discriminate(
    params: Params, statistics: Sequence[Params], images: jax.Array, *, train: bool, axis_name: str | None = None
) -> tuple[Output, list[Params]]:
    """Judges images: the critic's value D(x), and the auxiliary classifier's logits.

    Args:
      params: as `init_discriminator` makes them.
      statistics: running statistics of the trunk's norms.
      images: [batch, height, width, channels] in [-1, 1].
      train: normalise by the batch, and update the running statistics.
      axis_name: the mapped axis over which the batch is split, if any.

    Returns:
      (critic [batch], logits [batch, classes], features [batch, n]) and the new running statistics.
    """
    x = images
    updated = []
    for i, layer in enumerate(params["trunk"]):
        x = conv(x, layer["kernel"], stride=2, padding=2)
        if i > 0:
            x, running = batch_norm(layer["norm"], statistics[i - 1], x, train=train, axis_name=axis_name)
            updated.append(running)
        x = jax.nn.leaky_relu(x, _LEAK)
    features = x.reshape(x.shape[0], -1)
    critic = _linear(params["critic"], features)[:, 0]
    return Output(critic, _linear(params["classifier"], features), features), updated


def _linear(params: Params, x: jax.Array) -> jax.Array:
    return product(x, params["kernel"]) + params["bias"][None]
