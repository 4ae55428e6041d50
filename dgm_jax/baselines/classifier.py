"""Trains a classifier on, with any loss: what the methods without a generator have in common.

Network, steps, step size, batch and augmentation are those of DGM's consolidated classifier, so that the
budget after a task is the same; unlike that one, these classifiers go on from where the task before left them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dgm_jax.baselines.method import Watch
from dgm_jax.config import Config
from dgm_jax.models import pair
from dgm_jax.models.discriminator import Output
from dgm_jax.training.augmentation import augmented
from dgm_jax.training.classifier import ClassifierState, descended, started
from dgm_jax.training.epoch import TaskImages, to_unit_range
from dgm_jax.training.losses import cross_entropy

Loss = Callable[[Any, Output, jax.Array, jax.Array, jax.Array, Any], jax.Array]

_STEPS_PER_CALL = 50


def classification(params: Any, output: Output, images: Any, labels: Any, seen: Any, anchor: Any) -> jax.Array:
    """Cross-entropy over the classes seen."""
    del params, images, anchor
    return cross_entropy(output.logits, labels, seen)


def train(
    state: ClassifierState,
    sources: tuple[TaskImages, ...],
    seen: np.ndarray,
    key: jax.Array,
    config: Config,
    watch: Watch,
    *,
    loss: Loss = classification,
    anchor: Any = None,
) -> ClassifierState:
    """Takes `consolidation_steps` Adam steps, with a fresh optimiser.

    Args:
      state: where to start.
      sources: what mini-batches are drawn from, each source for an equal part.
      seen: the classes met so far.
      key: a PRNG key.
      config: the budget.
      watch: told of the steps, and of the mean loss of the last ones.
      loss: of the parameters, the output for a mini-batch, its images, its labels, the classes seen, and `anchor`.
      anchor: arrays that the loss needs besides.
    """
    state = started(state.params, state.statistics)
    state, sources, anchor = jax.device_put((state, sources, anchor))
    steps, total = config.consolidation_steps, 0.0
    for start in range(0, steps, _STEPS_PER_CALL):
        stop = min(steps, start + _STEPS_PER_CALL)
        state, losses = _steps(state, sources, seen, key, anchor, start, stop, config=config, loss=loss)
        total += float(losses)
        watch.moved("train", stop, steps, metrics={"classifier_loss": float(losses) / (stop - start)})
    watch.consolidated({"consolidation_loss": total / steps})
    return jax.device_get(state)


@partial(jax.jit, static_argnames=("config", "loss"), donate_argnums=0)
def _steps(
    state: ClassifierState,
    sources: tuple[TaskImages, ...],
    seen: jax.Array,
    key: jax.Array,
    anchor: Any,
    start: jax.Array,
    stop: jax.Array,
    *,
    config: Config,
    loss: Loss,
) -> tuple[ClassifierState, jax.Array]:
    """The state after steps `start` to `stop`, and the sum of their losses."""
    part = config.batch_size // len(sources)

    def body(i: jax.Array, carry: tuple[ClassifierState, jax.Array]) -> tuple[ClassifierState, jax.Array]:
        state, total = carry
        change_key, *pick_keys = jax.random.split(jax.random.fold_in(key, i), 1 + len(sources))
        picks = [jax.random.randint(k, (part,), 0, s.count) for k, s in zip(pick_keys, sources, strict=True)]
        drawn = to_unit_range(jnp.concatenate([s.images[rows] for s, rows in zip(sources, picks)]))
        images = augmented(change_key, drawn, config)
        labels = jnp.concatenate([s.labels[rows] for s, rows in zip(sources, picks)])

        def loss_of(params: Any) -> Any:
            output, statistics = pair(config.classifier_network).discriminate(
                params, state.statistics, images, train=True
            )
            return loss(params, output, images, labels, seen, anchor), statistics

        (value, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return descended(state, gradients, statistics, i, config), total + value

    with jax.default_matmul_precision(config.matmul_precision):
        return lax.fori_loop(start, stop, body, (state, jnp.zeros(())))
