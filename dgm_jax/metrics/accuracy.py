"""Accuracy, forgetting, transfer and capacity, as pure functions of predictions and masks (docs/measures.md)."""

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


def average_incremental_accuracy(averages: Sequence[float | None]) -> float:
    """The mean of A_1 to A_T (Rebuffi et al. 2017), or of those given; NaN if there is none, or one is None."""
    return float("nan") if not averages or None in averages else float(np.mean(averages))  # type: ignore[arg-type]


def share_of_joint(accuracy: float, joint: float) -> float:
    """A_T of a method divided by that of joint training: the share of the ceiling that it reaches."""
    return accuracy / joint if joint else float("nan")


def accuracy_with_task_known(scores: np.ndarray, labels: np.ndarray, tasks: Sequence[Sequence[int]]) -> np.ndarray:
    """The accuracy of each class if the task is known: the prediction is the best of the classes of the image's task.

    Args:
      scores: of each image for each class, [n, classes].
      labels: the class of each image, [n].
      tasks: class indices of each task, which follow each other; together all classes that `labels` has.

    Returns:
      float64 [classes]; NaN for a class without images, and for one that is alone in its task: there is no choice.
    """
    accuracy = np.full(sum(map(len, tasks)), np.nan)
    for task in tasks:
        if len(task) > 1:
            classes, rows = np.asarray(task), np.isin(labels, task)
            predictions = classes[scores[rows][:, classes].argmax(axis=1)]
            accuracy[classes] = per_class_accuracy(predictions, labels[rows], len(accuracy))[classes]
    return accuracy


def forward_transfer(
    learnt: Sequence[float | None], joint: Sequence[float | None], tasks: Sequence[Sequence[int]]
) -> float:
    """How well new tasks are learnt: the mean of (method - joint training), when just learnt and with the task known.

    Args:
      learnt: for each class the accuracy after its own task, with the task known; None if it was not measured.
      joint: the same of joint training on all tasks so far, the reference.
      tasks: class indices of each task.

    Returns:
      The mean over the classes of all tasks but the first, for which nothing can be transferred; NaN if none was
      measured. It is minus the intransigence of Chaudhry et al. (2018), by class.
    """
    later = [c for task in tasks[1:] for c in task if c < min(len(learnt), len(joint))]
    mine, reference = (np.asarray([of[c] for c in later], float) for of in (learnt, joint))  # None becomes NaN.
    return _mean_of_known(mine - reference)


def forgetting_by_class(matrix: np.ndarray, tasks: Sequence[Sequence[int]]) -> np.ndarray:
    """How far the accuracy of each class fell from its best: (best before - now), float64 [classes].

    Args:
      matrix: accuracy after each task so far (rows) on each class (columns); NaN where not seen.
      tasks: class indices of each task; at least one entry for each row.

    Returns:
      The falls (Chaudhry et al. 2018), negative if accuracy rose; NaN for the classes of the newest task and of tasks
      to come, and for a class that had no test images before or has none now.
    """
    matrix = np.asarray(matrix, float)
    old = [c for task in tasks[: len(matrix) - 1] for c in task]
    falls = np.full(matrix.shape[1], np.nan)
    if old:
        falls[old] = np.fmax.reduce(matrix[:-1, old], axis=0) - matrix[-1, old]
    return falls


def forgetting(matrix: np.ndarray, tasks: Sequence[Sequence[int]]) -> float:
    """The mean of `forgetting_by_class`, which takes the same; 0 after the first task, NaN if no class was measured."""
    return _mean_of_known(forgetting_by_class(matrix, tasks)) if len(matrix) > 1 else 0.0


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

    `matrix` and `tasks` are those of `forgetting_by_class`.

    Returns:
      The mean change (Lopez-Paz and Ranzato 2017, by class) over classes that had test images then and have some now; 0
      after the first task, NaN if there are no such classes, negative if accuracy on old classes fell.
    """
    changes = [matrix[-1, c] - matrix[t, c] for t, task in enumerate(tasks[: len(matrix) - 1]) for c in task]
    return _mean_of_known(np.asarray(changes)) if changes else 0.0


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if known.size else float("nan")
