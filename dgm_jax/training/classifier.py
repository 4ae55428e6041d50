"""The training loop of every classifier: the one consolidated after a task, and those of the baselines.

While a task is learnt, its images are real and all others are generated, so the auxiliary classifier can tell new from
old by the generator's artefacts alone. The consolidated classifier learns from generated images of all classes, where
there is no such cue (docs/method.md, "the consolidated classifier").
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from dgm_jax.config import Config
from dgm_jax.models import pair
from dgm_jax.models.discriminator import Output
from dgm_jax.models.prediction import to_unit_range
from dgm_jax.training.augmentation import augmented
from dgm_jax.training.devices import AXIS, matmul_precision, mean_over_devices, share
from dgm_jax.training.epoch import TaskImages
from dgm_jax.training.losses import cross_entropy, is_correct
from dgm_jax.training.state import init_optimiser
from dgm_jax.types import DiscriminatorParams, Statistics

# (parameters, output for a mini-batch, its images, its labels, classes seen, anchor) -> scalar.
Loss = Callable[[DiscriminatorParams, Output, jax.Array, jax.Array, jax.Array, Any], jax.Array]

CLASSIFIER_METRICS = ("consolidation_loss", "consolidation_accuracy")  # In the order in which a loop adds them up.


@struct.dataclass
class ClassifierState:
    """A classifier in training: a discriminator whose critic is not used."""

    params: DiscriminatorParams
    statistics: list[Statistics]
    optimiser: optax.OptState


def init_classifier(key: jax.Array, config: Config, *, channels: int, n_classes: int) -> ClassifierState:
    """A fresh classifier with the discriminator's network, unless the settings ask for another."""
    params, statistics = pair(config.classifier_network).init_discriminator(
        key, width=config.classifier_width, image_size=config.data.image_size, channels=channels, n_classes=n_classes
    )
    return start_training(params, statistics, config)


def start_training(params: DiscriminatorParams, statistics: list[Statistics], config: Config) -> ClassifierState:
    """A classifier before its first step, with a fresh optimiser."""
    return ClassifierState(params, statistics, init_optimiser(_optimiser(config), params))


def run_classifier_steps(
    state: ClassifierState,
    sources: tuple[TaskImages, ...],
    seen: jax.Array,
    anchor: Any,
    key: jax.Array,
    sums: jax.Array,
    start: jax.Array,
    stop: jax.Array,
    shard: jax.Array,
    *,
    config: Config,
    n_devices: int,
    axis_name: str | None = AXIS,
    loss: Loss | None = None,
) -> tuple[ClassifierState, jax.Array]:
    """Takes Adam steps on random mini-batches; the step size decays to 0 along a cosine.

    Arguments that are not named here are as in `epoch.run_steps`; metrics are `CLASSIFIER_METRICS`.

    Args:
      state: replaced.
      sources: where images come from: each gives an equal part of every mini-batch.
      seen: [classes] bool.
      anchor: arrays that the loss needs besides; None if it needs none.
      config: batch size, number of steps, step size, augmentation, smoothing.
      axis_name: the mapped axis of the devices that share a mini-batch; None if there is none.
      loss: what is minimised; None: the cross-entropy over the classes seen.
    """
    optimiser, discriminate = _optimiser(config), pair(config.classifier_network).discriminate

    def minimised(params: DiscriminatorParams, output: Output, images: jax.Array, labels: jax.Array) -> jax.Array:
        if loss is None:
            return cross_entropy(output.logits, labels, seen, config.consolidation.consolidation_smoothing)
        return loss(params, output, images, labels, seen, anchor)

    def body(i: jax.Array, carry: Any) -> Any:
        state, sums = carry
        *pick_keys, change_key = jax.random.split(jax.random.fold_in(key, i), len(sources) + 1)
        pixels, labels = _mini_batch(pick_keys, sources, config.gan.batch_size)
        images = augmented(change_key, to_unit_range(pixels), config)
        images, labels = share(images, shard, n_devices), share(labels, shard, n_devices)

        def loss_of(params: DiscriminatorParams) -> Any:
            output, statistics = discriminate(params, state.statistics, images, train=True, axis_name=axis_name)
            value = minimised(params, output, images, labels)
            accuracy = jnp.mean(is_correct(output.logits, labels, seen))
            return value, (statistics, jnp.stack([value, accuracy]))

        gradients, (statistics, metrics) = jax.grad(loss_of, has_aux=True)(state.params)
        gradients, metrics = mean_over_devices((gradients, metrics), axis_name)
        updates, moments = optimiser.update(gradients, state.optimiser)
        return ClassifierState(optax.apply_updates(state.params, updates), statistics, moments), sums + metrics

    with jax.default_matmul_precision(matmul_precision(config.gan.precision)):
        return lax.fori_loop(start, stop, body, (state, sums))


def _mini_batch(keys: list[jax.Array], sources: tuple[TaskImages, ...], batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Random images uint8 [batch, h, w, c] and labels [batch]; the first source gives what does not divide evenly."""
    part = batch_size // len(sources)
    sizes = [batch_size - part * (len(sources) - 1), *[part] * (len(sources) - 1)]
    rows = [source.rows(key, size) for key, size, source in zip(keys, sizes, sources, strict=True)]
    images = [source.images[picked] for source, picked in zip(sources, rows)]
    labels = [source.labels[picked] for source, picked in zip(sources, rows)]
    return jnp.concatenate(images), jnp.concatenate(labels)


def _optimiser(config: Config) -> optax.GradientTransformation:
    own = config.consolidation
    return optax.adam(optax.cosine_decay_schedule(own.consolidation_learning_rate, own.consolidation_steps))
