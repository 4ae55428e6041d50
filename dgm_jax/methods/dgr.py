"""Deep generative replay: an unconditional generator, and a solver that labels what it draws."""

import jax
import numpy as np

from dgm_jax.baselines.generative import UnmaskedGenerator
from dgm_jax.baselines.method import Watch


class DeepGenerativeReplay(UnmaskedGenerator):
    """Replays unlabelled images; the solver of the task before says what they show."""

    paper = "Shin et al. 2017 (arXiv 1705.08690); here with the networks and the step of DGM"
    conditional = False

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Retrains generator and solver on new images and replayed ones, as many of each class."""
        replay_key, train_key, solver_key = jax.random.split(key, 3)
        replayed, _ = self.replayed(task, replay_key, watch)
        told = self.logits(task - 1, replayed).argmax(axis=1).astype(np.int32)
        data = self.mixture((images, labels), (replayed, told))
        self.consolidate(task, data, solver_key, watch)
        self.train_generator(task, data, train_key, watch, lambda capacity: capacity)
