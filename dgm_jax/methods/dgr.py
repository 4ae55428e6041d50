"""Deep generative replay: an unconditional generator, and a solver that labels what it draws."""

import numpy as np

from dgm_jax.methods.generative import Keys, State, Training, UnmaskedGenerator
from dgm_jax.methods.method import TaskInput, Watch
from dgm_jax.training.epoch import TaskImages


class DeepGenerativeReplay(UnmaskedGenerator):
    """Replays images without labels; the solver of the task before labels them."""

    paper = (
        "Shin et al. 2017 (arXiv 1705.08690); here with the networks and the step of DGM, and one mixture of new and "
        "replayed images"
    )
    conditional = False
    random_uses = ("replay", "train", "classifier")

    def data(self, task: int, own: TaskInput[State], keys: Keys, watch: Watch) -> TaskImages:
        """New images and replayed ones, as many of each class."""
        replayed, _ = self.replayed(task, own, keys["replay"], watch)
        predicted = own.state.classifier.logits(replayed).argmax(axis=1).astype(np.int32)
        return self.mixture((own.images, own.labels), (replayed, predicted))

    def classifier_data(self, training: Training, run: int, state: State, keys: Keys) -> TaskImages:
        """The images that the generator learnt from."""
        return training.data[run]
