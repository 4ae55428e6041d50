"""Features of one layer of filters that are learnt without labels and then kept (Coates, Lee and Ng 2011).

Each patch of an image is freed of its mean and contrast and whitened. A filter is a direction in this whitened space: a
centre of clusters of many patches, never a patch itself, which would be a piece of a stored image. An image's features
are the rectified responses of both signs, averaged over its four quadrants.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dgm_jax import nn
from dgm_jax.types import Array

WINDOW = 6  # The side of a patch.
_CONTRAST = 10 / 127.5  # Added (squared, to the variance) so that flat patches are not blown up.
_THRESHOLD = 0.5  # Responses below it count as none.
_WHITENING = 0.1  # Added to the variance of each direction.
_ROUNDS = 20  # Of the search for clusters.
_FEWEST = 20  # A centre of fewer patches would resemble one of them: it is replaced by a random direction.


@struct.dataclass
class PatchFilters:
    """A fixed map from images to features."""

    kernel: Array  # [window, window, channels, filters]; each filter sums to 0, so that a patch's mean does not matter.
    shift: Array  # [filters], subtracted from the responses: those of the mean patch.

    @property
    def n_features(self) -> int:
        """Features of an image: two signs of each filter in four quadrants."""
        return 8 * self.kernel.shape[-1]


def learn_filters(key: jax.Array, images: np.ndarray, n_filters: int, *, n_patches: int) -> PatchFilters:
    """Finds the centres of `n_filters` clusters of whitened patches of images.

    Args:
      key: a PRNG key.
      images: uint8 [n, height, width, channels].
      n_filters: how many.
      n_patches: how many patches are drawn at random.
    """
    patch_key, centre_key = jax.random.split(key)
    patches = _normalised(_random_patches(patch_key, images, n_patches))
    mean, whiten = _whitening(np.asarray(patches))
    centres = _cluster(centre_key, (patches - mean) @ whiten, n_filters)
    filters = whiten @ np.asarray(centres, np.float64).T
    filters -= filters.mean(axis=0)
    kernel = filters.reshape(WINDOW, WINDOW, images.shape[3], n_filters)
    return PatchFilters(np.float32(kernel), np.float32(mean @ filters))


def features(filters: PatchFilters, images: jax.Array) -> jax.Array:
    """Features [n, features] of images [n, height, width, channels] in [-1, 1]."""
    size = images.shape[3] * WINDOW**2
    ones = jnp.ones((WINDOW, WINDOW, images.shape[3], 1), images.dtype)
    response, total, squares = (
        nn.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        for x, kernel in ((images, filters.kernel), (images, ones), (images**2, ones))
    )
    variance = jnp.maximum(squares / size - (total / size) ** 2, 0)
    response = response / jnp.sqrt(variance + _CONTRAST**2) - filters.shift
    signs = jnp.concatenate([response, -response], axis=3)
    active = jnp.maximum(signs - _THRESHOLD, 0)
    half = active.shape[1] // 2
    quadrants = [active[:, y, x].mean(axis=(1, 2)) for y in _halves(half) for x in _halves(active.shape[2] // 2)]
    return jnp.concatenate(quadrants, axis=1)


def _halves(middle: int) -> tuple[slice, slice]:
    return slice(None, middle), slice(middle, None)


def _random_patches(key: jax.Array, images: np.ndarray, n: int) -> np.ndarray:
    """Patches [n, window * window * channels] of random images at random places, in [-1, 1]."""
    high = np.array([len(images), images.shape[1] - WINDOW + 1, images.shape[2] - WINDOW + 1])
    rows, tops, lefts = np.asarray(jax.random.randint(key, (n, 3), 0, high)).T
    offsets = np.arange(WINDOW)
    picked = images[rows[:, None, None], (tops[:, None] + offsets)[:, :, None], (lefts[:, None] + offsets)[:, None]]
    return picked.reshape(n, -1).astype(np.float32) / 127.5 - 1


def _normalised(patches: np.ndarray) -> np.ndarray:
    mean, variance = patches.mean(axis=1, keepdims=True), patches.var(axis=1, keepdims=True)
    return (patches - mean) / np.sqrt(variance + _CONTRAST**2)


def _whitening(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean patch, and the symmetric matrix that gives all directions about the same variance; float64."""
    mean = patches.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(np.cov(patches, rowvar=False).astype(np.float64))
    return mean, directions @ (directions / np.sqrt(variances + _WHITENING)).T


def _cluster(key: jax.Array, patches: np.ndarray, n: int) -> jax.Array:
    """Centres of clusters, of unit length, [n, size]: each patch belongs to the centre it points along most."""
    *keys, first = jax.random.split(key, _ROUNDS + 1)
    data = jnp.asarray(patches, jnp.float32)
    centres = _directions(first, (n, data.shape[1]))
    for round_key in keys:
        centres = _moved(round_key, centres, data)
    return centres


@jax.jit
def _moved(key: jax.Array, centres: jax.Array, patches: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        closeness = patches @ centres.T
        best = jnp.argmax(closeness, axis=1)
        weights = jax.nn.one_hot(best, len(centres)) * jnp.take_along_axis(closeness, best[:, None], axis=1)
        summed = weights.T @ patches
    counts = jnp.zeros(len(centres), jnp.int32).at[best].add(1)
    directions = summed / jnp.maximum(jnp.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
    return jnp.where((counts >= _FEWEST)[:, None], directions, _directions(key, centres.shape))


def _directions(key: jax.Array, shape: tuple[int, ...]) -> Any:
    random = jax.random.normal(key, shape)
    return random / jnp.linalg.norm(random, axis=1, keepdims=True)
