"""Features of one layer of filters that are learnt without labels and then kept (Coates, Lee and Ng 2011).

Each patch of an image is freed of its mean and contrast and whitened. A filter is a direction in this whitened space: a
centre of clusters of many patches, never a patch itself, which would be a piece of a stored image. An image's features
are the rectified responses of both signs, averaged over its four quadrants.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from dgm_jax import nn
from dgm_jax.models.prediction import to_unit_range
from dgm_jax.types import Array

WINDOW = 6  # The side of a patch.
GROUP = 8  # Images whose responses are computed at once: on CPUs they fit the cache.
_CONTRAST = 10 / 127.5  # Added (squared, to the variance) so that flat patches are not blown up.
_THRESHOLD = 0.5  # Responses below it count as none.
_WHITENING = 0.1  # Added to the variance of each direction.
_PATCHES = 200_000  # From which filters are found.
_PATCHES_AT_ONCE = 4096
_ROUNDS = 20  # Of the search for clusters.
_FEWEST = 20  # A centre of fewer patches could resemble one of them: a random direction takes its place.


@struct.dataclass
class PatchFilters:
    """A fixed map from images to features."""

    kernel: Array  # [window, window, channels, filters]; each filter sums to 0, so that a patch's mean does not matter.
    shift: Array  # [filters], subtracted from the responses: those of the mean patch.


def n_features(n_filters: int) -> int:
    """Features of an image: two signs of each filter in four quadrants."""
    return 8 * n_filters


def learn_filters(key: jax.Array, images: np.ndarray, n_filters: int) -> PatchFilters:
    """Finds the centres of clusters of whitened patches.

    Args:
      key: a PRNG key.
      images: uint8 [n, height, width, channels], at least as large as a patch.
      n_filters: how many.
    """
    patch_key, centre_key = jax.random.split(key)
    patches = _normalised(_random_patches(patch_key, images))
    mean, whiten = _whitening(patches)
    centres = _clustered(centre_key, ((patches - mean) @ whiten).astype(np.float32), n_filters)
    filters = whiten @ np.asarray(centres, np.float64).T
    filters -= filters.mean(axis=0)
    kernel = filters.reshape(WINDOW, WINDOW, images.shape[3], n_filters)
    return PatchFilters(np.float32(kernel), np.float32(mean @ filters))


@jax.jit
def features(filters: PatchFilters, images: jax.Array) -> jax.Array:
    """Features float32 [n, `n_features`] of uint8 images [n, height, width, channels]; n is a multiple of `GROUP`.

    They are square roots: otherwise the few large values of each feature would decide everything.
    """
    groups = images.reshape(-1, GROUP, *images.shape[1:])
    return lax.map(lambda group: _features(filters, group), groups).reshape(len(images), -1)


def _features(filters: PatchFilters, pixels: jax.Array) -> jax.Array:
    images = to_unit_range(pixels)
    with jax.default_matmul_precision("highest"):
        response = nn.conv(images, filters.kernel, stride=1, padding="VALID")
    size = images.shape[3] * WINDOW**2
    mean, squares = (_window_sums(x) / size for x in (images, images**2))
    contrast = jnp.sqrt(jnp.maximum(squares - mean**2, 0) + _CONTRAST**2)
    response = response / contrast[..., None] - filters.shift[None, None, None]
    middle = response.shape[1] // 2, response.shape[2] // 2
    quadrants = [(rows, columns) for rows in _halves(middle[0]) for columns in _halves(middle[1])]
    averages = [
        jnp.maximum(sign * response[:, rows, columns] - _THRESHOLD, 0).mean(axis=(1, 2))
        for sign in (1, -1)
        for rows, columns in quadrants
    ]
    return jnp.sqrt(jnp.concatenate(averages, axis=1))


def _window_sums(images: jax.Array) -> jax.Array:
    """Sums over all windows of a patch's size, all channels together: [n, rows, columns]."""
    return lax.reduce_window(images.sum(axis=3), 0.0, lax.add, (1, WINDOW, WINDOW), (1, 1, 1), "VALID")


def _halves(middle: int) -> tuple[slice, slice]:
    return slice(None, middle), slice(middle, None)


def _random_patches(key: jax.Array, images: np.ndarray) -> np.ndarray:
    """Patches [n, window * window * channels] of images, in [-1, 1]; none is drawn twice."""
    places = (len(images), images.shape[1] - WINDOW + 1, images.shape[2] - WINDOW + 1)
    total = int(np.prod(places))
    if total <= _PATCHES:
        chosen = np.arange(total)
    else:
        chosen = np.unique(np.asarray(jax.random.randint(key, (_PATCHES,), 0, total)))
    rows, tops, lefts = np.unravel_index(chosen, places)
    offsets = np.arange(WINDOW)
    picked = images[rows[:, None, None], (tops[:, None] + offsets)[:, :, None], (lefts[:, None] + offsets)[:, None]]
    return picked.reshape(len(chosen), -1).astype(np.float32) / 127.5 - 1


def _normalised(patches: np.ndarray) -> np.ndarray:
    """Patches without their mean and contrast. Flat ones show nothing, and are left out unless all are flat."""
    variance = patches.var(axis=1, keepdims=True)
    if np.any(variance):
        patches, variance = patches[variance[:, 0] > 0], variance[variance[:, 0] > 0]
    return (patches - patches.mean(axis=1, keepdims=True)) / np.sqrt(variance + _CONTRAST**2)


def _whitening(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean patch, and the symmetric matrix that gives all directions about the same variance; float64."""
    mean = patches.mean(axis=0, dtype=np.float64)
    covariance = patches.T.astype(np.float64) @ patches / len(patches) - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    return mean, directions @ (directions / np.sqrt(np.maximum(variances, 0) + _WHITENING)).T


def _clustered(key: jax.Array, patches: np.ndarray, n: int) -> jax.Array:
    """Centres of clusters, of unit length, [n, size]: each patch belongs to the centre it points along most."""
    *keys, first = jax.random.split(key, _ROUNDS + 1)
    n_parts = -(-len(patches) // _PATCHES_AT_ONCE)
    filling = np.zeros((-len(patches) % n_parts, patches.shape[1]), np.float32)
    parts = jnp.asarray(np.concatenate([patches, filling]).reshape(n_parts, -1, patches.shape[1]))
    centres = _directions(first, (n, patches.shape[1]))
    for round_key in keys:
        centres = _moved(round_key, centres, parts, np.int32(len(patches)))
    return centres


@jax.jit
def _moved(key: jax.Array, centres: jax.Array, parts: jax.Array, count: jax.Array) -> jax.Array:
    """Centres after a round, from the first `count` patches [parts, n, size]."""

    def add(sums: tuple[jax.Array, jax.Array], part: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
        patches, number = part
        is_there = number * len(patches) + jnp.arange(len(patches)) < count
        closeness = patches @ centres.T
        is_best = (jnp.argmax(closeness, axis=1)[:, None] == jnp.arange(len(centres))[None]) & is_there[:, None]
        return (sums[0] + jnp.where(is_best, closeness, 0).T @ patches, sums[1] + is_best.sum(axis=0)), None

    none = jnp.zeros_like(centres), jnp.zeros(len(centres), jnp.int32)
    with jax.default_matmul_precision("highest"):
        (summed, counts), _ = lax.scan(add, none, (parts, jnp.arange(len(parts))))
    directions = summed / jnp.maximum(jnp.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
    return jnp.where((counts >= _FEWEST)[:, None], directions, _directions(key, centres.shape))


def _directions(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    random = jax.random.normal(key, shape)
    return random / jnp.linalg.norm(random, axis=1, keepdims=True)
