"""The gates of the current task while it is learnt: their slopes, and their masks (section 3.1 of the paper)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dgm_jax import nn
from dgm_jax.config import Config
from dgm_jax.training.state import Capacity, Clock
from dgm_jax.training.vectors import joined


def slopes(config: Config, clock: Clock, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The slope `s` at a step of an epoch, and the epoch's slope `S_i`; (`s_max`, 0) once masks are settled.

    Args:
      config: how slopes grow.
      clock: the epoch, and how many there are.
      step: number of the step within the epoch, [].
    """
    position = jnp.minimum(clock.epoch + config.gates.scale_lead, clock.mask_epochs)  # No steeper than `s_max`.
    epoch_scale = nn.annealed_scale(position, clock.mask_epochs, config.gates.scale_max)
    scale = nn.annealed_scale(step, clock.steps, epoch_scale) if config.gates.anneal_within_epoch else epoch_scale
    settled = clock.epoch >= clock.mask_epochs
    return jnp.where(settled, config.gates.scale_max, scale), jnp.where(settled, 0.0, epoch_scale)


def open_gates(
    config: Config, embeddings: Sequence[jax.Array], scale: jax.Array, epoch_scale: jax.Array
) -> list[jax.Array]:
    """Opens the current task's gates at slope `scale` (`s`), in an epoch of slope `epoch_scale` (`S_i`).

    An `epoch_scale` of 0 means that masks are settled: they are binary, and have no gradient.

    Returns:
      A mask in [0, 1] of the shape of each embedding.
    """
    compensated = epoch_scale if config.gates.gate_gradient == "closed" else None
    soft = [nn.gate(e, scale, compensated) for e in embeddings]
    return [jnp.where(epoch_scale > 0, m, nn.binarise(e).astype(m.dtype)) for m, e in zip(soft, embeddings)]


def open_share(embeddings: Sequence[jax.Array], capacity: Capacity) -> jax.Array:
    """The share of the gates within the logical widths that would be open if masks were binarised now."""
    return jnp.sum(jnp.stack([jnp.sum(nn.binarise(e)) for e in joined(embeddings)])) / capacity.n_gates
