"""What a task's training carries from step to step, and what stays fixed while it runs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization, struct

from dgm_jax import nn
from dgm_jax.config import Config

Params = Any
Array = Any  # NumPy's on its way to the devices, JAX's there.


@struct.dataclass
class TrainState:
    """Everything that a training step changes; donated to the step that replaces it."""

    generator: Params  # {"kernels", "norms", "heads", "embeddings"}: shared weights, then what belongs to the task.
    generator_statistics: Params
    generator_optimiser: optax.OptState
    discriminator: Params
    discriminator_statistics: Params
    discriminator_optimiser: optax.OptState
    average: Params = None  # {"generator", "statistics"} but for embeddings: over the task, if `generator_average`.


@struct.dataclass
class Capacity:
    """What earlier tasks left to this one; constant while it is learnt."""

    reserved: list[Array]  # Cumulative mask of each layer, of the physical shape of its embedding, bool.
    free: list[Array]  # Gates within the logical widths that are not reserved, bool.
    n_free: Array  # How many those are, in the whole generator,
    n_gates: Array  # and with those that are reserved.
    sparsity_weight: Array  # lambda_R size_t / size_0
    seen: Array  # [classes], bool: the classes met so far, this task's included.
    first_class: Array  # Class index of the task's first class: its output layer is number 0.


@struct.dataclass
class Clock:
    """Where in the stream and in a task's training we are; all integers, NumPy's or JAX's."""

    task: Any  # Number of tasks before this one.
    epoch: Any
    mask_epochs: Any  # Epochs in which masks are learnt; in the rest they are binary and stay as they are.
    steps: Any  # In an epoch.


@dataclasses.dataclass(frozen=True)
class Optimisers:
    """Adam for each network; the generator's blocks what is reserved and compensates embeddings before it."""

    generator: optax.GradientTransformationExtraArgs
    discriminator: optax.GradientTransformation


def make_optimisers(config: Config) -> Optimisers:
    """Builds both optimisers. Order in the generator's: protect, compensate, clip, Adam."""
    adam = {"b1": config.gan.adam_b1, "b2": config.gan.adam_b2}
    stages = [nn.protect()]
    if config.gates.gate_gradient == "product":
        stages.append(optax.masked(nn.compensate(), lambda params: {name: name == "embeddings" for name in params}))
    stages += [optax.clip_by_global_norm(config.gan.clip_norm), optax.adam(config.gan.generator_learning_rate, **adam)]
    return Optimisers(
        generator=optax.with_extra_args_support(optax.chain(*stages)),
        discriminator=optax.adam(config.gan.discriminator_learning_rate, **adam),
    )


def make_capacity(
    reserved: Sequence[Array],
    live: Sequence[Array],
    *,
    sparsity_weight: float,
    seen: Array,
    first_class: int,
) -> Capacity:
    """Builds a task's `Capacity` from the cumulative masks and from `live`, the gates within the logical widths."""
    free = [a & ~r for a, r in zip(live, reserved, strict=True)]
    return Capacity(
        reserved=list(reserved),
        free=free,
        n_free=np.int32(sum(np.sum(f) for f in free)),
        n_gates=np.int32(sum(np.sum(a) for a in live)),
        sparsity_weight=jnp.asarray(sparsity_weight),
        seen=seen,
        first_class=np.int32(first_class),
    )


def to_tree(state: TrainState) -> Params:
    """The state as nested dicts of arrays, on the host, to be saved; what there is none of is left out."""
    return {k: v for k, v in serialization.to_state_dict(jax.device_get(state)).items() if v is not None}


def from_tree(like: TrainState, tree: Params) -> TrainState:
    """Undoes `to_tree`; `like` is a state of the same structure."""
    return serialization.from_state_dict(like, {"average": None, **tree})


def of_average(generator: Params, statistics: Params) -> Params:
    """What is averaged of a generator: all that is drawn with, but for the masks."""
    kept = {name: generator[name] for name in ("kernels", "norms", "heads")}
    return {"generator": kept, "statistics": statistics}


def init_optimiser(optimiser: optax.GradientTransformation, params: Params) -> optax.OptState:
    """The state of a fresh optimiser, on the host. Adam's is all zeros; drawing it up there compiles nothing."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(optimiser.init, params))
