"""Experience replay: a reservoir of a few real images, half of every mini-batch."""

import jax
import numpy as np

from dgm_jax.baselines import classifier
from dgm_jax.baselines.method import ImageMemory, Setting, Tree, Watch
from dgm_jax.training.epoch import padded


class ExperienceReplay(ImageMemory):
    """Keeps `memory_size` real images, a fair sample of all that it met (reservoir sampling)."""

    paper = "Chaudhry et al. 2019 (arXiv 1902.10486), ER-Reservoir; here several passes over a task, not one"

    def __init__(self, setting: Setting) -> None:
        """Begins with an empty reservoir."""
        super().__init__(setting)
        self.met = 0

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Trains on new images and old ones, then lets the new ones into the reservoir."""
        sources = [padded(images, labels, max(map(sum, self.setting.counts)))]
        if len(self.images):
            sources.append(padded(self.images, self.labels, self.config.memory_size))
        self.classifier = classifier.train(
            self.classifier, tuple(sources), self.setting.seen(task), key, self.config, watch
        )
        self._let_in(images, labels, np.random.default_rng([self.config.seed, task]))

    def _let_in(self, images: np.ndarray, labels: np.ndarray, draw: np.random.Generator) -> None:
        room = self.config.memory_size
        kept, kept_labels = list(self.images), list(self.labels)
        for i in draw.permutation(len(images)):
            self.met += 1
            place = len(kept) if len(kept) < room else int(draw.integers(self.met))
            if place < room:
                kept[place : place + 1], kept_labels[place : place + 1] = [images[i]], [labels[i]]
        self.images, self.labels = np.stack(kept), np.asarray(kept_labels, np.int32)

    def to_tree(self) -> Tree:
        """The classifier and the reservoir."""
        return super().to_tree() | {"met": np.int64(self.met)}

    def restore(self, tree: Tree, finished_tasks: int) -> None:
        """Takes both back."""
        super().restore(tree, finished_tasks)
        self.met = int(tree["met"])
