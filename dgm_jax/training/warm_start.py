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

_STEPS_FROM_CLOSING = 10  # Of the optimiser, for a gate that begins open.


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
      like: for each of its classes an earlier one, as a task of that class alone; norms and masks are the first's.
      config: the step sizes, which say how far from closing an open gate begins.

    Returns:
      The generator with its norms, heads and embeddings replaced, and the statistics.
    """

    def grown(old: Sequence[Params], fresh: Sequence[Params]) -> list[Params]:
        return jax.tree.map(nn.expand, list(old), list(fresh))

    heads = np.concatenate([own.heads for own in like])
    embeddings = [
        np.where(nn.expand(mask, np.zeros(fresh.shape, bool)), _open_embedding(config), fresh)
        for mask, fresh in zip(like[0].masks, generator["embeddings"], strict=True)
    ]
    own = {
        "norms": grown(like[0].norms, generator["norms"]),
        "heads": nn.expand(heads, generator["heads"]),
        "embeddings": embeddings,
    }
    return generator | own, grown(like[0].statistics, statistics)


def _open_embedding(config: Config) -> np.float32:
    """Where the embedding of an open gate begins: a few steps from closing."""
    if config.gate_learning_rate is None:
        return np.float32(_STEPS_FROM_CLOSING * config.generator_learning_rate)
    return np.float32(_STEPS_FROM_CLOSING * config.gate_learning_rate * config.scale_max)  # s begins at 1 / s_max.
