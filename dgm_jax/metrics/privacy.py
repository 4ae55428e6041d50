"""How near generated images come to the training images they were learnt from, against how near real ones come.

A generator that copied its training images would come nearer to them than images that it never saw. That it does not
come nearer is no proof that it keeps nothing: a memory that must not be shown to give anything away needs a guarantee,
such as training with differential privacy, which DGM does not offer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dgm_jax import metrics

_NEAR = 0.05  # About so many of the held-out images are called near.
FEWEST = 20  # Held-out images of a class by which anything can be told.


def nearest_distances(points: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The distance of each point to the nearest member, root mean square over dimensions.

    Args:
      points: [n, ...], any shape after the first.
      members: [m, ...] of the same shape.

    Returns:
      float [n].
    """
    flat = [np.asarray(x, np.float64).reshape(len(x), -1) for x in (points, members)]
    return metrics.nearest(*flat) / np.sqrt(flat[0].shape[1])


def measure(
    generated: np.ndarray, training: np.ndarray, held_out: np.ndarray, features: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any] | None:
    """Compares the distances of generated and of held-out real images to the training images of the same class.

    Args:
      generated: images of one class, uint8 [n, h, w, c].
      training: the real images that its generator learnt from, uint8 [m, h, w, c].
      held_out: real images of the class that it did not learn from, uint8 [k, h, w, c].
      features: of uint8 images, [n, d]; those of a classifier.

    Returns:
      For "pixels" (0 to 1) and "features": the "median" and the "smallest" distance to the nearest training image, of
      "generated" and of "held_out" images, and "nearer", the share of generated images that are nearer than the j-th
      nearest of the k held-out ones. "expected" is the share, j / (k + 1), that would be nearer if they were drawn as
      the held-out ones are: about 0.05, and more where there are few. "held_out" beside these is k, and "compared" the
      number of generated images. "copies" counts generated images that equal a training image. None where there are no
      held-out images.
    """
    if not len(held_out):
        return None
    k = len(held_out)
    rank = max(1, round(_NEAR * (k + 1)))
    result: dict[str, Any] = {"held_out": k, "compared": len(generated), "expected": rank / (k + 1)}
    for space, of in (("pixels", lambda images: images / 255), ("features", features)):
        members = of(training)
        distances = {
            "generated": nearest_distances(of(generated), members),
            "held_out": nearest_distances(of(held_out), members),
        }
        near = np.sort(distances["held_out"])[rank - 1]
        result[space] = {
            who: {"median": float(np.median(own)), "smallest": float(own.min())} for who, own in distances.items()
        } | {"nearer": float(np.mean(distances["generated"] < near))}
    known = {image.tobytes() for image in training}
    return result | {"copies": sum(image.tobytes() in known for image in generated)}


def is_nearer(measured: dict[str, Any]) -> bool | None:
    """Whether so many generated images are near that chance does not explain it; None if there are too few to tell.

    By chance alone the share would rarely be more than three standard deviations above what is expected; the
    threshold's own place is uncertain too, as it hangs on k held-out images.
    """
    k, n, expected = measured["held_out"], measured["compared"], measured["expected"]
    if k < FEWEST:
        return None
    deviation = np.sqrt(expected * (1 - expected) * (1 / n + 1 / (k + 2)))
    return bool(max(measured[space]["nearer"] for space in ("pixels", "features")) > expected + 3 * deviation)
