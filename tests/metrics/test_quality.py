"""The quality of generated images, for images and a classifier made by hand."""

import jax
import numpy as np
import pytest

from dgm_jax.metrics import quality

LABELS = np.repeat([0, 1, 2], 20)


def images(labels):
    """Images of one pixel, whose value gives their class away."""
    noise = np.random.default_rng(len(labels)).integers(0, 40, len(labels))
    return (100 * np.asarray(labels) + noise).astype(np.uint8).reshape(-1, 1, 1, 1)


class Classifier:
    def features(self, pictures):
        return pictures.reshape(len(pictures), 1).astype(np.float32)

    def logits(self, pictures):
        return np.eye(3)[pictures.reshape(-1) // 100]


class Memory:
    n_classes = 3

    def __init__(self, generated_class):
        self.generated_class = generated_class

    def images(self, index, n, key):
        del key
        return images(np.full(n, self.generated_class(index)))


def measure(generated_class, **options):
    memory, classifier = Memory(generated_class), Classifier()
    return quality.measure(memory, classifier, images(LABELS), LABELS, jax.random.key(0), **options)


def test_images_like_the_real_ones():
    measured = measure(lambda index: index, images_per_class=20)
    assert measured["generated_sample_accuracy"] == measured["judge_accuracy"] == 1
    assert measured["precision"] == 1 and measured["recall"] > 0.8


def test_images_of_one_class_only():
    measured = measure(lambda index: 0)
    assert measured["generated_sample_accuracy"] == pytest.approx(1 / 3)
    assert measured["precision"] == 1 and measured["recall"] == pytest.approx(1 / 3, abs=0.05)
    assert measured["frechet_distance"] > 1000


def test_a_class_that_is_never_predicted_counts_as_wrong():
    measured = measure(lambda index: 0, label=lambda pictures: np.zeros(len(pictures), int))
    assert measured["generated_sample_accuracy"] == pytest.approx(1 / 3)
