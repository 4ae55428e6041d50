"""Experience replay: a reservoir of a few real images gives half of every mini-batch."""

from dataclasses import dataclass, replace

import jax
import numpy as np

from dgm_jax.config import MethodSettings, setting
from dgm_jax.methods.classifying import ImageMemory, State
from dgm_jax.models.generator import host_generator
from dgm_jax.training.epoch import TaskImages, padded


@dataclass(frozen=True, kw_only=True)
class ReservoirSettings(MethodSettings):
    """The settings of er."""

    memory_size: int = setting(200, above=0)
    """Real images that are kept, of all classes together."""


class ExperienceReplay(ImageMemory):
    """Keeps `memory_size` real images, a fair sample of all that were seen (reservoir sampling)."""

    paper = "Chaudhry et al. 2019 (arXiv 1902.10486), ER-Reservoir; here several passes over a task, not one"
    settings = ReservoirSettings

    def new_state(self, key: jax.Array) -> State:
        """An empty reservoir."""
        state = super().new_state(key)
        return replace(state, kept=state.kept | {"n_seen": np.int64(0)})

    def sources(self, state: State, images: np.ndarray, labels: np.ndarray) -> tuple[TaskImages, ...]:
        """New images and, once there are some, those of the reservoir."""
        new = super().sources(state, images, labels)
        if not len(state.kept["images"]):
            return new
        return (*new, padded(state.kept["images"], state.kept["labels"], self.method_settings.memory_size))

    def remember(self, task: int, state: State, images: np.ndarray, labels: np.ndarray, key: jax.Array) -> State:
        """Lets the task's images into the reservoir: image number n stays with probability size / n."""
        random, room, n_seen = host_generator(key), self.method_settings.memory_size, int(state.kept["n_seen"])
        kept, kept_labels = list(state.kept["images"]), list(state.kept["labels"])
        for i in random.permutation(len(images)):
            n_seen += 1
            place = len(kept) if len(kept) < room else int(random.integers(n_seen))
            if place < room:
                kept[place : place + 1], kept_labels[place : place + 1] = [images[i]], [labels[i]]
        reservoir = {"images": np.stack(kept), "labels": np.asarray(kept_labels, np.int32)}
        return replace(state, kept=reservoir | {"n_seen": np.int64(n_seen)})
