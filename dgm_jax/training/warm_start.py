"""Warm start: a task begins with the norms, output layers and masks of the earlier classes most similar to its classes.

Reserved weights may be used again, and do not change. Norms, output layers and embeddings belong to the new task, so
copying those of an earlier task changes no earlier image.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import jax
import numpy as np

from dgm_jax import nn
from dgm_jax.memory.task import TaskMemory
from dgm_jax.types import GeneratorParams, Statistics

LayerT = TypeVar("LayerT")

_ARGUMENT = 4.0  # |s e| of a gate at the start: 2 % from open or closed, where training can still turn it.


def begin_as(
    generator: GeneratorParams, statistics: list[Statistics], similar: Sequence[TaskMemory], slope: float
) -> tuple[GeneratorParams, list[Statistics]]:
    """Gives a new task the norms, output layers and masks of earlier classes; units added since stay fresh.

    Args:
      generator: fresh parameters of the new task.
      statistics: of its norms.
      similar: for each class of the new task an earlier one, as a task of one class; all were learnt in one task.
      slope: the slope `s` at which gates are 2 % from open or closed.

    Returns:
      The generator with its norms, heads and embeddings replaced, and the statistics.
    """

    def grown(old: list[LayerT], fresh: list[LayerT]) -> list[LayerT]:
        return jax.tree.map(nn.expand, list(old), list(fresh))

    heads = np.concatenate([earlier.heads for earlier in similar])
    embeddings = [
        np.where(np.isfinite(fresh), _embeddings(nn.expand(mask, np.zeros(fresh.shape, bool)), slope), fresh)
        for mask, fresh in zip(similar[0].masks, generator.embeddings, strict=True)
    ]
    begun = replace(
        generator,
        norms=grown(similar[0].norms, generator.norms),
        heads=nn.expand(heads, generator.heads),
        embeddings=embeddings,
    )
    return begun, grown(similar[0].statistics, statistics)


def _embeddings(opened: np.ndarray, slope: float) -> np.ndarray:
    """Initial embeddings: above 0 for gates that were open, below 0 for the others and for those added since."""
    begin = np.float32(_ARGUMENT / slope)
    return np.where(opened, begin, -begin)


def most_similar_classes(
    predicted: np.ndarray, labels: np.ndarray, classes: Sequence[int], tasks: Sequence[Sequence[int]]
) -> list[int]:
    """For each class of a new task, the earlier class to begin as; all of these belong to one earlier task.

    They must, because an output layer only fits the norms and masks of its task.

    Args:
      predicted: [n] the last classifier's predictions for the task's images.
      labels: [n] their class indices.
      classes: of the new task.
      tasks: the classes of each earlier one.
    """
    counts = {index: np.bincount(predicted[labels == index], minlength=max(map(max, tasks)) + 1) for index in classes}
    most_similar = max(tasks, key=lambda earlier: sum(count[list(earlier)].sum() for count in counts.values()))
    return [max(most_similar, key=lambda earlier: counts[index][earlier]) for index in classes]
