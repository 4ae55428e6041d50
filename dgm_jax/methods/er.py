"""Experience replay: a reservoir of a few real images joins the new ones in every mini-batch."""

from dataclasses import dataclass, replace
from typing import Literal

import jax
import numpy as np

from dgm_jax.config import setting
from dgm_jax.methods.classifying import State
from dgm_jax.methods.kept_images import KeptImagesSettings, LimitedImageMemory, chosen
from dgm_jax.models.generator import host_generator
from dgm_jax.training.epoch import TaskImages, by_class, padded


@dataclass(frozen=True, kw_only=True)
class ReservoirSettings(KeptImagesSettings):
    """The settings of er."""

    mini_batches: Literal["halves", "balanced"] = setting("halves")
    """halves: one half of a mini-batch is new images, the other half kept ones, as published. balanced: each image is
    of any class seen, new or kept, equally often."""


class ExperienceReplay(LimitedImageMemory):
    """Keeps `memory_size` real images, a fair sample of all that were seen (reservoir sampling)."""

    paper = "Chaudhry et al. 2019 (arXiv 1902.10486), ER-Reservoir; here several passes over a task, not one"
    settings = ReservoirSettings
    learns_more_of_known = True

    def new_state(self, key: jax.Array) -> State:
        """An empty reservoir."""
        state = super().new_state(key)
        return replace(state, kept=state.kept | {"n_seen": np.int64(0)})

    def sources(self, state: State, images: np.ndarray, labels: np.ndarray) -> tuple[TaskImages, ...]:
        """New images and, once there are some, those of the reservoir: in two halves, or together by class."""
        images = self.as_kept(images)
        kept, kept_labels, room = self.images(state), state.kept["labels"], self.method_settings.memory_size
        if self.method_settings.mini_batches == "balanced":
            together = np.concatenate([images, kept]), np.concatenate([labels, kept_labels])
            return (by_class(*together, self.setting.largest_task + room, self.setting.n_classes),)
        new = super().sources(state, images, labels)
        return (*new, padded(kept, kept_labels, room)) if len(kept) else new

    def remember(self, task: int, state: State, images: np.ndarray, labels: np.ndarray, key: jax.Array) -> State:
        """Lets the task's images into the reservoir: image number n stays with probability size / n."""
        random, room, n_seen = host_generator(key), self.method_settings.memory_size, int(state.kept["n_seen"])
        n_kept = len(state.kept["labels"])
        rows = list(range(n_kept))
        for i in random.permutation(len(images)):
            n_seen += 1
            place = len(rows) if len(rows) < room else int(random.integers(n_seen))
            if place < room:
                rows[place : place + 1] = [n_kept + i]
        return replace(state, kept=chosen(state.kept, rows, images, labels) | {"n_seen": np.int64(n_seen)})
