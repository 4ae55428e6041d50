"""Sums of features over images: the same whatever the order, the calls and the devices, to rounding."""

import jax
import numpy as np
import pytest
from support import children, small_runs

from dgm_jax.models.closed_form import Sums
from dgm_jax.models.patch_filters import features, learn_filters
from dgm_jax.training import feature_sums
from dgm_jax.training.feature_sums import FeatureSums

N_CLASSES = 4


def setup():
    digits = small_runs.digits(8, per_class=50)
    images, labels = digits.x_train[:150], np.int32(digits.y_train[:150])
    return images, labels, learn_filters(jax.random.key(0), images, 3)


def added(images, labels, filters, *, mirror=False, devices=1, backend="pmap") -> Sums:
    sums = FeatureSums(24, jax.local_devices()[:devices], mirror=mirror, backend=backend)
    nothing = jax.tree.map(np.float64, Sums.of_nothing(N_CLASSES, 24))
    heard: list[int] = []
    found = sums.with_images(nothing, filters, images, labels, heard.append)
    assert sum(heard) == len(images) and found.gram.dtype == np.float64
    return found


def assert_close(found: Sums, expected: Sums) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mirror", [False, True])
def test_sums_by_hand(mirror) -> None:
    images, labels, filters = setup()
    seen = np.concatenate([images, images[:, :, ::-1]]) if mirror else images
    filled = np.concatenate([seen, np.zeros((-len(seen) % 8, *seen.shape[1:]), np.uint8)])
    x = np.float64(features(filters, filled))[: len(seen)]
    y = np.eye(N_CLASSES)[np.tile(labels, 2 if mirror else 1)]
    share = len(images) / len(seen)  # Of two views of an image, each counts half.
    expected = Sums(share * x.T @ x, share * y.T @ x, share * y.sum(axis=0))
    assert_close(added(images, labels, filters, mirror=mirror), expected)


def test_neither_the_order_nor_the_calls_matter(monkeypatch) -> None:
    images, labels, filters = setup()
    whole = added(images, labels, filters)
    order = np.random.default_rng(0).permutation(len(images))
    assert_close(added(images[order], labels[order], filters), whole)
    monkeypatch.setattr(feature_sums, "IMAGES_PER_BLOCK", 37)
    monkeypatch.setattr(feature_sums, "AT_ONCE", 16)
    assert_close(added(images, labels, filters), whole)


def test_two_devices_add_as_one() -> None:
    children.outputs(children.start("import test_feature_sums as t; t.compare()", **children.virtual_devices(2)))


def compare() -> None:
    given = setup()
    one = added(*given, mirror=True)
    for backend in ("pmap", "shard_map"):
        assert_close(added(*given, mirror=True, devices=2, backend=backend), one)
