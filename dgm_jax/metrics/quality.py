"""The quality of a memory's images, measured by a classifier trained on all real images (docs/method.md)."""

from collections.abc import Callable

import jax
import numpy as np

from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import Memory
from dgm_jax.metrics.accuracy import macro_accuracy, per_class_accuracy
from dgm_jax.metrics.distributions import frechet_distance, precision_and_recall
from dgm_jax.system.pinned import pinned


@pinned()
def measure(
    memory: Memory,
    classifier: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    key: jax.Array,
    *,
    images_per_class: int = 200,
    label: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, float]:
    """Compares generated images with real test images.

    Args:
      memory: a memory of all classes.
      classifier: was trained on real images of all classes, such as the last classifier of a `joint` run.
      images: real test images, uint8.
      labels: their class indices.
      key: a PRNG key.
      images_per_class: how many images to generate for each class.
      label: predicts the classes of generated images, for a memory whose images are not labelled; a class that it never
        predicts counts as wrong.

    Returns:
      "generated_sample_accuracy": the share of generated images whose class the classifier recognises, mean over
      classes (the number that MeRGAN publishes); "judge_accuracy": the same share of real test images;
      "frechet_distance", "precision" and "recall", in the features of the classifier.
    """
    n = memory.n_classes
    generated = np.concatenate(
        [memory.images(index, images_per_class, jax.random.fold_in(key, index)) for index in range(n)]
    )
    generated_labels = np.repeat(np.arange(n), images_per_class) if label is None else label(generated)

    def accuracy(pictures: np.ndarray, classes: np.ndarray) -> float:
        by_class = per_class_accuracy(classifier.logits(pictures).argmax(axis=1), classes, n)
        return macro_accuracy(np.nan_to_num(by_class))  # A class of which there is no image counts as wrong.

    real_features, generated_features = classifier.features(images), classifier.features(generated)
    precision, recall = precision_and_recall(real_features, generated_features)
    return {
        "generated_sample_accuracy": accuracy(generated, generated_labels),
        "judge_accuracy": accuracy(images, labels),
        "frechet_distance": frechet_distance(real_features, generated_features),
        "precision": precision,
        "recall": recall,
    }
