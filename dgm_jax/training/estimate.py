"""A rough guess of how long a run takes, from counted arithmetic and the measured speed of a matrix product."""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dgm_jax.config import Config
from dgm_jax.models import pair
from dgm_jax.training.step import make_generator

_SIDE = 1024  # Of the matrices that are multiplied to measure the device.
# Measured on two CPU cores: the share of a matrix product's speed that a run reaches, growth of the generator, replay
# and evaluation included; and the seconds to compile its few programs.
_EFFICIENCY = 0.25
_COMPILE_SECONDS = 25.0


def iteration_flops(config: Config, widths: Sequence[int], channels: int, classifier_steps: int) -> float:
    """Floating-point operations of one training iteration; a backward pass counts twice a forward pass."""
    size = config.data.image_size
    d = pair(config.networks.network).discriminator_flops(config.networks.discriminator_width, size, channels)
    g = make_generator(config).flops(widths, config.networks.noise_dim, channels)
    classifier = 3 * d * classifier_steps
    # Real and fake; G forward; the penalty: forward, backward, and back through both.
    critic = 3 * (2 * d) + g + 6 * d
    generator = 3 * g + 2 * d
    return config.gan.batch_size * (classifier + critic + generator)


def estimated_seconds(
    config: Config, devices: Sequence[jax.Device], *, train_counts: Sequence[int], channels: int, epochs_done: int
) -> float:
    """Guesses the seconds that the rest of a run takes; the guess is rough.

    Args:
      config: the settings.
      devices: to train on.
      train_counts: training images of each task.
      channels: of the images.
      epochs_done: epochs of the first task that are over.
    """
    a = jnp.ones((_SIDE, _SIDE), device=next(d for d in devices if d.process_index == jax.process_index()))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    begun = time.perf_counter()
    for _ in range(5):
        product(a, a).block_until_ready()
    speed = len(devices) * 5 * 2 * _SIDE**3 / (time.perf_counter() - begun)
    widths = pair(config.networks.network).generator_widths(config.networks.generator_width, config.data.image_size)
    d = pair(config.classifier_network).discriminator_flops(config.classifier_width, config.data.image_size, channels)
    total = 0.0
    for task in range(len(train_counts)):
        epochs = config.gan.epochs - (epochs_done if task == 0 else 0)
        steps = epochs * max(1, train_counts[task] // config.gan.batch_size)
        classifier_steps = min(task + 1, config.replay.replay_steps or task + 1)
        total += steps * iteration_flops(config, widths, channels, classifier_steps)
        total += config.consolidation.consolidation_steps * config.gan.batch_size * 3 * d
    return _COMPILE_SECONDS + total / (speed * _EFFICIENCY)
