"""Closed-form classifiers, against the data that the sums are of."""

import numpy as np
import pytest
from jax.nn import softmax

from dgm_jax.methods.confidence import best_temperature
from dgm_jax.models import closed_form
from dgm_jax.models.closed_form import Sums, linear_discriminant, nearest_mean, ridge_discriminant, ridge_regression

N, FEATURES, CLASSES = 60, 7, 3


def data() -> tuple[np.ndarray, np.ndarray]:
    """Features of very different size that tell classes apart a little, and classes of unequal size."""
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(CLASSES), (30, 20, 10))
    return (random.normal(size=(N, FEATURES)) + labels[:, None] / 2) * 10.0 ** np.arange(-2, 5) + 5, labels


def sums_of(x: np.ndarray, labels: np.ndarray) -> Sums:
    y = np.eye(CLASSES)[labels]
    return Sums(x.T @ x, y.T @ x, y.sum(axis=0))


def best_ridge(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """K times what the best ridge regression predicts, and its ridge: by brute force, with a hat matrix."""
    y, z = np.eye(CLASSES)[labels], (x - x.mean(axis=0)) / x.std(axis=0)
    found = {}
    for ridge in closed_form._RIDGES * N:  # The variances of the directions of z'z are N on average.
        rows = np.concatenate([z, np.sqrt(ridge) * np.eye(FEATURES)])
        target = np.concatenate([y - y.mean(axis=0), np.zeros((FEATURES, CLASSES))])
        predicted = z @ np.linalg.lstsq(rows, target, rcond=None)[0] + y.mean(axis=0)
        free = N - 1 - np.trace(z @ np.linalg.solve(z.T @ z + ridge * np.eye(FEATURES), z.T))
        found[np.sum((y - predicted) ** 2) * N / free**2] = CLASSES * predicted, ridge
    assert 0 < list(found).index(min(found)) < len(found) - 1  # Neither the smallest ridge nor the largest.
    return found[min(found)]


def test_ridge_regression_is_that_of_least_squares() -> None:
    x, labels = data()
    solved = ridge_regression(sums_of(x, labels))
    np.testing.assert_allclose(x @ solved.weights + solved.bias, best_ridge(x, labels)[0], rtol=1e-6, atol=1e-8)


def test_ridge_discriminant_by_hand() -> None:
    """On features of variance 1: distances from class means, by the covariance within classes and the ridge."""
    x, labels = data()
    _, ridge = best_ridge(x, labels)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    means = np.stack([z[labels == c].mean(axis=0) for c in range(CLASSES)])
    within = (z - means[labels]).T @ (z - means[labels]) + ridge * np.eye(FEATURES)
    difference = z[:, None] - means[None]
    expected = -np.einsum("nkf,fg,nkg->nk", difference, np.linalg.inv(within), difference)
    solved = ridge_discriminant(sums_of(x, labels))
    found = x @ solved.weights + solved.bias
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    found, expected = (own - own.mean(axis=1, keepdims=True) for own in (found, expected))
    np.testing.assert_allclose(found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-8)


@pytest.mark.parametrize(("n_features", "least", "most"), [(2, 0.9, 1.2), (200, 1, 1.6)])
def test_probabilities_of_normally_distributed_features(n_features, least, most) -> None:
    """Of images that the sums did not see. With three images a feature they are somewhat too sure."""
    random = np.random.default_rng(5)
    labels, unseen = np.repeat(np.arange(CLASSES), 200), np.repeat(np.arange(CLASSES), 5_000)
    means, mixing = random.normal(size=(CLASSES, n_features)), random.normal(size=(n_features, n_features))
    means *= 1.5 / n_features**0.5
    train, test = ((means[own] + random.normal(size=(len(own), n_features))) @ mixing for own in (labels, unseen))
    solved = ridge_discriminant(sums_of(train, labels))
    logits = test @ solved.weights + solved.bias
    assert least < best_temperature(logits, unseen) < most


@pytest.mark.parametrize(("n_images", "most"), [(1, 0.98), (2, 0.99), (20, 0.99999)])
def test_few_images_make_no_sure_probabilities(n_images, most) -> None:
    """Of images that are no nearer to one class than to another; there are more features than images."""
    random = np.random.default_rng(7)
    labels = np.repeat(np.arange(CLASSES), n_images)
    train, unrelated = (random.normal(size=(n, 800)) for n in (len(labels), 200))
    solved = ridge_discriminant(sums_of(train, labels))
    own, other = (softmax(x @ solved.weights + solved.bias, axis=1).max(axis=1) for x in (train, unrelated))
    assert own.max() < most and np.mean(other) < 0.7


def test_probabilities_that_are_nearly_equal_are_right() -> None:
    """Where the best prediction is 1/2 + d, so is the probability."""
    random = np.random.default_rng(0)
    x = random.normal(size=(20_000, 1))
    labels = np.int64(random.uniform(size=len(x)) < 0.5 + np.clip(0.1 * x[:, 0], -0.5, 0.5))
    y = np.eye(2)[labels]
    solved = ridge_regression(Sums(x.T @ x, y.T @ x, y.sum(axis=0)))
    logits = np.array([[-1.0], [1.0]]) @ solved.weights + solved.bias
    np.testing.assert_allclose(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), [0.4, 0.6], atol=0.01)


def test_linear_discriminant_by_hand() -> None:
    x, labels = data()
    means = np.stack([x[labels == c].mean(axis=0) for c in range(CLASSES)])
    within = sum((x[labels == c] - means[c]).T @ (x[labels == c] - means[c]) for c in range(CLASSES)) / N
    inverse = np.linalg.inv((1 - 1e-4) * within + 1e-4 * np.eye(FEATURES))
    expected = x @ inverse @ means.T - np.diag(means @ inverse @ means.T) / 2
    solved = linear_discriminant(sums_of(x, labels))
    np.testing.assert_allclose(x @ solved.weights + solved.bias, expected, rtol=1e-6, atol=1e-6)


def test_nearest_mean_by_hand() -> None:
    x, labels = data()
    means = np.stack([x[labels == c].mean(axis=0) for c in range(CLASSES)])
    solved = nearest_mean(sums_of(x, labels))
    nearest = np.linalg.norm(x[:, None] - means[None], axis=2).argmin(axis=1)
    np.testing.assert_array_equal((x @ solved.weights + solved.bias).argmax(axis=1), nearest)


@pytest.mark.parametrize("solve", [ridge_discriminant, linear_discriminant, nearest_mean])
@pytest.mark.parametrize("counts", [(1, 0, 0), (2, 0, 0), (1, 1, 0), (2, 2, 2)])
def test_few_images_of_few_classes_give_finite_scores(solve, counts) -> None:
    """Fewer than there are features, even a single one, and all of a class alike."""
    x = np.ones((sum(counts), FEATURES)) * np.repeat(np.arange(CLASSES), counts)[:, None]
    sums = sums_of(x, np.repeat(np.arange(CLASSES), counts)).first(np.count_nonzero(counts))
    solved = solve(sums)
    assert solved.weights.shape == (FEATURES, np.count_nonzero(counts))
    assert np.all(np.isfinite(solved.weights)) and np.all(np.isfinite(solved.bias))


@pytest.mark.parametrize("solve", [ridge_discriminant, linear_discriminant])
def test_more_features_than_images_and_sums_in_float32(solve) -> None:
    """Rounding gives the matrix negative variances, which must not decide anything."""
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(CLASSES), 40)
    offsets = random.normal(size=(CLASSES, 400)) / 4
    train, test = (np.abs(5 + random.normal(size=(120, 400)) / 2 + offsets[labels]) for _ in range(2))
    whole = sums_of(train, labels)
    rounded = Sums(np.float32(whole.gram), np.float32(whole.of_class), np.float32(whole.counts))
    solved = solve(rounded.first(CLASSES))
    assert np.mean((test @ solved.weights + solved.bias).argmax(axis=1) == labels) > 0.95
