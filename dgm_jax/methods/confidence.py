"""How sure a classifier of drawn images may be of real ones (docs/confidence.md); not in the paper.

No real image of an earlier class may be read, so images that the memory draws anew take their place. The classifier
learnt such images, and may be surer of them than of real ones. By how much is measured on the newest classes, whose
real images are at hand.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from dgm_jax import metrics
from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import CHUNK, Memory

ACCEPTED = 0.99  # The share of drawn images that are accepted as of a known class.
_TEMPERATURES = np.geomspace(0.05, 20, 121)  # Those that are tried: each is 5 % higher than the one before.
_EACH = CHUNK  # Images of a class.


def calibrated(classifier: Classifier, memory: Memory, key: jax.Array, quotient: float) -> Classifier:
    """The classifier with a temperature, and the threshold below which an image is of no class that it knows.

    Args:
      classifier: consolidated; its labels are those of the memory.
      memory: it draws the images, of which the classifier must not have learnt any.
      key: to draw them.
      quotient: how many times higher the best temperature for real images is than that for drawn ones.
    """
    logits = classifier.logits(_drawn(memory, key, range(memory.n_classes)))[:, : memory.n_classes]
    threshold = float(np.quantile(logits.max(axis=1), 1 - ACCEPTED))
    temperature = 1.0  # The probability of a single class is 1 whatever the temperature.
    if memory.n_classes > 1:
        temperature = quotient * best_temperature(logits, np.repeat(np.arange(memory.n_classes), _EACH))
    return replace(classifier, temperature=temperature, threshold=threshold)


def real_to_drawn(
    classifier: Classifier, memory: Memory, key: jax.Array, images: np.ndarray, labels: np.ndarray
) -> float:
    """How many times higher the best temperature is for real images than for as many drawn ones of the same classes.

    Of a class with several modes, the newest is drawn: the real images are those that it stands for.

    Args:
      classifier: has learnt none of these images.
      memory: draws as many.
      key: to draw them.
      images: real ones, uint8 [n, h, w, c]; the first 128 of each class count.
      labels: their class indices, [n].
    """
    first = [np.flatnonzero(labels == index)[:_EACH] for index in np.unique(labels)]
    rows = np.concatenate(first)
    drawn = _drawn(memory, key, np.unique(labels).tolist(), newest=True)
    drawn = np.concatenate([own[: len(of)] for own, of in zip(np.split(drawn, len(first)), first, strict=True)])
    real, other = (
        best_temperature(classifier.logits(own)[:, : memory.n_classes], labels[rows]) for own in (images[rows], drawn)
    )
    return real / other


def known_quotient(classifier: Classifier, memory: Memory, key: jax.Array) -> float:
    """The quotient with which a classifier was calibrated, from its temperature and newly drawn images."""
    return classifier.temperature / calibrated(classifier, memory, key, 1.0).temperature


def _drawn(memory: Memory, key: jax.Array, classes: Sequence[int], *, newest: bool = False) -> np.ndarray:
    """128 images of each of these classes, one class after the other: of all modes, or of the newest one."""
    modes = [len(memory.modes_of(index)) - 1 if newest else None for index in classes]
    return np.concatenate(
        [
            memory.images(index, _EACH, jax.random.fold_in(key, index), mode=mode)
            for index, mode in zip(classes, modes, strict=True)
        ]
    )


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
