"""The mean image of each class: what is kept of it, and what becomes of drawn images."""

import dataclasses

import jax
import numpy as np
import pytest
from support import small_runs

from dgm_jax.loading import load_method
from dgm_jax.methods.mean_images import SIDE, mean_images, moved_to_means, with_mean_images
from dgm_jax.methods.replay import images_of_all_classes
from dgm_jax.training.epoch import TaskImages

RANDOM = np.random.default_rng(0)


def _shrunk(images: np.ndarray) -> np.ndarray:
    """The mean of images, each pixel of which is the mean of a square of theirs."""
    side = images.shape[1] // SIDE
    mean = images.astype(np.float64).mean(axis=0)
    return np.array(
        [
            [mean[side * r : side * (r + 1), side * c : side * (c + 1)].mean(axis=(0, 1)) for c in range(SIDE)]
            for r in range(SIDE)
        ]
    )


def test_a_mean_image_is_the_mean_of_a_classs_images_in_little():
    images = RANDOM.integers(0, 256, (30, 32, 32, 3), np.uint8)
    labels = np.array([4, 7] * 15)
    means = mean_images(images, labels, (7, 4))
    assert means.shape == (2, 8, 8, 3) and means.dtype == np.float32
    for mean, label in zip(means, (7, 4), strict=True):
        np.testing.assert_allclose(mean, _shrunk(images[labels == label]), rtol=1e-5)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_drawn_images_are_moved_to_the_means_of_their_classes(size):
    drawn = RANDOM.integers(60, 190, (50, size, size, 1), np.uint8)
    labels = np.repeat(np.arange(5, dtype=np.int32), 10)
    means = np.repeat(RANDOM.uniform(100, 140, (4, 1, 1, 1)), SIDE, axis=1).repeat(SIDE, axis=2).astype(np.float32)
    moved = moved_to_means(TaskImages(drawn, labels, np.int32(40)), means)
    np.testing.assert_array_equal(moved.images[40:], drawn[40:])  # No image of a class that is not learnt yet.
    for index in range(4):
        own, before = moved.images[labels == index], drawn[labels == index]
        assert abs(own.mean() - means[index].mean()) < 0.1
        changes = own.astype(int) - before
        assert np.abs(changes - changes.mean(axis=0)).max() <= 1  # All images of a class by the same; but for rounding.


def test_no_value_leaves_what_a_pixel_can_have():
    drawn = TaskImages(np.array([0, 255], np.uint8).repeat(64).reshape(2, 8, 8, 1), np.zeros(2, np.int32), np.int32(2))
    moved = moved_to_means(drawn, np.full((1, 8, 8, 1), 200, np.float32))
    assert moved.images[0].max() == 72 and moved.images[1].min() == 255  # 200 - 127.5 more, rounded to even.


def test_a_run_keeps_the_means_of_its_real_images_and_counts_them():
    config = small_runs.beyond("dgmw")
    stream = small_runs.stream(config)
    run = small_runs.finished(config)
    method, state = load_method(config, stream, run.workdir)
    for task, (own,) in enumerate(method.setting.tasks):
        stream.begin(task)
        images, labels = stream.train(task)
        np.testing.assert_array_equal(state.means[own], mean_images(images, labels, (own,))[0])
    assert method.memory_bytes(state)["means"] == 3 * SIDE * SIDE * 4
    key = jax.random.key(1)
    drawn = images_of_all_classes(state.memory, method.setting, key)
    learnt = method.images_to_consolidate(state, key)
    np.testing.assert_array_equal(learnt.images, moved_to_means(drawn, state.means).images)


def test_the_mean_of_a_class_that_comes_again_is_that_of_all_its_images():
    digits = small_runs.digits(16)
    of = [digits.x_train[digits.y_train == label] for label in range(3)]
    earlier = small_runs.finished(small_runs.small("dgma")).memories[0].tasks  # Of class 0.
    earlier = (dataclasses.replace(earlier[0], counts=(10,)),)
    before = mean_images(of[0][:10], np.zeros(10, int), (0,))
    images, labels = np.concatenate([of[0][10:13], of[1]]), np.repeat([0, 1], [3, len(of[1])])
    found = with_mean_images(before, earlier, images, labels, (0, 1))
    expected = mean_images(np.concatenate([of[0][:13], of[1]]), np.repeat([0, 1], [13, len(of[1])]), (0, 1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(
        with_mean_images(None, (), images, labels, (0, 1)), mean_images(images, labels, (0, 1))
    )
