"""Scores of images: as many as there are images, and those of each image alone."""

import jax
import numpy as np
import pytest

from dgm_jax.models import dcgan, prediction

PARAMS, STATISTICS = dcgan.init_discriminator(jax.random.key(0), width=4, image_size=8, channels=1, n_classes=3)


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257])
def test_there_are_scores_for_each_image(n):
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), np.uint8)
    logits, features = prediction.predict(PARAMS, STATISTICS, images, network="dcgan")
    assert logits.shape == (n, 3) and features.shape[0] == n and np.isfinite(logits).all()
    for i in {0, n - 1} & set(range(n)):
        (alone,), _ = prediction.predict(PARAMS, STATISTICS, images[i : i + 1], network="dcgan")
        np.testing.assert_array_equal(logits[i], alone)
