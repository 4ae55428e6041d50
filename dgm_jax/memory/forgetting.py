"""A memory without some of its classes: every other class draws bit for bit what it drew."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from dgm_jax import nn
from dgm_jax.memory.memory import Memory, used_weights
from dgm_jax.memory.task import TaskMemory, unite_masks


def without_classes(memory: Memory, forgotten: Collection[int]) -> Memory:
    """Takes classes out of a memory.

    All modes of a class go. A task that is left without a class goes whole: masks, norms, statistics, output layers,
    and a generator of its own. A task that keeps a class loses the output layers of the others. Shared weights that no
    class left reads (`read_weights`) are 0, and gates that none opens are not reserved. The classes left are numbered
    anew, without gaps; classes that are not learnt yet are left out.

    Args:
      memory: knows the classes.
      forgotten: their class indices.

    Raises:
      ValueError: if the memory does not know one of them.
    """
    if unknown := set(forgotten) - set(range(memory.n_classes)):
        raise ValueError(f"the memory knows no class of index {min(unknown)}; it knows 0 to {memory.n_classes - 1}")
    kept = [index for index in range(memory.n_classes) if index not in forgotten]
    number = {index: new for new, index in enumerate(kept)}
    tasks = tuple(_only(task, number) for task in memory.tasks if set(task.classes) - set(forgotten))
    labels = tuple(memory.labels[index] for index in kept)
    left = replace(memory, tasks=tasks, labels=labels, names=tuple(memory.names[index] for index in kept))
    opened = unite_masks([task for task in tasks if task.masks], [gates.shape for gates in memory.reserved])
    return replace(
        left,
        kernels=[
            np.where(used, kernel, np.zeros((), kernel.dtype))
            for kernel, used in zip(memory.kernels, read_weights(left), strict=True)
        ],
        reserved=[before & still for before, still in zip(memory.reserved, opened, strict=True)],
    )


def read_weights(memory: Memory) -> list[np.ndarray]:
    """The shared weights that some task reads: bool, of the kernels' shapes.

    They are those that the task opens (`used_weights`), but not those from entries of the noise that are 0 whatever
    class of the task is drawn, though gates at them may be open: entries of other classes, and of forgotten ones. A
    class that came after another was forgotten may have the entry of an earlier one.
    """
    read = [np.zeros(kernel.shape, bool) for kernel in memory.kernels]
    for task in memory.tasks:
        is_read = np.zeros(memory.noise_dim, bool)
        is_read[list(task.noise_entries)] = True
        is_read[task.n_conditioned :] = True
        opened = used_weights(replace(memory, tasks=(task,)))
        for of_all, own, (source, _) in zip(read, opened, memory.generator.ends, strict=True):
            if source == nn.INPUT:
                own[:, :, ~is_read] = False
            of_all |= own
    return read


def weights_of_class(memory: Memory, left: Memory, index: int) -> tuple[int, int]:
    """How many weights a class draws with, and how many of these the classes that are left draw with, too.

    Args:
      memory: knows the class.
      left: the same memory without it, and perhaps without other classes (`without_classes`).
      index: the class index in `memory`.
    """
    tasks = tuple(task for task in memory.tasks if index in task.classes)  # One for each mode of the class.
    own = [(task.kernels, sum(kernel.size for kernel in task.kernels)) for task in tasks if task.kernels is not None]
    if own:
        stay = sum(n for kernels, n in own if any(other.kernels is kernels for other in left.tasks))
        return sum(n for _, n in own), stay
    pairs = list(zip(read_weights(replace(memory, tasks=tasks)), read_weights(left), strict=True))
    return sum(int(used.sum()) for used, _ in pairs), sum(int((used & still).sum()) for used, still in pairs)


def _only(task: TaskMemory, number: dict[int, int]) -> TaskMemory:
    """A task with those of its classes that have a new number."""
    places = [place for place, index in enumerate(task.classes) if index in number]
    classes = tuple(number[task.classes[place]] for place in places)
    entries = tuple(task.noise_entries[place] for place in places)
    counts = None if task.counts is None else tuple(task.counts[place] for place in places)
    conditions = None if entries == classes else entries
    return replace(task, classes=classes, conditions=conditions, counts=counts, heads=task.heads[places])
