"""Distances to training images, by hand."""

import numpy as np
import pytest

from dgm_jax import data
from dgm_jax.metrics import privacy


def test_nearest_distances_by_hand():
    points, members = np.array([[0.0, 0], [3, 4]]), np.array([[0.0, 1], [3, 3], [9, 9]])
    np.testing.assert_allclose(privacy.nearest_distances(points, members), [np.sqrt(0.5), np.sqrt(0.5)])
    images = np.zeros((1, 2, 2, 1)), np.full((3, 2, 2, 1), 0.25)
    np.testing.assert_allclose(privacy.nearest_distances(*images), [0.25])


def halves(images):
    return images.reshape(len(images), -1)[:, ::2].astype(np.float64)


@pytest.fixture(scope="module")
def threes():
    digits = data.load("digits")
    return digits.x_train[digits.y_train == 3], digits.x_test[digits.y_test == 3]


def test_a_copyist_is_found(threes):
    train, test = threes
    measured = privacy.measure(train[:50], train, test, halves)
    for space in ("pixels", "features"):
        assert measured[space]["nearer"] == 1.0
        assert measured[space]["generated"] == {"median": 0.0, "smallest": 0.0}
        assert measured[space]["held_out"]["median"] > 0
    assert measured["copies"] == 50 and privacy.is_nearer(measured)
    nearly = np.where(np.arange(64).reshape(8, 8, 1) == 0, 1, train[:50]).astype(np.uint8)
    assert privacy.measure(nearly, train, test, halves)["pixels"]["nearer"] == 1.0


def test_other_real_images_are_not_nearer(threes):
    train, test = threes
    measured = privacy.measure(test[::2], train, test[1::2], halves)
    assert measured["copies"] == 0 and not privacy.is_nearer(measured | {"held_out": 20})


@pytest.mark.parametrize("k", [1, 4, 20, 36, 100])
def test_the_share_that_is_expected_by_chance(k):
    """Generated and held-out points from one distribution: the mean share is as said, and few are called nearer."""
    random = np.random.default_rng(k)
    shares, called, said = [], 0, set()
    for _ in range(300):
        members, held_out, drawn = (random.integers(0, 256, (n, 2, 2, 1), np.uint8) for n in (20, k, 100))
        measured = privacy.measure(drawn, members, held_out, halves)
        shares.append(measured["pixels"]["nearer"])
        said.add(measured["expected"])
        called += bool(privacy.is_nearer(measured))
    (expected,) = said
    assert abs(np.mean(shares) - expected) < 0.03 and expected >= 0.04
    assert called <= 0.05 * 300
    assert (privacy.is_nearer(measured) is None) == (k < 20)


def test_noise_is_far(threes):
    train, test = threes
    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    measured = privacy.measure(noise, train, test, halves)
    assert measured["pixels"]["nearer"] == 0
    assert measured["pixels"]["generated"]["smallest"] > measured["pixels"]["held_out"]["median"]


def test_nothing_can_be_said_without_held_out_images(threes):
    train, _ = threes
    assert privacy.measure(train[:5], train, train[:0], halves) is None


def test_the_measures_of_a_class_by_hand():
    """Images of one pixel; the training image has the value 100."""

    def images(*values):
        return np.array(values, np.uint8).reshape(-1, 1, 1, 1)

    held_out = images(*range(110, 150))  # Distances 10, 11, ..., 49: 40 of them, so the second one, 11, is near.
    measured = privacy.measure(
        images(100, 90, 89, 111, 112, 200), images(100), held_out, lambda x: x.reshape(-1, 1) * 2.0
    )
    assert measured["expected"] == 2 / 41 and (measured["held_out"], measured["compared"]) == (40, 6)
    assert measured["copies"] == 1
    for space, unit in (("pixels", 1 / 255), ("features", 2.0)):
        assert measured[space]["nearer"] == 2 / 6  # 100 and 90; 89 and 111 are as far as the second one, not nearer.
        assert measured[space]["generated"] == pytest.approx({"median": 11 * unit, "smallest": 0})
        assert measured[space]["held_out"] == pytest.approx({"median": 29.5 * unit, "smallest": 10 * unit})


@pytest.mark.parametrize("k, n, expected", [(20, 100, 0.05), (98, 50, 0.25)])
@pytest.mark.parametrize("space", ["pixels", "features"])
def test_more_near_ones_than_chance_explains_by_hand(space, k, n, expected):
    bound = expected + 3 * (expected * (1 - expected) * (1 / n + 1 / (k + 2))) ** 0.5
    for share, nearer in ((bound - 1e-9, False), (bound + 1e-9, True)):
        said = {
            "held_out": k,
            "compared": n,
            "expected": expected,
            "pixels": {"nearer": 0.0},
            "features": {"nearer": 0.0},
        }
        assert privacy.is_nearer(said | {space: {"nearer": share}}) is nearer
    assert privacy.is_nearer(said | {"held_out": 19}) is None
