"""A warm start: a task begins as the earlier classes that its own look most like, in all that belongs to a task.

Weights that are reserved are free to be used again, and stay what they are; norms, output layers and embeddings are the
new task's own, so that a copy of those of an earlier task changes nothing that is remembered.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from dgm_jax import nn

Params = Any

_ARGUMENT = 4.0  # |s e| where a gate begins: 2 % from open or closed, and still able to turn.


class Owned(Protocol):
    """What a finished task owns of a generator, as NumPy arrays."""

    @property
    def masks(self) -> Sequence[np.ndarray]:
        """Binary."""

    @property
    def norms(self) -> Sequence[Params]:
        """Of each layer."""

    @property
    def statistics(self) -> Sequence[Params]:
        """Of each norm."""

    @property
    def heads(self) -> np.ndarray:
        """Output layers, one a class."""


def begin_as(
    generator: Params, statistics: Sequence[Params], like: Sequence[Owned], slope: float
) -> tuple[Params, list[Params]]:
    """Gives a task that begins what earlier classes own; what has grown since keeps its fresh values.

    Args:
      generator: {"kernels", "norms", "heads", "embeddings"} of the new task, fresh.
      statistics: of its norms.
      like: for each of its classes an earlier one, as a task of that class alone; all were learnt in one task.
      slope: `s` at which gates are to be 2 % from open or closed.

    Returns:
      The generator with its norms, heads and embeddings replaced, and the statistics.
    """

    def grown(old: Sequence[Params], fresh: Sequence[Params]) -> list[Params]:
        return jax.tree.map(nn.expand, list(old), list(fresh))

    heads = np.concatenate([own.heads for own in like])
    embeddings = [
        np.where(np.isfinite(fresh), _embeddings(nn.expand(mask, np.zeros(fresh.shape, bool)), slope), fresh)
        for mask, fresh in zip(like[0].masks, generator["embeddings"], strict=True)
    ]
    own = {
        "norms": grown(like[0].norms, generator["norms"]),
        "heads": nn.expand(heads, generator["heads"]),
        "embeddings": embeddings,
    }
    return generator | own, grown(like[0].statistics, statistics)


def _embeddings(opened: np.ndarray, slope: float) -> np.ndarray:
    """Where gates begin: those that are open there above 0, the others, and all that has grown since, below."""
    begin = np.float32(_ARGUMENT / slope)
    return np.where(opened, begin, -begin)


def likest(
    taken_for: np.ndarray, labels: np.ndarray, classes: Sequence[int], tasks: Sequence[Sequence[int]]
) -> list[int]:
    """For each class of a task that begins, the class to begin as: all are of the earlier task that it is most like.

    Norms and masks belong to a task: an output layer reads nothing in those of another one.

    Args:
      taken_for: [n] what the last classifier takes the task's images for.
      labels: [n] what they are.
      classes: of the task that begins.
      tasks: the classes of each earlier one.
    """
    counts = {index: np.bincount(taken_for[labels == index], minlength=max(map(max, tasks)) + 1) for index in classes}
    alike = max(tasks, key=lambda earlier: sum(count[list(earlier)].sum() for count in counts.values()))
    return [max(alike, key=lambda earlier: counts[index][earlier]) for index in classes]
