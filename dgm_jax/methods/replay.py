"""What a memory draws of old classes for those who learn from them, and which of it is used (section 6)."""

import math
from collections.abc import Callable

import jax
import numpy as np

from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.memory import Memory
from dgm_jax.training.epoch import ReplayedImages

Judge = Callable[[np.ndarray], np.ndarray]  # Of uint8 images [n, h, w, c], the logits of the classes it knows.


def surest(memory: Memory, index: int, n: int, key: jax.Array, *, share: float, judge: Judge | None) -> np.ndarray:
    """Draws images of a class, and keeps those that look most like it.

    Args:
      memory: draws.
      index: of the class.
      n: how many to keep.
      key: a PRNG key.
      share: of those drawn, in (0, 1]; 1 keeps all.
      judge: who says what they look like; None: nobody knows the class yet, and all are kept.

    Returns:
      uint8 [n, h, w, c], in the order in which they were drawn.
    """
    if judge is None or share == 1:
        return memory.images(index, n, key)
    drawn = memory.images(index, math.ceil(n / share), key)
    sureness = np.log(softened(judge(drawn), 1.0)[:, index] + np.finfo(np.float32).tiny)
    return drawn[np.sort(np.argsort(-sureness, kind="stable")[:n])]


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at a temperature; classes that are not known have the lowest logit there is, and 0."""
    odds = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return odds / odds.sum(axis=1, keepdims=True)


def draw(
    memory: Memory,
    config: Config,
    stream: TaskStream,
    task: int,
    key: jax.Array,
    *,
    judge: Judge | None,
    moved: Callable[[int], None],
) -> ReplayedImages:
    """Draws, for each earlier class, as many images as the current task has per class.

    Where fewer will be picked while it is learnt, as in a short task after many, so many are enough.

    Args:
      memory: knows the earlier classes.
      config: how much is replayed, how often it is drawn anew, and which of it is used.
      stream: the tasks.
      task: that is about to be learnt.
      key: a PRNG key.
      judge: the last classifier; None before there is one.
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
            pixels[u, place] = surest(memory, index, each, own, share=config.replay_confidence, judge=judge)
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
