"""Averages of weights over the steps of training (Polyak and Juditsky 1992), with exponentially fading weights."""

from typing import Any

import jax
import jax.numpy as jnp

Params = Any


def averaged(average: Params, newest: Params, step: jax.Array, decay: float) -> Params:
    """Moves an average towards the newest weights.

    It moves by their difference, so that a weight that stands still stays equal to its average, bit for bit.

    Args:
      average: a tree of arrays.
      newest: the same tree.
      step: how many steps were averaged before this one; the first ones count more, so that the start is forgotten.
      decay: of a weight's share in the average from step to step, in [0, 1).
    """
    moved = 1 - jnp.minimum(decay, step / (step + 10.0))
    return jax.tree.map(lambda old, new: old + moved * (new - old), average, newest)
