"""GDumb: a class-balanced memory of real images, and after each task a fresh classifier that learns from it alone."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from dgm_jax.methods.classifying import State, Training
from dgm_jax.methods.kept_images import BalancedImageMemory, chosen
from dgm_jax.methods.method import TaskInput, Watch
from dgm_jax.models.generator import host_generator
from dgm_jax.training.epoch import TaskImages, padded

_KEY_OF_SAMPLER = 2  # Keys 0 and 1 of a task belong to training and to the fresh classifier.


class GDumb(BalancedImageMemory):
    """Keeps the first images of each class that a balanced memory has room for, and learns from nothing else."""

    paper = (
        "Prabhu et al. 2020 (GDumb, ECCV 2020); a variant without CutMix and without the 256 passes over the memory: "
        "here with Adam, and with the steps of all methods"
    )
    starts_fresh = True
    learns_more_of_known = True

    def begin(self, task: int, inputs: Sequence[TaskInput[State]], watch: Watch) -> Training:
        """Fills the memory first, because nothing else is learnt from; a task in progress has done so already."""
        filled = [own if own.in_progress else replace(own, state=self._filled(task, own)) for own in inputs]
        return super().begin(task, filled, watch)

    def sources(self, state: State, images: np.ndarray, labels: np.ndarray) -> tuple[TaskImages, ...]:
        """The memory alone."""
        return (padded(self.images(state), state.kept["labels"], self.method_settings.memory_size),)

    def _filled(self, task: int, own: TaskInput[State]) -> State:
        key = jax.random.fold_in(jax.random.fold_in(own.key, task + 1), _KEY_OF_SAMPLER)
        size, kept = self.method_settings.memory_size, own.state.kept
        rows = greedily_balanced(kept["labels"], own.labels, size, host_generator(key))
        return replace(own.state, kept=chosen(kept, rows, own.images, own.labels))


def greedily_balanced(kept: np.ndarray, new: np.ndarray, memory_size: int, random: np.random.Generator) -> list[int]:
    """The greedy balancing sampler (Prabhu et al. 2020, algorithm 1).

    New images come one by one, in random order. One is kept if its class is new or has less than an equal share of the
    memory; if the memory is full, a random image of the largest class makes room.

    Args:
      kept: class indices of the images that are kept, [n].
      new: class indices of the new images, [m].
      memory_size: the most images that are kept; at least one for each class.
      random: draws the order, and which image makes room.

    Returns:
      What is kept from now on, class by class: numbers below n of kept images, and n + i for new image number i.
    """
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(kept):
        rows.setdefault(int(label), []).append(row)
    for i in random.permutation(len(new)):
        share = memory_size / max(len(rows), 1)  # Of the classes before this image.
        own = rows.setdefault(int(new[i]), [])
        if own and len(own) >= share:
            continue
        if sum(map(len, rows.values())) == memory_size:
            most = max(map(len, rows.values()))
            largest = [of_class for of_class in rows.values() if len(of_class) == most]
            makes_room = largest[random.integers(len(largest))]
            del makes_room[random.integers(most)]
        own.append(len(kept) + int(i))
    return [row for of_class in rows.values() for row in of_class]
