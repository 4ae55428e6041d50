"""Filters that are found in patches, and features by them."""

import jax
import numpy as np
import pytest

from dgm_jax.models import patch_filters
from dgm_jax.models.patch_filters import PatchFilters, features, learn_filters

KEY = jax.random.key(0)


def images(n: int, size: int = 12) -> np.ndarray:
    """Smooth random textures, uint8 [n, size, size, 1]."""
    noise = np.random.default_rng(1).normal(size=(n, size + 2, size + 2, 1))
    smooth = sum(noise[:, i : i + size, j : j + size] for i in range(3) for j in range(3))
    return np.uint8(np.clip(128 + 40 * smooth, 0, 255))


def likenesses(filters: PatchFilters, pixels: np.ndarray) -> np.ndarray:
    """For each filter the largest cosine between it and a patch of the images, both in the whitened space."""
    patches = patch_filters._normalised(patch_filters._random_patches(KEY, pixels))
    mean, whiten = patch_filters._whitening(patches)
    responses = patches @ filters.kernel.reshape(patches.shape[1], -1) - filters.shift
    return np.max(responses / np.linalg.norm((patches - mean) @ whiten, axis=1, keepdims=True), axis=0)


@pytest.mark.parametrize("n, replaced", [(30, False), (2, True)])
def test_no_filter_is_a_patch(n, replaced, monkeypatch) -> None:
    """With few patches for each filter, most clusters are small: random directions take the place of their centres."""
    pixels = images(n)
    assert likenesses(learn_filters(KEY, pixels, 12), pixels).max() < 0.9
    monkeypatch.setattr(patch_filters, "_FEWEST", 1)
    jax.clear_caches()
    closest = likenesses(learn_filters(KEY, pixels, 60), pixels)
    jax.clear_caches()
    assert (closest.max() > 0.99) == replaced  # What is avoided: the centre of one patch is that patch.


def test_flat_patches_are_left_out() -> None:
    pixels = images(4)
    blank = np.concatenate([pixels, np.zeros((20, 12, 12, 1), np.uint8)])
    found, expected = learn_filters(KEY, blank, 5), learn_filters(KEY, pixels, 5)
    np.testing.assert_array_equal(found.kernel, expected.kernel)
    assert np.all(np.isfinite(learn_filters(KEY, np.zeros((3, 8, 8, 1), np.uint8), 5).kernel))


@pytest.mark.parametrize("channels", [1, 3])
def test_features_by_hand(channels) -> None:
    """Window by window, in float64."""
    random = np.random.default_rng(2)
    pixels = random.integers(0, 256, (8, 9, 8, channels)).astype(np.uint8)
    kernel = random.normal(size=(6, 6, channels, 2))
    kernel -= kernel.mean(axis=(0, 1, 2))
    filters = PatchFilters(np.float32(kernel), np.float32([0.3, -0.2]))
    response = np.zeros((8, 4, 3, 2))
    for i, row, column in np.ndindex(8, 4, 3):
        patch = pixels[i, row : row + 6, column : column + 6] / 127.5 - 1
        patch = (patch - patch.mean()) / np.sqrt(patch.var() + (10 / 127.5) ** 2)
        response[i, row, column] = np.tensordot(patch, kernel, 3) - [0.3, -0.2]
    expected = []
    for sign in (1, -1):
        active = np.maximum(sign * response - 0.5, 0)
        for rows in (slice(0, 2), slice(2, 4)):
            expected += [active[:, rows, columns].mean(axis=(1, 2)) for columns in (slice(0, 1), slice(1, 3))]
    found = features(filters, pixels)
    assert found.shape == (8, patch_filters.n_features(2))
    np.testing.assert_allclose(found, np.sqrt(np.concatenate(expected, axis=1)), rtol=1e-3, atol=2e-3)
