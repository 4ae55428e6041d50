"""The ceiling: after each task a classifier is learnt afresh from all real images so far."""

import jax
import numpy as np

from dgm_jax.baselines import classifier
from dgm_jax.baselines.method import ImageMemory, Watch
from dgm_jax.training.classifier import init_classifier
from dgm_jax.training.epoch import padded


class Joint(ImageMemory):
    """Keeps every image it meets, which the other methods may not."""

    paper = "no paper: joint training on all real images, the ceiling"

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Trains a new classifier on everything."""
        self.images = np.concatenate([self.images, images])
        self.labels = np.concatenate([self.labels, labels])
        data = padded(self.images, self.labels, sum(map(sum, self.setting.counts)))
        init_key, key = jax.random.split(key)
        fresh = init_classifier(init_key, self.config, channels=images.shape[3], n_classes=self.setting.n_classes)
        self.classifier = classifier.train(fresh, (data,), self.setting.seen(task), key, self.config, watch)
