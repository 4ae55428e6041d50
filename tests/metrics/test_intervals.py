"""Intervals by hand, against a bootstrap, and whether they hold what they say."""

import numpy as np
import pytest
import scipy.stats

from dgm_jax.metrics.intervals import Answers, Interval, difference, interval


def answers(*classes, test_set="a"):
    return Answers(test_set, {label: np.array(values, np.uint8) for label, values in enumerate(classes)})


def test_accuracy_is_macro():
    assert answers([1, 1, 1, 0], [1, 0]).accuracy == 0.625


def test_where_seeds_are_alike_chance_lies_in_the_test_images_alone():
    """Three seeds with the same answers: the variance of a mean of four images, 0.25 / 4, over two classes."""
    found = interval([answers([1, 1, 1, 0], [1, 0, 0, 0])] * 3)
    error = np.sqrt(0.25 / 4 + 0.25 / 4) / 2
    assert found.mean == 0.5 and found.seeds == 3
    assert (found.high - 0.5, 0.5 - found.low) == pytest.approx((1.959964 * error,) * 2, rel=1e-5)


def test_where_seeds_have_test_images_of_their_own_the_seeds_hold_all_chance():
    """Student's interval of the means 0.5, 0.5 and 0.8: s = sqrt(0.03), two degrees of freedom."""
    wrong = [[1, 1, 1, 1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]]
    found = interval([answers(values, test_set=f"fold {n}") for n, values in enumerate(wrong)])
    assert found.mean == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - 4.302653 * np.sqrt(0.03 / 3), rel=1e-6)
    same = interval([answers(values) for values in wrong])
    assert same.high - same.low != found.high - found.low


def test_chance_in_the_test_images_is_that_of_a_bootstrap():
    """Of three seeds on the same images, whose accuracy is equal: images drawn again, the same ones for all seeds."""
    rng = np.random.default_rng(0)
    right = rng.random((3, 60)) < rng.random(60)
    right = np.stack([rng.permuted(right[0]) if seed == 2 else right[0] for seed in range(3)])
    found = interval([answers(values) for values in right])
    drawn = right[:, rng.integers(0, 60, (20_000, 60))].mean(axis=2)  # [seeds, draws]
    covariance = np.cov(drawn)[np.triu_indices(3, 1)].mean()
    assert found.high - found.mean == pytest.approx(1.959964 * np.sqrt(covariance), rel=0.05)


def test_two_seeds_have_no_interval():
    assert interval([answers([1, 0])] * 2) is None and interval([]) is None


def test_a_comparison_is_paired_by_seed_and_by_image():
    """One image more is right with each seed: always the same one, or one of two."""
    one = {seed: answers([1, 1, 1, 0]) for seed in (0, 1, 2, 7)}
    other = {seed: answers([1, 1, 0, 0]) for seed in (2, 1, 0, 8)}
    found = difference(one, other)
    error = np.sqrt(np.var([0, 0, 1, 0], ddof=1) / 4)
    assert (found.mean, found.seeds) == (0.25, 3)
    assert found.low == pytest.approx(0.25 - 1.959964 * error) and not found.is_different
    assert difference(one, {8: other[8]}) is None
    back = difference(other, one)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("other", [answers([1, 1], test_set="b"), answers([1, 1, 1])])
def test_other_test_images_are_not_compared(other):
    with pytest.raises(ValueError, match="^the test images of 'a' and '.' are not the same$"):
        difference({0: answers([1, 0])}, {0: other})


def test_different_needs_an_interval_without_zero():
    assert Interval(0.2, 0.1, 0.3, 3).is_different and Interval(-0.2, -0.3, -0.1, 6).is_different
    assert not Interval(0.2, -0.1, 0.5, 6).is_different and not Interval(0.2, 0.0, 0.4, 6).is_different


@pytest.mark.parametrize("alike", [True, False])
def test_equal_methods_are_called_different_in_one_case_of_twenty(alike):
    """Three seeds, which share their test images or do not; what is right depends on run, image and chance."""
    rng, found, n = np.random.default_rng(1), [], 400
    for _ in range(n):
        runs = []
        for _ in range(2):
            image = rng.normal(size=(2, 20)) if alike else rng.normal(size=(3, 2, 20))
            score = 1 + image + 0.3 * rng.normal(size=(3, 1, 1)) + 0.5 * rng.normal(size=(3, 2, 20))
            names = ["a"] * 3 if alike else ["a", "b", "c"]
            runs.append({s: answers(*(score[s] > 0), test_set=names[s]) for s in range(3)})
        found.append(difference(*runs).is_different)
    assert scipy.stats.binomtest(sum(found), n, 0.05, alternative="greater").pvalue > 0.01
    assert sum(found) > 0.02 * n  # And intervals are no wider than they must be.
