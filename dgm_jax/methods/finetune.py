"""The floor: one classifier goes on learning, from the newest images alone."""

import jax
import numpy as np

from dgm_jax.baselines import classifier
from dgm_jax.baselines.method import ClassifierMethod, Watch
from dgm_jax.training.epoch import padded


class Finetune(ClassifierMethod):
    """Forgets: nothing asks for the old classes again."""

    paper = "no paper: plain fine-tuning, the floor"

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Trains on the task's images."""
        data = padded(images, labels, max(map(sum, self.setting.counts)))
        self.classifier = classifier.train(self.classifier, (data,), self.setting.seen(task), key, self.config, watch)
