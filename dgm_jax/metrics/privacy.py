"""Compares the distances of generated images and of unseen real images to the training images.

A generator that copies its training images comes nearer to them than real images that it never saw. If it does not come
nearer, this still does not prove that the memory reveals nothing about them. That needs a guarantee, such as training
with differential privacy, which DGM does not give.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dgm_jax.metrics.distributions import nearest

_NEAR = 0.05  # The share of held-out images that count as near.
FEWEST = 20  # Held-out images of a class that a comparison needs at least.


def nearest_distances(points: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The distance, as the root mean square over dimensions, of each point [n, ...] to the nearest member [m, ...]."""
    flat = [np.asarray(x, np.float64).reshape(len(x), -1) for x in (points, members)]
    return nearest(*flat) / np.sqrt(flat[0].shape[1])


def measure(
    generated: np.ndarray, training: np.ndarray, held_out: np.ndarray, features: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any] | None:
    """Compares the distances of generated and of held-out real images to the training images of the same class.

    Args:
      generated: images of one class, uint8 [n, h, w, c], or scaled vectors, float32 [n, 1, 1, d].
      training: the real images of this class that the generator learnt from, [m, h, w, c].
      held_out: real images of this class that it did not learn from, [k, h, w, c].
      features: returns a classifier's features [n, d] of images.

    Returns:
      A dictionary, or None if there are no held-out images:
        "pixels" (values from 0 to 1, or the numbers of scaled vectors) and "features": for "generated" and for
          "held_out" images, the "median" and the "smallest" distance to the nearest training image; and "nearer", the
          share of generated images that are nearer than the j-th nearest of the k held-out ones.
        "expected": the share that would be nearer if generated images were distributed as the held-out ones are,
          j / (k + 1); about 0.05, and more if there are few held-out images.
        "held_out": k.
        "compared": the number of generated images.
        "copies": the number of generated images that equal a training image.
    """
    if not len(held_out):
        return None
    k = len(held_out)
    rank = max(1, round(_NEAR * (k + 1)))
    result: dict[str, Any] = {"held_out": k, "compared": len(generated), "expected": rank / (k + 1)}
    for space, coordinates in (("pixels", _pixels), ("features", features)):
        members = coordinates(training)
        from_generated = nearest_distances(coordinates(generated), members)
        from_held_out = nearest_distances(coordinates(held_out), members)
        near = np.sort(from_held_out)[rank - 1]
        result[space] = {
            "generated": _median_and_smallest(from_generated),
            "held_out": _median_and_smallest(from_held_out),
            "nearer": float(np.mean(from_generated < near)),
        }
    known = {image.tobytes() for image in training}
    return result | {"copies": sum(image.tobytes() in known for image in generated)}


def _pixels(images: np.ndarray) -> np.ndarray:
    return images / 255 if images.dtype == np.uint8 else images


def is_nearer(measured: dict[str, Any]) -> bool | None:
    """Whether more generated images are near than chance explains; None if there are too few held-out images to say.

    By chance, the share of near images is rarely more than three standard deviations above the expected one. The
    standard deviation has a second term because the distance that counts as near is estimated from k held-out images.
    """
    k, n, expected = measured["held_out"], measured["compared"], measured["expected"]
    if k < FEWEST:
        return None
    deviation = np.sqrt(expected * (1 - expected) * (1 / n + 1 / (k + 2)))
    return bool(max(measured[space]["nearer"] for space in ("pixels", "features")) > expected + 3 * deviation)


def _median_and_smallest(distances: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(distances)), "smallest": float(distances.min())}
