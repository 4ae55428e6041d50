"""The combined reading of DGM: what its consolidated classifier says, and what sums of real images say, as one.

Not in the paper. The memory's drawn images lack the fine texture of real ones, which sums of features have seen; the
consolidated network in turn sees what features of one layer cannot. Both count alike, whatever the data.
"""

from dataclasses import dataclass

import numpy as np

from dgm_jax.memory.classifier import Classifier
from dgm_jax.methods.feature_memory import FeatureClassifier, FeatureMemory, classifiers
from dgm_jax.methods.method import Predictor
from dgm_jax.metrics import log_probabilities
from dgm_jax.models.closed_form import ridge_discriminant

TEMPERATURE = 2.0  # Of the consolidated classifier. On held-out images of CIFAR-10, 2 and 3 are equally good.


@dataclass(frozen=True)
class Combined:
    """Adds the log-probabilities of a consolidated classifier and of one that is read off sums."""

    consolidated: Classifier
    analytic: FeatureClassifier

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores [n, classes] of images; minus infinity for classes that are not learnt yet."""
        n_seen = len(self.consolidated.labels)
        scores = [classifier.logits(images) for classifier in (self.consolidated, self.analytic)]
        joined = np.full(scores[1].shape, -np.inf)
        joined[:, :n_seen] = combined_logits(scores[0][:, :n_seen], scores[1][:, :n_seen])
        return joined

    def features(self, images: np.ndarray) -> np.ndarray:
        """Those of the consolidated classifier."""
        return self.consolidated.features(images)


def combined_logits(consolidated: np.ndarray, analytic: np.ndarray, temperature: float = TEMPERATURE) -> np.ndarray:
    """The sum of two classifiers' log-probabilities, with equal weights.

    The scale of `ridge_discriminant` is about right as it is. The logits of the network are divided by a constant: it
    learnt drawn images, and says of real ones more than it knows where the drawn ones are poor.

    Args:
      consolidated: logits of the network, [n, classes seen].
      analytic: logits read off the sums, [n, classes seen].
      temperature: what the former are divided by.
    """
    return log_probabilities(consolidated, temperature) + log_probabilities(analytic)


def more_readings(consolidated: Classifier, memory: FeatureMemory) -> dict[str, Predictor]:
    """The readings that sums of features add, `analytic` and `combined`, for the classes that the first one knows."""
    analytic = classifiers(memory, len(consolidated.labels), {"analytic": ridge_discriminant})["analytic"]
    return {"analytic": analytic, "combined": Combined(consolidated, analytic)}
