"""Images that a memory draws for learning: of earlier classes while a task is learnt, of all classes afterwards."""

import jax
import numpy as np

from dgm_jax.memory.memory import Memory
from dgm_jax.methods.method import Setting, Watch
from dgm_jax.training.epoch import ReplayedImages, TaskImages


def replayed_images(
    memories: list[Memory], setting: Setting, task: int, keys: list[jax.Array], watch: Watch
) -> list[ReplayedImages]:
    """Draws, for each seed and each earlier class, as many images as the current task has per class (section 3.3).

    A class with several modes is replayed as each of them, as often as its task is: with what the task learnt of it.
    If training will pick fewer of a class, as in a short task after many, no more are drawn than it needs. There is a
    memory and a key for each seed; the class index is folded into the key.
    """
    with watch.phase("replay", len(memories) * sum(map(len, setting.tasks[:task]))) as on_class:
        return [_replayed(memory, setting, task, key, on_class) for memory, key in zip(memories, keys, strict=True)]


def _replayed(memory: Memory, setting: Setting, task: int, key: jax.Array, on_class) -> ReplayedImages:
    room = max(map(setting.images_per_class, range(setting.n_tasks))) * max(map(len, setting.tasks))
    rows = max(setting.n_tasks - 1, 1)
    pixels = setting.room(rows, room)
    labels = np.zeros((rows, room), np.int32)
    counts = np.zeros(rows, np.int32)
    each = min(setting.images_per_class(task), _picks_per_class(setting, task))
    for earlier in range(task):
        for index in setting.tasks[earlier]:
            place = slice(counts[earlier], counts[earlier] + each)
            mode = sum(index in classes for classes in setting.tasks[:earlier])
            pixels[earlier, place] = memory.images(index, each, jax.random.fold_in(key, index), mode=mode)
            labels[earlier, place] = index
            counts[earlier] += each
            on_class(1)
    return ReplayedImages(pixels, labels, counts)


def images_of_all_classes(memory: Memory, setting: Setting, key: jax.Array) -> TaskImages:
    """Draws `consolidation_samples` images of every class that a memory knows, of all its modes in proportion.

    There is room for all classes of the stream, so that one program serves all tasks. The class index is folded into
    the key.
    """
    each, filled = setting.config.consolidation.consolidation_samples, room_for_all_classes(setting)
    images = np.asarray(filled.images)
    for index in range(memory.n_classes):
        images[index * each : (index + 1) * each] = memory.images(index, each, jax.random.fold_in(key, index))
    return TaskImages(images, filled.labels, np.int32(memory.n_classes * each))


def room_for_all_classes(setting: Setting) -> TaskImages:
    """What `images_of_all_classes` fills: images of zeros, which count as none."""
    each, n_classes = setting.config.consolidation.consolidation_samples, setting.n_classes
    labels = np.repeat(np.arange(n_classes, dtype=np.int32), each)
    return TaskImages(setting.room(n_classes * each), labels, np.int32(0))


def _picks_per_class(setting: Setting, task: int) -> int:
    """About how many images of a class the classifier steps of one replay pick."""
    config = setting.config
    epochs = config.gan.epochs if config.replay.replay == "fixed" else 1
    mini_batches = min(config.replay.replay_steps or task + 1, task + 1)
    picks = epochs * setting.steps_per_epoch(task) * mini_batches * config.gan.batch_size
    return -(-picks // setting.n_seen(task))
