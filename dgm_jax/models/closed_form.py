"""Classifiers that are read off sums over images, in closed form: nothing is trained.

With features x of an image and its class as a one-hot vector y, the sums are those of x x', y x' and y. They hold all
that ridge regression, discriminant analysis and the nearest class mean need. Here everything is float64.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from flax import struct

from dgm_jax.types import Array

# Tried ridges, as multiples of the mean variance of a direction. Smaller ones would meet the rounding of float32 sums.
_RIDGES = np.logspace(-3, 1, 17)
_SLDA_SHRINKAGE = 1e-4  # That of Hayes and Kanan 2020.
_LEAST = 1e-6  # Keeps variances and degrees of freedom above 0 if images are alike or few.


@struct.dataclass
class Sums:
    """Sums over the images seen."""

    gram: Array  # [features, features]: products of all pairs of features.
    of_class: Array  # [classes, features]: features of each class.
    counts: Array  # [classes]: images of each class.

    @classmethod
    def of_nothing(cls, n_classes: int, n_features: int) -> "Sums":
        """Sums over no image, float32."""
        shapes = (n_features, n_features), (n_classes, n_features), (n_classes,)
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))

    def first(self, n_classes: int) -> "Sums":
        """Those of the first classes, in float64; of others there must be no image yet."""
        return Sums(np.float64(self.gram), np.float64(self.of_class[:n_classes]), np.float64(self.counts[:n_classes]))


class Solution(NamedTuple):
    """A classifier that is linear in the features: `x @ weights + bias` scores each class."""

    weights: np.ndarray  # [features, classes]
    bias: np.ndarray  # [classes]


def ridge_discriminant(sums: Sums) -> Solution:
    """Ridge regression on the one-hot vectors, read as penalised discriminant analysis (Hastie, Buja, Tibshirani 1995).

    The largest prediction of a regression passes over classes that lie between others. So the mean features of classes
    are compared instead, by the covariance within classes plus the same ridge.

    Softmax makes probabilities of the scores: the right ones on average over pairs of classes if scores are normally
    distributed within a class. But they are never surer than n images and one more can show, if that one is wrong.
    """
    n, mean, gram, _ = _centred(sums)
    regression, free = _ridge_regression(sums)
    apart = sums.of_class / sums.counts[:, None] - mean
    # Within classes is the whole less K directions between them. The inverse of the whole, with the ridge, times what
    # separates the classes is the regression itself, so that only a matrix of K x K is left to invert.
    n_classes = len(sums.counts)
    solved = regression.weights / (n_classes * sums.counts)
    weights = n * solved @ np.linalg.inv(np.eye(n_classes) - sums.counts[:, None] * (apart @ solved))
    # The log odds of two classes are as large as their difference in scores if its variance within a class is as large
    # as the distance D of its means. Images that the weights were not solved for vary more, as in cross-validation. The
    # two are then mistaken for each other with the probability Phi(-sqrt(D) / 2), which n images cannot tell from 0.
    between = weights - weights.mean(axis=1, keepdims=True)  # What all classes have in common does not matter.
    distance = np.sum(between.T * apart)
    within = np.sum(between * (gram @ between)) - np.sum(sums.counts[:, None] * (apart @ between) ** 2)
    farthest = 2 * (n_classes - 1) * NormalDist().inv_cdf(1 / (n + 1)) ** 2  # As large as `distance` may become.
    factor = distance / max(within * n / free**2, distance**2 / max(farthest, _LEAST), _LEAST)
    return Solution(factor * weights, -factor * np.sum((mean + apart / 2).T * weights, axis=0))


def ridge_regression(sums: Sums) -> Solution:
    """Ridge regression on the one-hot vectors; softmax makes probabilities of its scores.

    Features are scaled to the same variance. The ridge is the one with the least error by generalised cross-validation
    (Golub, Heath and Wahba 1979), which needs the sums only: no image is held out, and with one class a task the
    images at hand could not tell.

    What is predicted for a one-hot vector is itself close to probabilities, but can be below 0 or above 1. Scores are K
    times as large, with K classes: near equal probabilities 1 / K + d, their softmax is 1 / K + d again.
    """
    return _ridge_regression(sums)[0]


def _ridge_regression(sums: Sums) -> tuple[Solution, float]:
    """As `ridge_regression`; also how many degrees of freedom it leaves to the images."""
    n, mean, gram, between = _centred(sums)
    scale = np.sqrt(np.maximum(np.diag(gram) / n, _LEAST))
    variances, directions = np.linalg.eigh(gram / np.outer(scale, scale))
    variances = np.maximum(variances, 0)
    along = directions.T @ (between / scale[:, None])
    shares = sums.counts / n
    total = n * np.sum(shares * (1 - shares))  # Of the squared distances of the one-hot vectors from their mean.

    def free(ridge: float) -> float:
        return float(max(n - 1 - np.sum(variances / (variances + ridge)), _LEAST))

    def error(ridge: float) -> float:
        explained = np.sum((variances + 2 * ridge)[:, None] * (along / (variances + ridge)[:, None]) ** 2)
        return float(max(total - explained, 0) * n / free(ridge) ** 2)

    ridge = min(_RIDGES * max(variances.mean(), _LEAST), key=error)
    weights = len(shares) * directions @ (along / (variances + ridge)[:, None]) / scale[:, None]
    return Solution(weights, len(shares) * shares - mean @ weights), free(ridge)


def linear_discriminant(sums: Sums) -> Solution:
    """Streaming linear discriminant analysis: one covariance for all classes, which are all equally likely."""
    n, mean, gram, _ = _centred(sums)
    means = sums.of_class / sums.counts[:, None]
    apart = means - mean
    covariance = (gram - apart.T @ (sums.counts[:, None] * apart)) / n
    shrunk = (1 - _SLDA_SHRINKAGE) * covariance + _SLDA_SHRINKAGE * np.eye(len(mean))
    weights = np.linalg.solve(shrunk, means.T)
    return Solution(weights, -np.sum(means.T * weights, axis=0) / 2)


def nearest_mean(sums: Sums) -> Solution:
    """The class whose mean is nearest scores highest."""
    means = sums.of_class / sums.counts[:, None]
    return Solution(means.T, -np.sum(means**2, axis=1) / 2)


def _centred(sums: Sums) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Images, mean features, and about this mean: the Gram matrix, and the products of features and classes."""
    n = float(sums.counts.sum())
    mean = sums.of_class.sum(axis=0) / n
    gram = sums.gram - n * np.outer(mean, mean)
    return n, mean, gram, (sums.of_class - sums.counts[:, None] * mean).T
