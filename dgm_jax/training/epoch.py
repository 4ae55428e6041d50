"""The steps of an epoch as one program: batches are drawn, scaled and split on the device.

Neither the number of steps, nor that of images, nor that of replayed tasks is a constant of the program: it is
compiled once for each shape of the generator.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from dgm_jax.models.generator import conditioned_noise
from dgm_jax.models.prediction import to_unit_range
from dgm_jax.training.averaging import averaged
from dgm_jax.training.devices import matmul_precision, share
from dgm_jax.training.gates import slopes
from dgm_jax.training.state import Capacity, Clock, TrainState, sampler_params
from dgm_jax.training.step import Metrics, Step
from dgm_jax.training.vectors import packing
from dgm_jax.types import Array


@struct.dataclass
class TaskImages:
    """Images of the current task, with class indices; the first `count` are there.

    They are uint8 [capacity, h, w, c], or scaled vectors, float32 [capacity, 1, 1, d].
    """

    images: Array
    labels: Array
    count: Array

    def rows(self, key: jax.Array, n: int) -> jax.Array:
        """The rows of a random mini-batch of `n`, int32 [n]: each is any of the images, equally often."""
        return jax.random.randint(key, (n,), 0, self.count)


@struct.dataclass
class ImagesByClass(TaskImages):
    """Images sorted by class, of which each class is drawn equally often, however many images it has."""

    starts: Array  # [classes + 1]: the first row of each class that has images, then `count` in all places left.

    def rows(self, key: jax.Array, n: int) -> jax.Array:
        """The rows of a random mini-batch of `n`, int32 [n]: of any class, then any of its images."""
        class_key, row_key = jax.random.split(key)
        classes = jax.random.randint(class_key, (n,), 0, jnp.sum(self.starts < self.count))
        first = self.starts[classes]
        return first + jax.random.randint(row_key, (n,), 0, self.starts[classes + 1] - first)


@struct.dataclass
class ReplayedImages:
    """Generated images of each earlier task, [tasks, capacity, h, w, c]; `counts[u]` of task u are there."""

    images: Array
    labels: Array  # [tasks, capacity]
    counts: Array  # [tasks]; 0 where there is no earlier task of that number.


def padded(images: np.ndarray, labels: np.ndarray, capacity: int) -> TaskImages:
    """Images [n, h, w, c] and class indices [n], with room for `capacity`: one program serves many n."""
    pixels = np.zeros((capacity, *images.shape[1:]), images.dtype)
    indices = np.zeros(capacity, np.int32)
    pixels[: len(images)], indices[: len(labels)] = images, labels
    return TaskImages(pixels, indices, np.int32(len(images)))


def by_class(images: np.ndarray, labels: np.ndarray, capacity: int, n_classes: int) -> ImagesByClass:
    """As `padded`, at least one image; mini-batches are balanced over the classes found here, `n_classes` at most."""
    order = np.argsort(labels, kind="stable")
    whole = padded(images[order], labels[order], capacity)
    _, first = np.unique(labels[order], return_index=True)
    starts = np.full(n_classes + 1, whole.count, np.int32)
    starts[: len(first)] = first
    return ImagesByClass(whole.images, whole.labels, whole.count, starts)


def epoch_order(key: jax.Array, capacity: int, count: jax.Array) -> jax.Array:
    """A random order of the numbers below `count`, [capacity], again and again until all places are filled."""
    places = jnp.arange(capacity)
    return jnp.argsort(jnp.where(places < count, jax.random.uniform(key, (capacity,)), jnp.inf))[places % count]


def run_steps(
    state: TrainState,
    data: TaskImages,
    replay: ReplayedImages,
    capacity: Capacity,
    clock: Clock,
    key: jax.Array,
    sums: jax.Array,
    start: jax.Array,
    stop: jax.Array,
    shard: jax.Array,
    *,
    step: Step,
    n_conditioned: int,
    n_devices: int,
) -> tuple[TrainState, jax.Array]:
    """Runs the iterations `start` to `stop` of an epoch; how an epoch is cut into calls changes nothing.

    The function is long because an iteration is read here from begin to end, and all of it is one compiled program.

    Args:
      state: replaced.
      data: the current task's images.
      replay: images of earlier tasks.
      capacity: what earlier tasks left.
      clock: the task, the epoch, and how long an epoch is.
      key: the task's key; epoch and step are folded in.
      sums: of the metrics (`Step.metric_names`) over the iterations of the epoch before `start`.
      start: first iteration.
      stop: one past the last.
      shard: the number of this device.
      step: what an iteration is made of.
      n_conditioned: entries of the noise that carry the class.
      n_devices: over which each batch is split.

    Returns:
      The new state, and `sums` with those of these iterations added, one by one.
    """
    batch = step.config.gan.batch_size
    epoch_key = jax.random.fold_in(key, clock.epoch)
    order = epoch_order(jax.random.fold_in(epoch_key, 0), data.images.shape[0], data.count)
    split = partial(share, shard=shard, n_devices=n_devices)

    def iteration(i: jax.Array, state: TrainState) -> tuple[TrainState, Metrics]:
        uniform_key, noise_key = jax.random.split(jax.random.fold_in(epoch_key, i + 1))
        rows = lax.dynamic_slice_in_dim(order, i * batch, batch)
        # All that is random in an iteration is drawn at once, and for the whole batch: that is quick to compile, and
        # what a device sees of it does not depend on how many there are.
        sources = replay.counts.shape[0] + 1
        uniform = jax.random.uniform(uniform_key, (2 * sources, batch))
        sample_noise = partial(
            conditioned_noise,
            classes=data.labels[rows],
            noise_dim=step.config.networks.noise_dim,
            n_conditioned=n_conditioned,
        )
        critic_noise, generator_noise = (split(noise) for noise in jax.vmap(sample_noise)(jax.random.split(noise_key)))
        state, metrics = _classify_pool(
            state, data, replay, rows, clock.task, uniform[1:], step=step, seen=capacity.seen, split=split
        )
        images, labels = to_unit_range(data.images[split(rows)]), data.labels[split(rows)]
        head = capacity.heads[labels]
        scales = slopes(step.config, clock, i)
        alpha = split(uniform[0])
        state, critic_metrics = step.critic_step(state, images, head, critic_noise, alpha, scales)
        state, generator_metrics = step.generator_step(state, images, labels, head, generator_noise, scales, capacity)
        if state.average is not None:
            newest = sampler_params(state.generator, state.generator_statistics)
            done = clock.epoch * clock.steps + i
            state = replace(state, average=averaged(state.average, newest, done, step.config.gan.generator_average))
        return state, metrics | critic_metrics | generator_metrics

    pack, unpack = packing(state)

    def body(i: jax.Array, carry: Any) -> Any:
        state, sums = carry
        state, metrics = iteration(i, unpack(state))
        return pack(state), sums + jnp.stack([metrics[name] for name in step.metric_names])

    with jax.default_matmul_precision(matmul_precision(step.config.gan.precision)):
        state, sums = lax.fori_loop(start, stop, body, (pack(state), sums))
    return unpack(state), sums


def _classify_pool(
    state: TrainState,
    data: TaskImages,
    replay: ReplayedImages,
    rows: jax.Array,
    n_tasks: jax.Array,
    uniform: jax.Array,
    *,
    step: Step,
    seen: jax.Array,
    split: Any,
) -> tuple[TrainState, Metrics]:
    """Classifier steps on mini-batches of the pool: the real batch, and as many images of every earlier task.

    `uniform`, in [0, 1), [2 sources - 1, batch], decides which are picked and in what order.
    """
    batch = rows.shape[0]
    sources = replay.counts.shape[0] + 1  # Number 0 is the real batch; u + 1 is earlier task u.
    counts = replay.counts[:, None]
    picks = jnp.minimum((uniform[sources:] * counts).astype(jnp.int32), jnp.maximum(counts - 1, 0))
    there = jnp.repeat(jnp.arange(sources) <= n_tasks, batch)
    shuffled = jnp.argsort(jnp.where(there, uniform[:sources].reshape(-1), jnp.inf))
    n_batches = n_tasks + 1
    if step.config.replay.replay_steps is not None:
        n_batches = jnp.minimum(n_batches, step.config.replay.replay_steps)

    def body(j: jax.Array, carry: Any) -> Any:
        state, sums = carry
        chosen = split(lax.dynamic_slice_in_dim(shuffled, j * batch, batch))
        source, position = chosen // batch, chosen % batch
        row, task = rows[position], jnp.maximum(source - 1, 0)
        pick = picks[task, position]
        is_real = source == 0
        images = jnp.where(is_real[:, None, None, None], data.images[row], replay.images[task, pick])
        labels = jnp.where(is_real, data.labels[row], replay.labels[task, pick])
        state, metrics = step.classifier_step(unpack(state), to_unit_range(images), labels, seen)
        return pack(state), sums + jnp.stack([metrics[name] for name in names])

    names = ("classifier_loss", "classifier_accuracy")
    pack, unpack = packing(state)
    state, sums = lax.fori_loop(0, n_batches, body, (pack(state), jnp.zeros(len(names))))
    return unpack(state), dict(zip(names, sums / n_batches, strict=True))
