"""The ceiling: after each task a fresh classifier learns from all real images so far."""

from dataclasses import replace

import jax
import numpy as np

from dgm_jax.methods.classifying import State
from dgm_jax.methods.kept_images import ImageMemory
from dgm_jax.training.epoch import TaskImages, padded


class Joint(ImageMemory):
    """Keeps every image, which the other methods may not."""

    paper = "no paper: joint training on all real images"
    starts_fresh = True
    learns_more_of_known = True

    def sources(self, state: State, images: np.ndarray, labels: np.ndarray) -> tuple[TaskImages, ...]:
        """All images so far."""
        everything = _with(state, images, labels)
        return (padded(everything["images"], everything["labels"], sum(map(sum, self.setting.counts))),)

    def remember(self, task: int, state: State, images: np.ndarray, labels: np.ndarray, key: jax.Array) -> State:
        """Keeps the task's images."""
        return replace(state, kept=_with(state, images, labels))


def _with(state: State, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "images": np.concatenate([state.kept["images"], images]),
        "labels": np.concatenate([state.kept["labels"], labels]),
    }
