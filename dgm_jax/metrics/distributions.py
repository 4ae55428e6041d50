"""How far two sets of images are from each other, measured in the features of a classifier."""

from collections.abc import Iterator

import numpy as np

_ROWS_AT_ONCE = 1024  # Of a matrix of distances: tens of thousands of images then fit into memory.


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """The Frechet distance of two sets of features, taken for normally distributed (Heusel et al. 2017).

    It is not "FID", which is this in the features of one Inception network.

    Args:
      features: [n, d].
      others: [m, d].

    Returns:
      `|mu - mu'|^2 + tr(C + C' - 2 (C C')^(1/2))`, at least 0.
    """
    means = [x.mean(axis=0) for x in (features, others)]
    covariances = [np.atleast_2d(np.cov(x, rowvar=False, bias=True)) for x in (features, others)]
    root = _symmetric_root(covariances[0])
    # tr (C C')^(1/2) = tr (C^(1/2) C' C^(1/2))^(1/2), of a symmetric matrix.
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    distance = np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    return float(max(distance, 0.0))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def precision_and_recall(real: np.ndarray, generated: np.ndarray, *, neighbours: int = 3) -> tuple[float, float]:
    """How many generated images look real, and how many real ones could have been generated (Kynkaanniemi et al. 2019).

    Each set's manifold is the union of balls around its members, as wide as the distance to the k-th nearest other one.

    Args:
      real: features [n, d], n > neighbours.
      generated: features [m, d], m > neighbours.
      neighbours: k.

    Returns:
      (precision: share of generated ones within the manifold of real ones, recall: the other way round).
    """

    def covered(points: np.ndarray, members: np.ndarray) -> float:
        nearest = [np.partition(_distances(rows, members), neighbours, axis=1) for rows in _blocks(members)]
        radii = np.concatenate([distances[:, neighbours] for distances in nearest])  # Number 0 is itself.
        inside = [np.any(_distances(rows, members) <= radii[None], axis=1) for rows in _blocks(points)]
        return float(np.mean(np.concatenate(inside)))

    return covered(generated, real), covered(real, generated)


def nearest(points: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The Euclidean distance of each point, [n, d], to the nearest of the members, [m, d]."""
    return np.concatenate([_distances(rows, members).min(axis=1) for rows in _blocks(points)])


def _blocks(points: np.ndarray) -> Iterator[np.ndarray]:
    return (points[start : start + _ROWS_AT_ONCE] for start in range(0, len(points), _ROWS_AT_ONCE))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
