"""A warm start: a task begins as the earlier classes that its own look most like, in all that belongs to a task.

Weights that are reserved are free to be used again, and stay what they are; norms, output layers and embeddings are the
new task's own, so that a copy of those of an earlier task changes nothing that is remembered.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from dgm_jax import nn
from dgm_jax.config import Config

Params = Any

_STEPS_FROM_TURNING = 10  # Of the optimiser, for a gate that begins open or closed.


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
    generator: Params, statistics: Sequence[Params], like: Sequence[Owned], config: Config
) -> tuple[Params, list[Params]]:
    """Gives a task that begins what earlier classes own; what has grown since keeps its fresh values.

    Args:
      generator: {"kernels", "norms", "heads", "embeddings"} of the new task, fresh.
      statistics: of its norms.
      like: for each of its classes an earlier one, as a task of that class alone; all were learnt in one task.
      config: the step sizes, which say how far from turning a gate begins.

    Returns:
      The generator with its norms, heads and embeddings replaced, and the statistics.
    """

    def grown(old: Sequence[Params], fresh: Sequence[Params]) -> list[Params]:
        return jax.tree.map(nn.expand, list(old), list(fresh))

    heads = np.concatenate([own.heads for own in like])
    embeddings = [
        np.where(np.isfinite(fresh), _embeddings(nn.expand(mask, np.zeros(fresh.shape, bool)), config), fresh)
        for mask, fresh in zip(like[0].masks, generator["embeddings"], strict=True)
    ]
    own = {
        "norms": grown(like[0].norms, generator["norms"]),
        "heads": nn.expand(heads, generator["heads"]),
        "embeddings": embeddings,
    }
    return generator | own, grown(like[0].statistics, statistics)


def _embeddings(opened: np.ndarray, config: Config) -> np.ndarray:
    """Where gates begin: those that are open there above 0, the others, and all that has grown since, below.

    How far open or closed is a matter of the slope: in the first epoch it is 1 / s_max, and all gates are half open;
    with `scale_lead=1` it is what it would be in the second, and they are nearly what they are to be in the end.
    """
    if config.gate_learning_rate is None:
        begin = _STEPS_FROM_TURNING * config.generator_learning_rate
    else:  # Its steps are of s e, and s is lowest at first.
        begin = _STEPS_FROM_TURNING * config.gate_learning_rate * config.scale_max
    return np.where(opened, np.float32(begin), -np.float32(begin))
