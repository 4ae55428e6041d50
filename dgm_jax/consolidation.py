"""The images that the consolidated classifier learns from: drawn by the memory, of all classes seen."""

import jax
import numpy as np

from dgm_jax.config import Config
from dgm_jax.memory import Memory
from dgm_jax.training.epoch import TaskImages


def draw(
    memory: Memory,
    config: Config,
    key: jax.Array,
    *,
    n_classes: int,
    image_shape: tuple[int, int, int],
) -> TaskImages:
    """Draws as many images of every class, of the newest too.

    Args:
      memory: knows every class seen.
      config: how many images of each class.
      key: a PRNG key.
      n_classes: of the whole stream: room for that many is made, so that one program serves all tasks.
      image_shape: (height, width, channels).
    """
    each = config.consolidation_samples
    images = np.zeros((n_classes * each, *image_shape), np.uint8)
    labels = np.repeat(np.arange(n_classes, dtype=np.int32), each)
    seen = [index for task in memory.tasks for index in task.classes]
    for index in seen:
        own = memory.images(index, each, jax.random.fold_in(key, index))
        images[index * each : (index + 1) * each] = own
    return TaskImages(images, labels, np.int32(len(seen) * each))
