"""What all discriminators share: their output, and their two linear heads."""

from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from dgm_jax.nn import product
from dgm_jax.types import DiscriminatorParams, Linear


class Output(NamedTuple):
    """The output of a discriminator for a batch."""

    critic: jax.Array  # [batch]
    logits: jax.Array  # [batch, classes]
    features: jax.Array  # [batch, n]: the input of both heads.


def init_heads(random: np.random.Generator, features: int, n_classes: int) -> dict[str, Linear]:
    """Fresh weights of the "critic" and the auxiliary "classifier", uniform in +-1 / sqrt(features)."""
    return {"critic": _init_linear(random, features, 1), "classifier": _init_linear(random, features, n_classes)}


def for_classes(params: DiscriminatorParams, n_classes: int) -> DiscriminatorParams:
    """Gives the class head as many outputs as the stream has classes; those of new classes start at 0.

    It has too many if a run goes back to a task, and then on with fewer classes; the last ones belong to none that was
    learnt.
    """
    kernel, bias = params.classifier.kernel[:, :n_classes], params.classifier.bias[:n_classes]
    missing = n_classes - len(bias)
    if missing == 0 and len(bias) == len(params.classifier.bias):
        return params
    return replace(params, classifier=Linear(np.pad(kernel, ((0, 0), (0, missing))), np.pad(bias, (0, missing))))


def heads(params: DiscriminatorParams, features: jax.Array) -> Output:
    """Applies both heads to features [batch, n]."""
    return Output(_linear(params.critic, features)[:, 0], _linear(params.classifier, features), features)


def _init_linear(random: np.random.Generator, inputs: int, outputs: int) -> Linear:
    bound = 1 / np.sqrt(inputs)
    kernel = random.uniform(-bound, bound, (inputs, outputs)).astype(np.float32)
    return Linear(kernel, random.uniform(-bound, bound, outputs).astype(np.float32))


def _linear(params: Linear, x: jax.Array) -> jax.Array:
    return product(x, params.kernel) + params.bias[None]
