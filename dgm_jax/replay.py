"""What a memory draws of old classes for those who learn from them (section 6)."""

from collections.abc import Callable

import jax
import numpy as np

from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.memory import Memory
from dgm_jax.training.epoch import ReplayedImages


def draw(
    memory: Memory,
    config: Config,
    stream: TaskStream,
    task: int,
    key: jax.Array,
    *,
    moved: Callable[[int], None],
) -> ReplayedImages:
    """Draws, for each earlier class, as many images as the current task has per class.

    Where fewer will be picked while it is learnt, as in a short task after many, so many are enough.

    Args:
      memory: knows the earlier classes.
      config: how much is replayed, and how often it is drawn anew.
      stream: the tasks.
      task: that is about to be learnt.
      key: a PRNG key.
      moved: is told of each class that was drawn.
    """
    per_class = [round(sum(stream.train_counts(t)) / len(stream.tasks[t])) for t in range(stream.n_tasks)]
    capacity = max(per_class) * max(map(len, stream.tasks))
    rows = max(stream.n_tasks - 1, 1)
    pixels = np.zeros((rows, capacity, *stream.image_shape), np.uint8)
    labels = np.zeros((rows, capacity), np.int32)
    counts = np.zeros(rows, np.int32)
    each = min(per_class[task], _picks(config, stream, task))
    for u in range(task):
        for index in stream.tasks[u]:
            place = slice(counts[u], counts[u] + each)
            own = jax.random.fold_in(key, index)
            pixels[u, place] = memory.images(index, each, own)
            labels[u, place] = index
            counts[u] += each
            moved(1)
    return ReplayedImages(pixels, labels, counts)


def _picks(config: Config, stream: TaskStream, task: int) -> int:
    """About how many images of a class the classifier steps of one replay pick."""
    steps = sum(stream.train_counts(task)) // config.batch_size
    epochs = config.epochs if config.replay == "fixed" else 1
    mini_batches = min(config.replay_steps or task + 1, task + 1)
    return -(-epochs * steps * mini_batches * config.batch_size // stream.n_seen(task))
