"""How good a memory's images are, as judged by a classifier that learnt all real images (docs/method.md)."""

from collections.abc import Callable

import jax
import numpy as np

from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import Memory
from dgm_jax.metrics.accuracy import macro_accuracy, per_class_accuracy
from dgm_jax.metrics.distributions import frechet_distance, precision_and_recall


def measure(
    memory: Memory,
    judge: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    key: jax.Array,
    *,
    each: int = 200,
    label: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, float]:
    """Compares what the memory draws with real test images.

    Args:
      memory: knows all classes.
      judge: learnt all classes from real images: the last classifier of a `joint` run.
      images: real test images, uint8.
      labels: their class indices.
      key: a PRNG key.
      each: images to draw of each class.
      label: predicts the class of drawn images, if the memory cannot be asked for one; a class that it never predicts
        counts as wrong.

    Returns:
      "generated_sample_accuracy": the share of generated images that the judge classifies as asked, mean over classes
      (what MeRGAN publishes); "judge_accuracy": the same of real test images; "frechet_distance",
      "precision" and "recall", in the judge's features.
    """
    n = memory.n_classes
    drawn = np.concatenate([memory.images(index, each, jax.random.fold_in(key, index)) for index in range(n)])
    asked = np.repeat(np.arange(n), each) if label is None else label(drawn)

    def accuracy(pictures: np.ndarray, truth: np.ndarray) -> float:
        each_class = per_class_accuracy(judge.logits(pictures).argmax(axis=1), truth, n)
        return macro_accuracy(np.nan_to_num(each_class))  # A class that is never drawn is not drawn right.

    real, generated = judge.features(images), judge.features(drawn)
    precision, recall = precision_and_recall(real, generated)
    return {
        "generated_sample_accuracy": accuracy(drawn, asked),
        "judge_accuracy": accuracy(images, labels),
        "frechet_distance": frechet_distance(real, generated),
        "precision": precision,
        "recall": recall,
    }
