"""Scores of images: as many as there are images, those of each image alone, and those of training's network."""

import jax
import numpy as np
import pytest

from dgm_jax.models import NETWORKS, dcgan, pair, prediction

PARAMS, STATISTICS = dcgan.init_discriminator(jax.random.key(0), width=4, image_size=8, channels=1, n_classes=3)


def random_images(n):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), np.uint8)


# The last one is more than may wait for the device at once.
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 64 * 18 + 1])
def test_there_are_scores_for_each_image(n):
    images = random_images(n)
    logits = prediction.predict(PARAMS, STATISTICS, images, network="dcgan")
    features = prediction.predict(PARAMS, STATISTICS, images, network="dcgan", part="features")
    assert logits.shape == (n, 3) and features.shape == (n, 64) and np.isfinite(logits).all()
    head = PARAMS.classifier
    np.testing.assert_allclose(features @ head.kernel + head.bias, logits, rtol=0, atol=1e-6)
    for i in {0, n // 2, n - 1} & set(range(n)):
        (alone,) = prediction.predict(PARAMS, STATISTICS, images[i : i + 1], network="dcgan")
        np.testing.assert_array_equal(logits[i], alone)


def test_one_program_serves_all_numbers_of_images():
    prediction.predict(PARAMS, STATISTICS, random_images(1), network="dcgan")
    traces = prediction.discriminated._cache_size()
    for n in (0, 3, 64, 200):
        prediction.predict(PARAMS, STATISTICS, random_images(n), network="dcgan", part="features")
    assert prediction.discriminated._cache_size() == traces


@pytest.mark.parametrize("network", NETWORKS)
def test_they_differ_from_those_of_training_s_convolutions_by_rounding_only(network):
    size = 1 if network == "mlp" else 16
    params, statistics = pair(network).init_discriminator(
        jax.random.key(0), width=4, image_size=size, channels=3, n_classes=3
    )
    random = np.random.default_rng(1)
    images = random.uniform(-1, 1, (5, size, size, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        expected, _ = pair(network).discriminate(params, statistics, images, train=False)
    logits = prediction.predict(params, statistics, images, network=network)
    scale = np.abs(expected.logits).max()
    np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=2e-6 * scale)
