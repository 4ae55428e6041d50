"""Draws images of a class: of one mode, or of all in proportion to the images that they stand for.

A class has a *mode* for each task that brought images of it. Usually that is one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp

from dgm_jax.memory.task import TaskMemory
from dgm_jax.models.generator import Generator, conditioned_noise
from dgm_jax.system.pinned import as_key, pinned
from dgm_jax.types import SamplerParams

CHUNK = 128  # Images drawn by one call: a constant, so that what is drawn does not depend on how many are asked for.

Params = TypeVar("Params")


@partial(jax.jit, static_argnums=0, static_argnames=("noise_dim", "n_conditioned"))
def sample_chunk(
    generator: Generator,
    cut: SamplerParams,
    key: jax.Array,
    start: jax.Array,
    entry: jax.Array,
    *,
    noise_dim: int,
    n_conditioned: int,
) -> jax.Array:
    """Draws the images number `start` to `start + CHUNK - 1` of a key and of the class with this entry of the noise.

    `cut` is the sub-network of the class's task, with the one output layer of the class. The images are float32 in
    [-1, 1], [CHUNK, height, width, channels]; vectors are [CHUNK, d], or [CHUNK, 1, 1, d] if `cut` has no scale.
    """
    keys = _keys(key, start)
    one_noise = partial(conditioned_noise, noise_dim=noise_dim, n_conditioned=n_conditioned)
    noise = jax.vmap(lambda k: one_noise(k, jnp.asarray(entry)[None])[0])(keys)
    masks = [None] * len(cut.generator.kernels)  # The masks are applied already.
    head = jnp.zeros(CHUNK, jnp.int32)
    with jax.default_matmul_precision("highest"):  # Whatever precision the training used.
        images = generator.generate(cut.generator, cut.statistics, masks, noise, head, train=False)[0]
    return images if cut.scale is None else cut.scale.restored(images)


def _keys(key: jax.Array, start: jax.Array | int) -> jax.Array:
    """The key of each image of a chunk."""
    return jax.vmap(partial(jax.random.fold_in, key))(start + jnp.arange(CHUNK))


def of_mode(generator: Generator, task: TaskMemory, noise_dim: int) -> Callable[..., jax.Array]:
    """The function `draw(params, key, start=0)` of a mode, given as a task of one class; `params` is its cut."""
    (entry,), n_conditioned = task.noise_entries, task.n_conditioned

    @pinned()
    def draw(params: SamplerParams, key: jax.Array, start: jax.Array | int = 0) -> jax.Array:
        key = as_key(key)
        return sample_chunk(generator, params, key, start, entry, noise_dim=noise_dim, n_conditioned=n_conditioned)

    return draw


def mixed(modes: Sequence[Callable[..., jax.Array]], shares: Sequence[int]) -> Callable[..., jax.Array]:
    """The function `draw(params, key, start=0)` of several modes; `params` has those of each.

    Image i of a key is, bit for bit, image i of the key of one of the modes; `chosen_mode` says of which.

    Args:
      modes: the function of each mode.
      shares: `shares_of` the modes.
    """

    @pinned()
    def draw(params: Sequence[Params], key: jax.Array, start: jax.Array | int = 0) -> jax.Array:
        images = modes[0](params[0], key, start)
        chosen = chosen_mode(as_key(key), start, shares).reshape(-1, *(images.ndim - 1) * [1])
        for number, (one, own) in enumerate(zip(modes[1:], params[1:], strict=True), start=1):
            images = jnp.where(chosen == number, one(own, key, start), images)
        return images

    return draw


def shares_of(counts: Sequence[int]) -> tuple[int, ...]:
    """For each mode but the first, its share of the images that it and the modes before stand for, in parts of 2^32.

    Args:
      counts: training images that each mode stands for.
    """
    totals = [sum(counts[: number + 1]) for number in range(len(counts))]
    return tuple(min((count << 32) // total, 2**32 - 1) for count, total in zip(counts[1:], totals[1:], strict=True))


def chosen_mode(key: jax.Array, start: jax.Array | int, shares: Sequence[int] | jax.Array) -> jax.Array:
    """From which mode each image of a chunk comes, int32 [CHUNK]: each mode in proportion to what it stands for.

    Mode k takes each image from the modes before it with the probability of its share. So a mode that is added replaces
    only those images that come from it, and says nothing about which earlier mode the others come from.

    Args:
      key: a PRNG key.
      start: number of the first image.
      shares: `shares_of` the modes; a share of 0 takes no image.
    """
    keys, chosen = _keys(key, start), jnp.zeros(CHUNK, jnp.int32)
    for number, share in enumerate(shares, start=1):
        # The key of an image draws its noise; one folded in is for its mode.
        bits = jax.vmap(lambda k, n=number: jax.random.bits(jax.random.fold_in(k, n), (), jnp.uint32))(keys)
        chosen = jnp.where(bits < jnp.asarray(share, jnp.uint32), number, chosen)
    return chosen
