"""Accuracy, forgetting and capacity, as pure functions of predictions and masks (docs/method.md)."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The share of correctly classified images of each class, float64 [n_classes]; NaN for a class without images."""
    correct = np.bincount(labels[predictions == labels], minlength=n_classes)
    total = np.bincount(labels, minlength=n_classes)
    return np.where(total > 0, correct / np.maximum(total, 1), np.nan)


def macro_accuracy(accuracy: np.ndarray) -> float:
    """A_t: the mean over the classes seen of each class's accuracy (the paper's headline measure)."""
    return float(np.nanmean(accuracy))


def micro_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of correctly classified images."""
    return float(np.mean(predictions == labels))


def forgetting(matrix: np.ndarray, tasks: Sequence[Sequence[int]]) -> float:
    """How far accuracy fell from its best: the mean of (best before - now) over the classes of earlier tasks.

    Args:
      matrix: accuracy after each task so far (rows) on each class (columns); NaN where not seen.
      tasks: class indices of each task; at least one entry for each row.

    Returns:
      The mean fall (Chaudhry et al. 2018) over classes that had test images before and have some now; 0 after the first
      task, NaN if there are no such classes, negative if accuracy on old classes rose.
    """
    old = [c for task in tasks[: len(matrix) - 1] for c in task]
    if not old:
        return 0.0
    best = np.fmax.reduce(matrix[:-1, old], axis=0)  # NaN only for a class that never had test images.
    return _mean_of_known(best - matrix[-1, old])


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts of images by true class (rows) and predicted class (columns), int64 [n_classes, n_classes]."""
    return np.bincount(labels * n_classes + predictions, minlength=n_classes**2).reshape(n_classes, n_classes)


def capacity(
    binary: Sequence[np.ndarray],
    reserved_before: Sequence[np.ndarray],
    widths: Sequence[int],
    weights: Sequence[int],
) -> list[dict[str, Any]]:
    """How much of each layer a task used, before the network grew.

    Args:
      binary: the task's binary masks, over the units of each layer (DGMa) or over the weights of each kernel (DGMw).
      reserved_before: the cumulative masks of all earlier tasks.
      widths: output units of each layer.
      weights: number of weights of each layer.

    Returns:
      One row for each layer: "layer" (its number, from 1), "width", "gates", "used" (open for this task),
      "newly_reserved" (open, and free before), "reused" (open, and reserved by earlier tasks), "free" (reserved by no
      task so far) and "weights".
    """
    columns = zip(binary, reserved_before, widths, weights, strict=True)
    return [
        {
            "layer": layer,
            "width": width,
            "gates": int(mask.size),
            "used": int(mask.sum()),
            "newly_reserved": int((mask & ~before).sum()),
            "reused": int((mask & before).sum()),
            "free": int((~(mask | before)).sum()),
            "weights": size,
        }
        for layer, (mask, before, width, size) in enumerate(columns, start=1)
    ]


def backward_transfer(matrix: np.ndarray, tasks: Sequence[Sequence[int]]) -> float:
    """How later tasks changed accuracy: the mean of (now - when just learnt) over the classes of earlier tasks.

    `matrix` and `tasks` are those of `forgetting`.

    Returns:
      The mean change (Lopez-Paz and Ranzato 2017, by class) over classes that had test images then and have some now; 0
      after the first task, NaN if there are no such classes, negative if accuracy on old classes fell.
    """
    changes = [matrix[-1, c] - matrix[t, c] for t, task in enumerate(tasks[: len(matrix) - 1]) for c in task]
    return _mean_of_known(np.asarray(changes)) if changes else 0.0


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if known.size else float("nan")
