"""The images that the consolidated classifier learns from: drawn by the memory, of all classes seen."""

from collections.abc import Sequence

import jax
import numpy as np

from dgm_jax.config import Config
from dgm_jax.memory.memory import Memory
from dgm_jax.methods.replay import Judge, softened, surest
from dgm_jax.training.classifier import TEMPERATURE
from dgm_jax.training.epoch import TaskImages


def draw(
    memory: Memory,
    config: Config,
    key: jax.Array,
    *,
    n_classes: int,
    real: tuple[np.ndarray, np.ndarray],
    newest: Sequence[int],
    judge: Judge | None = None,
) -> TaskImages:
    """Draws as many images of every class, of the newest too; of those a share can be real.

    Args:
      memory: knows every class seen.
      config: how many images a class, the share of real ones, and what is asked of the last classifier.
      key: a PRNG key.
      n_classes: of the whole stream: room for that many is made, so that one program serves all tasks.
      real: images uint8 and class indices of the current task.
      newest: class indices of the current task.
      judge: the last classifier, which knows all other classes; None before there is one.
    """
    each = config.consolidation_samples
    images = np.zeros((n_classes * each, *real[0].shape[1:]), np.uint8)
    labels = np.repeat(np.arange(n_classes, dtype=np.int32), each)
    targets = np.zeros((n_classes * each, n_classes), np.float32) if config.distillation_weight else None
    seen = [index for task in memory.tasks for index in task.classes]
    for index in seen:
        known = None if index in newest else judge
        own = surest(memory, index, each, jax.random.fold_in(key, index), share=config.replay_confidence, judge=known)
        if index in newest and config.consolidation_real:
            candidates = real[0][real[1] == index]
            n_real = round(config.consolidation_real * each)
            picks = jax.random.choice(jax.random.fold_in(key, n_classes + index), len(candidates), (n_real,))
            own[:n_real] = candidates[np.asarray(picks)]
        images[index * each : (index + 1) * each] = own
        if targets is not None and known is not None:
            targets[index * each : (index + 1) * each] = softened(known(own), TEMPERATURE)
    return TaskImages(images, labels, np.int32(len(seen) * each), targets)
