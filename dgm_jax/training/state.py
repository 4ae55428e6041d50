"""The state that training changes from step to step, and what stays fixed while a task is learnt."""

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
from dgm_jax.training import vectors
from dgm_jax.types import (
    Array,
    DiscriminatorParams,
    GeneratorParams,
    Norm,
    SamplerParams,
    Statistics,
    Tree,
    params_to_tree,
)


@struct.dataclass
class DiscriminatorState:
    """The discriminator's part of a `TrainState`. A program that takes only this is traced once a run."""

    params: DiscriminatorParams
    optimiser: optax.OptState
    statistics: list[Statistics]


@struct.dataclass
class TrainState:
    """Everything that a training step changes; donated to the step that replaces it."""

    generator: GeneratorParams
    generator_statistics: list[Statistics]
    generator_optimiser: optax.OptState
    discriminator: DiscriminatorParams
    discriminator_statistics: list[Statistics]
    discriminator_optimiser: optax.OptState
    average: SamplerParams | None = None  # Of the generator, over the steps of the task, if `generator_average`.

    def of_discriminator(self) -> DiscriminatorState:
        """The discriminator's part."""
        return DiscriminatorState(self.discriminator, self.discriminator_optimiser, self.discriminator_statistics)

    def with_discriminator(self, part: DiscriminatorState) -> "TrainState":
        """The state with the discriminator's part replaced."""
        return dataclasses.replace(
            self,
            discriminator=part.params,
            discriminator_optimiser=part.optimiser,
            discriminator_statistics=part.statistics,
        )


@struct.dataclass
class Capacity:
    """What earlier tasks left to this one; constant while it is learnt."""

    reserved: list[Array]  # Cumulative mask of each layer, of the physical shape of its embedding, bool.
    free: list[Array]  # Gates within the logical widths that are not reserved, bool.
    n_free: Array  # The number of free gates in the whole generator.
    n_gates: Array  # The number of gates within the logical widths, reserved ones included.
    sparsity_weight: Array  # lambda_R size_t / size_0
    seen: Array  # [classes], bool: the classes seen so far, those of this task included.
    heads: Array  # [classes], int32: the output layer of each class of the task; 0 for other classes.


@struct.dataclass
class Clock:
    """The position in the stream and in the training of a task; all integers, NumPy's or JAX's."""

    task: Any  # Number of tasks before this one.
    epoch: Any
    mask_epochs: Any  # Epochs in which masks are learnt; after them masks are binary and fixed.
    steps: Any  # In an epoch.


@dataclasses.dataclass(frozen=True)
class Optimisers:
    """Adam for each network; before it, the generator's gradients are compensated and clipped."""

    generator: optax.GradientTransformationExtraArgs
    discriminator: optax.GradientTransformation


def make_optimisers(config: Config) -> Optimisers:
    """Builds both optimisers. Order in the generator's: compensate, clip, Adam."""
    adam = {"b1": config.gan.adam_b1, "b2": config.gan.adam_b2}
    stages = [optax.identity()]  # Keeps the numbers that Adam's moments have in checkpoints of earlier versions.
    if config.gates.gate_gradient == "product":
        stages.append(optax.masked(nn.compensate(), _only_embeddings))
    stages += [_clip(config.gan.clip_norm), vectors.adam(config.gan.generator_learning_rate, **adam)]
    return Optimisers(
        generator=optax.with_extra_args_support(optax.chain(*stages)),
        discriminator=vectors.adam(config.gan.discriminator_learning_rate, **adam),
    )


def _clip(longest: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, with the norm of `vectors`."""

    def update(gradients: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        del params
        norm = vectors.norm(gradients)
        return jax.tree.map(lambda g: jnp.where(norm < longest, g, (g / norm) * longest), gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _only_embeddings(params: GeneratorParams) -> GeneratorParams:
    """Selects the embeddings, as `optax.masked` asks for it: a bool in place of each part."""
    selection: dict[str, Any] = {"kernels": False, "norms": False, "heads": False, "embeddings": True}
    return dataclasses.replace(params, **selection)


def make_capacity(
    reserved: Sequence[Array], live: Sequence[Array], *, sparsity_weight: float, seen: Array, heads: Array
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
        heads=heads,
    )


def to_tree(state: TrainState) -> Tree:
    """The state as a checkpoint holds it: nested dicts of arrays, on the host; what is None is left out."""
    return {k: v for k, v in serialization.to_state_dict(jax.device_get(state)).items() if v is not None}


def from_tree(like: TrainState, tree: Tree) -> TrainState:
    """Undoes `to_tree`; `like` is a state of the same structure."""
    return serialization.from_state_dict(like, {"average": None, **tree})


def sampler_params(generator: GeneratorParams, statistics: list[Statistics]) -> SamplerParams:
    """What `generator_average` averages: all parameters except the embeddings, and the running statistics."""
    return SamplerParams(generator.without_embeddings(), statistics)


def init_optimiser(
    optimiser: optax.GradientTransformation, params: GeneratorParams | DiscriminatorParams
) -> optax.OptState:
    """The state of a fresh optimiser, on the host. Adam's state is all zeros, so nothing need be compiled for it."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(optimiser.init, params))


def _from_state_dict(like: Any, state: Tree) -> Any:
    restored = serialization.from_state_dict(params_to_tree(like), state)
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(restored))  # Both have one order of leaves.


# Flax then writes our types as it writes dicts, so that checkpoints keep their names.
for _kind in (Norm, Statistics, GeneratorParams, SamplerParams, DiscriminatorParams):
    serialization.register_serialization_state(
        _kind, lambda params: serialization.to_state_dict(params_to_tree(params)), _from_state_dict
    )
