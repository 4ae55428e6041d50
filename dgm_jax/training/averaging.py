"""Averages of weights over the steps of training (Polyak and Juditsky 1992), with exponentially fading weights."""

from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def averaged(average: T, newest: T, step: jax.Array, decay: float) -> T:
    """Moves an average towards the newest weights.

    It moves by a share of their difference, so that the average of a weight that does not change is that weight, bit
    for bit.

    Args:
      average: a tree of arrays.
      newest: the same tree.
      step: the number of steps averaged before this one. Early steps count more, so that the initial weights have no
        lasting effect.
      decay: the factor by which the share of older weights shrinks at each step, in [0, 1).
    """
    share = 1 - jnp.minimum(decay, step / (step + 10.0))
    return jax.tree.map(lambda old, new: old + share * (new - old), average, newest)
