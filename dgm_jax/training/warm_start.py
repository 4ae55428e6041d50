"""A warm start: a task begins with norms, output layers and masks of the earlier classes that are most similar to its own.

Reserved weights may be used again, and do not change. Norms, output layers and embeddings belong to the new task, so a
copy of those of an earlier task changes nothing that is remembered.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dgm_jax import nn
from dgm_jax.memory.task import TaskMemory

Params = Any

_ARGUMENT = 4.0  # |s e| where a gate begins: 2 % from open or closed, and still able to turn.


def begin_as(
    generator: Params, statistics: Sequence[Params], similar: Sequence[TaskMemory], slope: float
) -> tuple[Params, list[Params]]:
    """Gives a new task the norms, output layers and masks of earlier classes; what has grown since stays fresh.

    Args:
      generator: {"kernels", "norms", "heads", "embeddings"} of the new task, fresh.
      statistics: of its norms.
      similar: for each of its classes an earlier one, as a task of one class; all were learnt in one task.
      slope: `s` at which gates are to be 2 % from open or closed.

    Returns:
      The generator with its norms, heads and embeddings replaced, and the statistics.
    """

    def grown(old: Sequence[Params], fresh: Sequence[Params]) -> list[Params]:
        return jax.tree.map(nn.expand, list(old), list(fresh))

    heads = np.concatenate([earlier.heads for earlier in similar])
    embeddings = [
        np.where(np.isfinite(fresh), _embeddings(nn.expand(mask, np.zeros(fresh.shape, bool)), slope), fresh)
        for mask, fresh in zip(similar[0].masks, generator["embeddings"], strict=True)
    ]
    own = {
        "norms": grown(similar[0].norms, generator["norms"]),
        "heads": nn.expand(heads, generator["heads"]),
        "embeddings": embeddings,
    }
    return generator | own, grown(similar[0].statistics, statistics)


def _embeddings(opened: np.ndarray, slope: float) -> np.ndarray:
    """Where gates begin: those that were open above 0; the others, and all that has grown since, below."""
    begin = np.float32(_ARGUMENT / slope)
    return np.where(opened, begin, -begin)


def most_similar_classes(
    predicted: np.ndarray, labels: np.ndarray, classes: Sequence[int], tasks: Sequence[Sequence[int]]
) -> list[int]:
    """For each class of a new task, the earlier class to begin as; all of these belong to one earlier task.

    They have to: norms and masks belong to a task, and an output layer does not fit those of another one.

    Args:
      predicted: [n] the last classifier's predictions for the task's images.
      labels: [n] their class indices.
      classes: of the new task.
      tasks: the classes of each earlier one.
    """
    counts = {index: np.bincount(predicted[labels == index], minlength=max(map(max, tasks)) + 1) for index in classes}
    most_similar = max(tasks, key=lambda earlier: sum(count[list(earlier)].sum() for count in counts.values()))
    return [max(most_similar, key=lambda earlier: counts[index][earlier]) for index in classes]
