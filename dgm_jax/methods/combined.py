"""The combined reading of DGM: what its consolidated classifier says, and what sums of real images say, as one.

Not in the paper. The memory's drawn images lack the fine texture of real ones, which sums of features have seen; the
consolidated network in turn sees what features of one layer cannot. Each counts as much as it claims to be sure.
"""

from dataclasses import dataclass, field

import numpy as np

from dgm_jax.memory.classifier import Classifier
from dgm_jax.methods.feature_memory import FeatureClassifier, FeatureMemory, classifiers
from dgm_jax.methods.method import Predictor
from dgm_jax.metrics import log_probabilities
from dgm_jax.models.closed_form import ridge_discriminant


@dataclass(frozen=True, repr=False)
class Combined(Classifier):
    """A consolidated classifier and one that is read off sums: the mean of their log-probabilities."""

    analytic: FeatureClassifier = field(kw_only=True)
    of_network: float = field(kw_only=True)  # The temperature of the consolidated classifier.

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores [n, classes] of images, as `Classifier.logits`; minus infinity for classes that are not learnt yet."""
        n_seen = len(self.labels)
        consolidated, analytic = super().logits(images)[:, :n_seen], self.analytic.logits(images)
        joined = np.full(analytic.shape, -np.inf)
        joined[:, :n_seen] = combined_logits(consolidated / self.of_network, analytic[:, :n_seen])
        return joined


def combined_logits(consolidated: np.ndarray, analytic: np.ndarray) -> np.ndarray:
    """The mean of two classifiers' log-probabilities: a logarithmic opinion pool (Genest and Zidek 1986).

    Args:
      consolidated: logits of the network, divided by its temperature (docs/confidence.md), [n, classes seen].
      analytic: logits read off the sums, [n, classes seen]; `ridge_discriminant` scales them to give probabilities.
    """
    return (log_probabilities(consolidated) + log_probabilities(analytic)) / 2


def more_readings(consolidated: Classifier, memory: FeatureMemory) -> dict[str, Predictor]:
    """The readings that sums of features add, `analytic` and `combined`, for the classes that the first one knows."""
    analytic = classifiers(memory, len(consolidated.labels), {"analytic": ridge_discriminant})["analytic"]
    own = vars(consolidated) | {"temperature": 1.0, "threshold": None}  # The threshold is for logits of the network.
    return {"analytic": analytic, "combined": Combined(**own, analytic=analytic, of_network=consolidated.temperature)}
