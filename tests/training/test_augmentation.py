"""Random changes to images: each moves pixels as it says, and leaves images alone where it is off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgm_jax.config import Config
from dgm_jax.training.augmentation import augmented, flipped, noisy, shift_images, shifted

KEY = jax.random.key(3)


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(-1, 1, (40, 12, 12, 3)).astype(np.float32)


def test_nothing_is_changed_unless_it_is_asked_for(images):
    assert augmented(KEY, images, Config()) is images


@pytest.mark.parametrize("offset", [(0, 0), (2, 2), (4, 1)])
def test_shift_images_is_a_window_of_the_image_with_its_border_repeated(images, offset):
    result = np.asarray(shift_images(images, jnp.tile(jnp.array(offset), (40, 1)), 2))
    rows = np.clip(np.arange(12) + offset[0] - 2, 0, 11)
    columns = np.clip(np.arange(12) + offset[1] - 2, 0, 11)
    np.testing.assert_array_equal(result, images[:, rows][:, :, columns])


def test_shifted_reaches_as_far_as_it_may_and_no_further(images):
    result = np.asarray(shifted(KEY, images, 1))
    middles = {(r, c): images[:, 1 + r : 11 + r, 1 + c : 11 + c] for r in (-1, 0, 1) for c in (-1, 0, 1)}
    found = [
        {place for place, middle in middles.items() if np.array_equal(result[i, 1:11, 1:11], middle[i])}
        for i in range(40)
    ]
    assert all(len(places) == 1 for places in found)
    assert len(set.union(*found)) == 9


def test_flipped_mirrors_about_half_of_the_images(images):
    result = np.asarray(flipped(KEY, images))
    mirrored = np.array([np.array_equal(r, i[:, ::-1]) for r, i in zip(result, images, strict=True)])
    left = np.array([np.array_equal(r, i) for r, i in zip(result, images, strict=True)])
    assert np.all(mirrored ^ left) and 8 < mirrored.sum() < 32


def test_noisy_adds_noise_of_a_deviation_of_its_own_to_each_image(images):
    added = np.asarray(noisy(KEY, images, 0.5)) - images
    deviations = added.std(axis=(1, 2, 3))
    assert np.all(deviations < 0.5 * 1.1) and deviations.min() < 0.1 and deviations.max() > 0.4
    standard = added / deviations[:, None, None, None]
    assert np.all(np.abs(standard.mean(axis=(1, 2, 3))) < 0.25) and np.mean(np.abs(standard) < 1) == pytest.approx(
        0.683, abs=0.01
    )


def test_all_changes_together_each_with_a_key_of_its_own(images):
    config = Config().with_changes(consolidation_shift=1, consolidation_flip=True, consolidation_noise=0.3)
    once = np.asarray(augmented(KEY, images, config))
    keys = [jax.random.fold_in(KEY, 3), KEY, jax.random.fold_in(KEY, 4)]
    one_by_one = noisy(keys[2], shifted(keys[1], flipped(keys[0], images), 1), 0.3)
    np.testing.assert_array_equal(once, np.asarray(one_by_one))
    used = [*keys, *jax.random.split(KEY)]  # What `shifted` makes of its own.
    assert len({tuple(jax.random.key_data(key).tolist()) for key in used}) == 5
