"""The ceiling: after each task a classifier is learnt afresh from all real images so far."""

import jax
import numpy as np

from dgm_jax.baselines import classifier
from dgm_jax.baselines.method import ClassifierMethod, Moved, Setting, Tree, padded
from dgm_jax.training.classifier import init_classifier


class Joint(ClassifierMethod):
    """Keeps every image it meets, which the other methods may not."""

    paper = "no paper: joint training on all real images, the ceiling"

    def __init__(self, setting: Setting) -> None:
        """Begins with no images."""
        super().__init__(setting)
        self.images = np.zeros((0, *setting.image_shape), np.uint8)
        self.labels = np.zeros(0, np.int32)

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, moved: Moved) -> None:
        """Trains a new classifier on everything."""
        self.images = np.concatenate([self.images, images])
        self.labels = np.concatenate([self.labels, labels])
        data = padded(self.images, self.labels, sum(map(sum, self.setting.counts)))
        init_key, key = jax.random.split(key)
        fresh = init_classifier(init_key, self.config, channels=images.shape[3], n_classes=self.setting.n_classes)
        self.classifier = classifier.train(fresh, (data,), self.setting.seen(task), key, self.config, moved)

    def to_tree(self) -> Tree:
        """The classifier and all images."""
        return super().to_tree() | {"images": self.images, "labels": self.labels}

    def restore(self, tree: Tree, finished_tasks: int) -> None:
        """Takes both back."""
        super().restore(tree, finished_tasks)
        self.images, self.labels = tree["images"], tree["labels"]

    def memory_bytes(self) -> dict[str, int]:
        """All images."""
        total = self.setting.bytes_of(len(self.images))
        return {"images": total, "total": total}
