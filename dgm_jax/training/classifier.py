"""The consolidated classifier: learnt afresh from what the memory draws of *all* classes.

While a task is learnt, its images are real and all others generated, so the auxiliary classifier can tell new from old
by the generator's artefacts alone. Where every class is generated, there is no such cue (ALGORITHM, section 11.1).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from dgm_jax.config import Config
from dgm_jax.models import pair
from dgm_jax.training.augmentation import augmented
from dgm_jax.training.devices import AXIS, share
from dgm_jax.training.epoch import TaskImages, to_unit_range
from dgm_jax.training.losses import cross_entropy, only_seen
from dgm_jax.training.state import init_optimiser

Params = Any

CLASSIFIER_METRICS = ("consolidation_loss", "consolidation_accuracy")  # In the order in which a loop adds them up.

_PREDICTED_AT_ONCE = 256


@struct.dataclass
class ClassifierState:
    """A classifier in training: a discriminator whose critic stands idle."""

    params: Params
    statistics: Params
    optimiser: optax.OptState


def init_classifier(key: jax.Array, config: Config, *, channels: int, n_classes: int) -> ClassifierState:
    """A fresh classifier; of the discriminator's network, unless the settings ask for another."""
    params, statistics = pair(config.classifier_network).init_discriminator(
        key, width=config.classifier_width, image_size=config.image_size, channels=channels, n_classes=n_classes
    )
    return started(params, statistics)


def started(params: Params, statistics: Params) -> ClassifierState:
    """A classifier before its first step, with a fresh optimiser."""
    return ClassifierState(params, statistics, init_optimiser(optax.scale_by_adam(), params))


def run_classifier_steps(
    state: ClassifierState,
    data: TaskImages,
    seen: jax.Array,
    key: jax.Array,
    sums: jax.Array,
    start: jax.Array,
    stop: jax.Array,
    shard: jax.Array,
    *,
    config: Config,
    n_devices: int,
) -> tuple[ClassifierState, jax.Array]:
    """Takes Adam steps on the cross-entropy of random mini-batches; the step size decays to 0 along a cosine.

    Args:
      state: replaced.
      data: images of all classes seen.
      seen: [classes] bool.
      key: a PRNG key, into which the step is folded.
      sums: of the metrics (`CLASSIFIER_METRICS`) over the steps before `start`.
      start: first step.
      stop: one past the last.
      shard: the number of this device.
      config: batch size, number of steps, step size, augmentation, smoothing.
      n_devices: over which each batch is split.

    Returns:
      The new state, and `sums` with the loss and accuracy of these steps added, one by one.
    """

    def body(i: jax.Array, carry: Any) -> Any:
        state, sums = carry
        pick_key, change_key = jax.random.split(jax.random.fold_in(key, i))
        rows = jax.random.randint(pick_key, (config.batch_size,), 0, data.count)
        images = augmented(change_key, to_unit_range(data.images[rows]), config)
        images, labels = share(images, shard, n_devices), share(data.labels[rows], shard, n_devices)

        def loss_of(params: Params) -> Any:
            discriminate = pair(config.classifier_network).discriminate
            output, statistics = discriminate(params, state.statistics, images, train=True, axis_name=AXIS)
            correct = jnp.argmax(only_seen(output.logits, seen), axis=1) == labels
            loss = cross_entropy(output.logits, labels, seen, config.consolidation_smoothing)
            return loss, (statistics, jnp.mean(correct, dtype=jnp.float32))

        (loss, (statistics, accuracy)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        state = descended(state, lax.pmean(gradients, AXIS), statistics, i, config)
        return state, sums + lax.pmean(jnp.stack([loss, accuracy]), AXIS)

    with jax.default_matmul_precision(config.matmul_precision):
        return lax.fori_loop(start, stop, body, (state, sums))


def descended(
    state: ClassifierState, gradients: Params, statistics: Params, step: jax.Array, config: Config
) -> ClassifierState:
    """The state after one Adam step, whose size decays to 0 along a cosine over `consolidation_steps`."""
    updates, optimiser = optax.scale_by_adam().update(gradients, state.optimiser)
    decay = 0.5 * (1 + jnp.cos(jnp.pi * step / config.consolidation_steps))
    step_size = config.consolidation_learning_rate * decay
    params = jax.tree.map(lambda p, u: p - step_size * u, state.params, updates)
    return ClassifierState(params, statistics, optimiser)


def predict_logits(
    params: Params, statistics: Params, images: np.ndarray, seen: np.ndarray, *, network: str
) -> np.ndarray:
    """Judges uint8 images in evaluation mode: the class head's logits over the classes seen, [n, classes]."""
    logits = _predict_all(params, statistics, images, network)[0]
    return np.where(seen[None], logits, np.finfo(logits.dtype).min)


def predict_features(params: Params, statistics: Params, images: np.ndarray, *, network: str) -> np.ndarray:
    """What the class head sees of uint8 images in evaluation mode, [n, features]."""
    return _predict_all(params, statistics, images, network)[1]


def _predict_all(params: Params, statistics: Params, images: np.ndarray, network: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features, from programs of one batch size."""
    n = len(images)
    if n == 0:  # One image more, whose scores are cut off again.
        images = np.zeros((1, *images.shape[1:]), np.uint8)
    padded = np.concatenate([images, np.zeros((-len(images) % _PREDICTED_AT_ONCE, *images.shape[1:]), np.uint8)])
    parts = [
        jax.device_get(_predict(params, statistics, padded[i : i + _PREDICTED_AT_ONCE], network=network))
        for i in range(0, len(padded), _PREDICTED_AT_ONCE)
    ]
    logits, features = (np.concatenate(arrays)[:n] for arrays in zip(*parts, strict=True))
    return logits, features


@partial(jax.jit, static_argnames="network")
def _predict(params: Params, statistics: Params, images: jax.Array, *, network: str) -> tuple[jax.Array, jax.Array]:
    with jax.default_matmul_precision("highest"):
        output, _ = pair(network).discriminate(params, statistics, to_unit_range(images), train=False)
    return output.logits, output.features
