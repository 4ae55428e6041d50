"""How large a method must be to have as many bytes as another one's memory: rows of the table at equal bytes."""

import math

import jax
import numpy as np

from dgm_jax.config import GENERATIVE, KEEPS_IMAGES, Config
from dgm_jax.data import TaskStream
from dgm_jax.methods.feature_memory import filters_for
from dgm_jax.methods.kept_images import jpeg_bytes
from dgm_jax.methods.method import bytes_of_arrays
from dgm_jax.methods.separate import width_for
from dgm_jax.models import pair

_LOOKED_AT = 100  # Images of each task, as many of each class, that say how many bytes JPEG takes.


def size_option(config: Config, stream: TaskStream, n_bytes: int) -> tuple[str, str]:
    """The option with which a method keeps about as many bytes between tasks, and its value.

    A generator is as large as the whole memory, although dgr and mergan keep a discriminator besides.

    Args:
      config: the method and its settings.
      stream: the data, before the first task. It is at the last one afterwards: images of some classes take more bytes
        as JPEG than those of others.
      n_bytes: of the memory that it is compared with.
    """
    channels = stream.image_shape[2]
    if config.method in GENERATIVE:
        generators = stream.n_tasks if config.method == "separate" else 1
        classes = max(map(len, stream.tasks)) if config.method == "separate" else 1
        width = width_for(n_bytes, config, generators=generators, channels=channels, classes=classes)
        return "--generator-width", str(width)
    if config.method == "analytic":
        return "--filters", str(filters_for(n_bytes, channels, sum(map(len, stream.tasks))))
    assert config.method in KEEPS_IMAGES
    room = n_bytes - (0 if config.method == "gdumb" else _classifier_bytes(config, stream))
    header, each = 0.0, float(math.prod(stream.stored_shape))
    if config.flat()["memory_format"] == "jpeg":
        shown = []
        for task in range(stream.n_tasks):
            stream.begin(task)
            images, labels = stream.train(task)
            each_class = -(-_LOOKED_AT // len(stream.tasks[task]))
            shown += [images[labels == index][:each_class] for index in np.unique(labels)]
        header, each = jpeg_bytes(np.concatenate(shown))
    return "--memory-size", str(max(int((room - header) / each), sum(map(len, stream.tasks))))


def _classifier_bytes(config: Config, stream: TaskStream) -> int:
    """Bytes of the classifier that er and icarl go on with."""
    network = pair(config.classifier_network).init_discriminator(
        jax.random.key(0),
        width=config.classifier_width,
        image_size=config.data.image_size,
        channels=stream.image_shape[2],
        n_classes=sum(map(len, stream.tasks)),
    )
    return bytes_of_arrays(jax.tree.map(np.asarray, network))
