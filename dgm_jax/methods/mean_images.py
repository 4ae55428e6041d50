"""The mean image of each class, in little: drawn images are moved to it before a classifier learns them.

Not in the paper. A generator may draw every detail of a class and still place light and colour of its images wrongly on
average, which a classifier takes for what the class looks like. The mean of the real images says how wrong, at the cost
of a few numbers a class.
"""

from collections.abc import Sequence

import jax
import numpy as np

from dgm_jax.memory.task import TaskMemory
from dgm_jax.training.epoch import TaskImages

SIDE = 8  # Of a mean image, in pixels: all sizes of images are multiples of it.


def mean_images(images: np.ndarray, labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """The mean image of each class, float32 [classes, 8, 8, c] in pixel values.

    Args:
      images: uint8 [n, h, w, c].
      labels: [n], class indices.
      classes: the class indices, in this order; each has an image.
    """
    return np.stack([_mean(images[labels == index]) for index in classes])


def with_mean_images(
    means: np.ndarray | None,
    earlier: Sequence[TaskMemory],
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[int, ...],
) -> np.ndarray:
    """The mean images of all classes once a task is learnt; that of a class which is known is over all its images.

    Args:
      means: of the classes 0, 1, ... of the tasks before; None before the first task.
      earlier: those tasks.
      images: of the new task, uint8 [n, h, w, c].
      labels: [n], class indices.
      classes: the class indices of the new task.
    """
    new = mean_images(images, labels, classes)
    if means is None:
        return new
    rows = list(means)
    for index, mean in zip(classes, new, strict=True):
        if index == len(rows):
            rows.append(mean)
            continue
        modes = [task.of_class(index) for task in earlier if index in task.classes]
        before = sum(mode.counts[0] for mode in modes if mode.counts)
        n = int(np.sum(labels == index))
        rows[index] = ((before * rows[index] + n * mean) / (before + n)).astype(np.float32)
    return np.stack(rows)


def moved_to_means(drawn: TaskImages, means: np.ndarray) -> TaskImages:
    """Adds to all images of a class what their mean lacks of that class's; values are cut to those of pixels.

    Args:
      drawn: images of the classes 0, 1, ...
      means: `mean_images` of these classes.
    """
    images = np.asarray(drawn.images).copy()
    size = images.shape[1:]
    for index, mean in enumerate(means):
        rows = np.flatnonzero(drawn.labels[: drawn.count] == index)
        missing = np.asarray(jax.image.resize(mean - _mean(images[rows]), size, "linear"))
        images[rows] = np.clip(np.rint(images[rows] + missing), 0, 255).astype(np.uint8)
    return TaskImages(images, drawn.labels, drawn.count)


def _mean(images: np.ndarray) -> np.ndarray:
    """The mean of images uint8 [n, h, w, c], shrunk to float32 [8, 8, c]."""
    _, height, width, channels = images.shape
    mean = images.mean(axis=0, dtype=np.float64)
    return mean.reshape(SIDE, height // SIDE, SIDE, width // SIDE, channels).mean(axis=(1, 3)).astype(np.float32)
