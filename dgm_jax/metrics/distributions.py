"""Distances between two sets of images, measured in the features of a classifier."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_DISTANCES_AT_ONCE = 2**21  # In each thread. Tens of thousands of images have too many distances to keep them all.


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """The Frechet distance between two sets of features, each taken as normally distributed (Heusel et al. 2017).

    It equals the "FID" only if the features are those of the one Inception network that the FID is defined with.

    Args:
      features: [n, d].
      others: [m, d].

    Returns:
      `|mu - mu'|^2 + tr(C + C' - 2 (C C')^(1/2))`, at least 0.
    """
    sets = [np.asarray(x, np.float64) for x in (features, others)]
    means = [x.mean(axis=0) for x in sets]
    # R of a QR decomposition is a root of the covariance, C = R^T R, so that tr (C C')^(1/2) is the sum of the singular
    # values of R R'^T. Unlike a root of C C', it stays exact where features depend on each other and C is singular.
    roots = [np.linalg.qr(x - mean, mode="r") / np.sqrt(len(x)) for x, mean in zip(sets, means)]
    cross = np.linalg.norm(roots[0] @ roots[1].T, "nuc")
    distance = np.sum((means[0] - means[1]) ** 2) + sum(np.sum(root**2) for root in roots) - 2 * cross
    return float(max(distance, 0.0))


def precision_and_recall(real: np.ndarray, generated: np.ndarray, *, neighbours: int = 3) -> tuple[float, float]:
    """How many generated images look real, and how many real ones could have been generated (Kynkaanniemi et al. 2019).

    The manifold of a set is the union of balls around its members. The radius of each ball is the distance from its
    centre to the k-th nearest other member.

    Args:
      real: features [n, d], n > neighbours.
      generated: features [m, d], m > neighbours.
      neighbours: k.

    Returns:
      (precision: the share of generated images within the manifold of the real ones, recall: the share of real images
      within the manifold of the generated ones).
    """

    def covered(points: np.ndarray, members: np.ndarray) -> float:
        # The nearest member, number 0, is the centre itself.
        radii = _reduce_distances(lambda d: np.partition(d, neighbours, axis=1)[:, neighbours], members, members)
        return float(np.mean(_reduce_distances(lambda d: np.any(d <= radii, axis=1), points, members)))

    return covered(generated, real), covered(real, generated)


def nearest(points: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The Euclidean distance of each point, [n, d], to the nearest of the members, [m, d]: float64 [n]."""
    return _reduce_distances(lambda distances: distances.min(axis=1), points, members)


def _reduce_distances(
    reduce: Callable[[np.ndarray], np.ndarray], points: np.ndarray, members: np.ndarray
) -> np.ndarray:
    """Reduces each row of the distances [n, m] between points and members to a value, a block of rows at a time."""
    from scipy.spatial.distance import cdist  # Imported here so that sampling from a memory does not need SciPy.

    rows = max(1, _DISTANCES_AT_ONCE // len(members))
    blocks = [points[start : start + rows] for start in range(0, len(points), rows)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # SciPy releases Python's lock while it computes.
        return np.concatenate(list(threads.map(lambda block: reduce(cdist(block, members)), blocks)))
