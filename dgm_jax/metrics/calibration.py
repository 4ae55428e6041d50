"""How far the probabilities of a classifier can be believed, as pure functions of arrays (docs/measures.md)."""

import numpy as np

_BINS = 15


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Logarithms of the probabilities that logits [n, classes] stand for once divided by a temperature; float64."""
    scaled = logits.astype(np.float64) / temperature
    shifted = scaled - scaled.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def negative_log_likelihood(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of minus the logarithm of the probability of the true class.

    Args:
      log_probabilities: [n, classes], n > 0.
      labels: the class of each image, [n].
    """
    return float(-np.mean(log_probabilities[np.arange(len(labels)), labels]))


def expected_calibration_error(log_probabilities: np.ndarray, labels: np.ndarray, bins: int = _BINS) -> float:
    """How far confidence and accuracy are apart on average, in 0..1 (Guo et al. 2017).

    Images are put into bins of equal width by the probability of their prediction; bin i of n holds those above
    (i - 1) / n, up to i / n. The differences between the mean of these probabilities and the accuracy are averaged over
    the bins, weighted by the images in each.

    Args:
      log_probabilities: [n, classes], n > 0.
      labels: the class of each image, [n].
      bins: how many.
    """
    confidence = np.exp(log_probabilities.max(axis=1))
    surplus = confidence - (log_probabilities.argmax(axis=1) == labels)
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # A bin with n of N images adds n / N * |mean surplus| = |sum of surpluses| / N.
    return float(np.abs(np.bincount(number, surplus, minlength=bins)).sum() / len(labels))
