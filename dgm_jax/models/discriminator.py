"""What discriminators share: what they say of a batch, and their two linear heads."""

from typing import Any, NamedTuple

import jax
import numpy as np

from dgm_jax.nn import product

Params = Any


class Output(NamedTuple):
    """What the discriminator says of a batch."""

    critic: jax.Array  # [batch]
    logits: jax.Array  # [batch, classes]
    features: jax.Array  # [batch, n]: what both heads see.


def init_heads(random: np.random.Generator, features: int, n_classes: int) -> Params:
    """The critic and the auxiliary classifier, uniform in +-1 / sqrt(features)."""
    return {"critic": _init_linear(random, features, 1), "classifier": _init_linear(random, features, n_classes)}


def widened(params: Params, n_classes: int) -> Params:
    """A discriminator whose class head has room for more classes: their outputs start at 0."""
    missing = n_classes - len(params["classifier"]["bias"])
    if missing <= 0:
        return params
    head = {
        "kernel": np.pad(params["classifier"]["kernel"], ((0, 0), (0, missing))),
        "bias": np.pad(params["classifier"]["bias"], (0, missing)),
    }
    return {**params, "classifier": head}


def heads(params: Params, features: jax.Array) -> Output:
    """Applies both heads to features [batch, n]."""
    return Output(_linear(params["critic"], features)[:, 0], _linear(params["classifier"], features), features)


def _init_linear(random: np.random.Generator, inputs: int, outputs: int) -> Params:
    bound = 1 / np.sqrt(inputs)
    return {
        "kernel": random.uniform(-bound, bound, (inputs, outputs)).astype(np.float32),
        "bias": random.uniform(-bound, bound, outputs).astype(np.float32),
    }


def _linear(params: Params, x: jax.Array) -> jax.Array:
    return product(x, params["kernel"]) + params["bias"][None]
