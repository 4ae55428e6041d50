"""Random changes to images that keep their class; each image of a batch gets a different one."""

import jax
import jax.numpy as jnp
from jax import lax

from dgm_jax.config import Config


def augmented(key: jax.Array, images: jax.Array, config: Config) -> jax.Array:
    """Images, [batch, h, w, c] in [-1, 1], as the settings `consolidation_*` ask a classifier to learn them."""
    # `shifted` takes the key itself and splits it: no other change may fold 0 or 1 into it. Keys stay as they are, so
    # that earlier runs can be repeated bit for bit.
    if config.consolidation.consolidation_flip:
        images = flipped(jax.random.fold_in(key, 3), images)
    if config.consolidation.consolidation_shift:
        images = shifted(key, images, config.consolidation.consolidation_shift)
    if config.consolidation.consolidation_noise:
        images = noisy(jax.random.fold_in(key, 4), images, config.consolidation.consolidation_noise)
    return images


def shifted(key: jax.Array, images: jax.Array, reach: int) -> jax.Array:
    """Moves each image, [batch, h, w, c], by up to `reach` pixels each way; its border is repeated outwards."""
    return shift_images(images, jax.random.randint(key, (images.shape[0], 2), 0, 2 * reach + 1), reach)


def shift_images(images: jax.Array, offsets: jax.Array, reach: int) -> jax.Array:
    """Moves each image, [batch, h, w, c], by `offsets - reach` pixels, [batch, 2] in [0, 2 reach]; see `shifted`."""
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def flipped(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image, [batch, h, w, c], left to right, or leaves it."""
    mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def noisy(key: jax.Array, images: jax.Array, most: float) -> jax.Array:
    """Adds normal noise to images, [batch, h, w, c] in [-1, 1]; each has its own deviation, uniform in [0, `most`]."""
    deviation_key, noise_key = jax.random.split(key)
    deviation = jax.random.uniform(deviation_key, (images.shape[0], 1, 1, 1), maxval=most)
    return images + deviation * jax.random.normal(noise_key, images.shape)
