"""The combined reading of DGM: what its consolidated classifier says, and what sums of real images say, as one.

Not in the paper. The memory's drawn images lack the fine texture of real ones, which sums of features have seen; the
consolidated network in turn sees what features of one layer cannot. How much each counts is the same for all data.
"""

from dataclasses import dataclass, field

import numpy as np

from dgm_jax.data.pictures import to_uint8
from dgm_jax.memory.classifier import Classifier
from dgm_jax.methods.feature_memory import FeatureClassifier, FeatureMemory, classifiers
from dgm_jax.methods.method import Predictor
from dgm_jax.metrics import log_probabilities
from dgm_jax.models.closed_form import ridge_discriminant

TEMPERATURE = 2.0  # Of the consolidated classifier. On held-out images of CIFAR-10, 2 and 3 are equally good.


@dataclass(frozen=True)
class Combined(Classifier):
    """A consolidated classifier that adds its log-probabilities to those of one that is read off sums."""

    analytic: FeatureClassifier = field(kw_only=True)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores [n, classes] of images, as `Classifier.logits`; minus infinity for classes that are not learnt yet."""
        n_seen = len(self.labels)
        stored = images if self.scale is not None or images.dtype == np.uint8 else to_uint8(images)
        scores = super().logits(images), self.analytic.logits(stored)
        joined = np.full(scores[1].shape, -np.inf)
        joined[:, :n_seen] = combined_logits(scores[0][:, :n_seen], scores[1][:, :n_seen])
        return joined


def combined_logits(consolidated: np.ndarray, analytic: np.ndarray, temperature: float = TEMPERATURE) -> np.ndarray:
    """The sum of two classifiers' log-probabilities, of which that of the network is softened.

    The constant is a weight, and no calibration: on held-out images of CIFAR-10, where it was chosen, the network's own
    best temperature is 1.05 (docs/confidence.md). The scores of `ridge_discriminant` are taken as they are, although
    they are too unsure there (0.7 would be best).

    Args:
      consolidated: logits of the network, [n, classes seen].
      analytic: logits read off the sums, [n, classes seen].
      temperature: what the former are divided by.
    """
    return log_probabilities(consolidated, temperature) + log_probabilities(analytic)


def more_readings(consolidated: Classifier, memory: FeatureMemory) -> dict[str, Predictor]:
    """The readings that sums of features add, `analytic` and `combined`, for the classes that the first one knows."""
    analytic = classifiers(memory, len(consolidated.labels), {"analytic": ridge_discriminant})["analytic"]
    # The sums of log-probabilities need no temperature, and the threshold is for logits of the network.
    combined = Combined(**vars(consolidated) | {"temperature": 1.0, "threshold": None}, analytic=analytic)
    return {"analytic": analytic, "combined": combined}
