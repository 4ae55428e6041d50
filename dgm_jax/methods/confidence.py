"""How sure a classifier of drawn images may be of real ones (docs/confidence.md); not in the paper.

No real image of an earlier class may be read, so images that the memory draws anew take their place. The classifier
learnt such images, and is surer of them than of real ones. By how much is a constant from other data.
"""

from dataclasses import replace

import jax
import numpy as np

from dgm_jax import metrics
from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import CHUNK, Memory

# How many times higher the best temperature for real images is. Chosen on held-out training images of CIFAR-10.
REAL_TO_DRAWN = 1.8
ACCEPTED = 0.99  # The share of drawn images that are accepted as of a known class.
_TEMPERATURES = np.geomspace(0.05, 20, 121)  # Those that are tried: each is 5 % higher than the one before.
_EACH = CHUNK  # Images of a class.


def calibrated(classifier: Classifier, memory: Memory, key: jax.Array) -> Classifier:
    """The classifier with a temperature, and the threshold below which an image is of no class that it knows.

    Args:
      classifier: consolidated; its labels are those of the memory.
      memory: it draws the images, of which the classifier must not have learnt any.
      key: to draw them.
    """
    drawn = [memory.images(index, _EACH, jax.random.fold_in(key, index)) for index in range(memory.n_classes)]
    labels = np.repeat(np.arange(memory.n_classes), _EACH)
    logits = classifier.logits(np.concatenate(drawn))[:, : memory.n_classes]
    threshold = float(np.quantile(logits.max(axis=1), 1 - ACCEPTED))
    # The probability of a single class is 1 whatever the temperature.
    temperature = REAL_TO_DRAWN * best_temperature(logits, labels) if memory.n_classes > 1 else 1.0
    return replace(classifier, temperature=temperature, threshold=threshold)


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that makes labels most likely (Guo et al. 2017), with one image more, of which nothing is known.

    Without this one, the best temperature would be 0 where all images are classified correctly. It has the mean loss of
    all images and all classes.

    Args:
      logits: [n, classes].
      labels: the class of each image, [n].
    """
    share = 1 / (len(labels) + 1)

    def loss(temperature: float) -> float:
        log_probabilities = metrics.log_probabilities(logits, temperature)
        known = metrics.negative_log_likelihood(log_probabilities, labels)
        return (1 - share) * known - share * float(np.mean(log_probabilities))

    return float(min(_TEMPERATURES, key=loss))
