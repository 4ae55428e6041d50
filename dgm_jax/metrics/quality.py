"""How good a memory's images are, in the eyes of a classifier that learnt all real images (ALGORITHM, section 10)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dgm_jax import metrics
from dgm_jax.errors import NoMemory
from dgm_jax.memory.memory import Memory
from dgm_jax.models.prediction import predict_features, predict_logits
from dgm_jax.runs.folder import Workdir
from dgm_jax.system import checkpoint


@dataclass(frozen=True)
class Judge:
    """A classifier that learnt the real images of all classes: the last one of a `joint` run."""

    params: Any
    statistics: Any
    n_classes: int
    network: str

    @classmethod
    def of(cls, workdir: Workdir, n_classes: int) -> "Judge":
        """Loads it from the folder of a finished `joint` run; raises NoMemory if there is none."""
        restored = checkpoint.restore(workdir.checkpoints, on_damage=lambda _: None)
        if restored is None:
            raise NoMemory(f"{workdir.path} has no classifier to judge by; run --method joint first")
        settings = workdir.read_config()["config"]
        network = settings.get("consolidation_network") or settings.get("network", "dcgan")
        return cls(restored.tree["params"], restored.tree["statistics"], n_classes, network)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The class index of each uint8 image."""
        seen = np.ones(self.n_classes, bool)
        return predict_logits(self.params, self.statistics, images, seen, network=self.network).argmax(axis=1)

    def features(self, images: np.ndarray) -> np.ndarray:
        """What its class head sees, [n, features]."""
        return predict_features(self.params, self.statistics, images, network=self.network)


def measure(
    memory: Memory,
    judge: Judge,
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
      judge: learnt them from real images.
      images: real test images, uint8.
      labels: their class indices.
      key: a PRNG key.
      each: images to draw of each class.
      label: tells the class of drawn images, where the memory cannot be asked for one; what it never tells counts as
        wrong.

    Returns:
      "generated_sample_accuracy": the share of generated images that the judge tells right, mean over classes (what
      MeRGAN's published numbers are); "judge_accuracy": the same of real test images; "frechet_distance",
      "precision" and "recall", in the judge's features.
    """
    n = memory.n_classes
    drawn = np.concatenate([memory.images(index, each, jax.random.fold_in(key, index)) for index in range(n)])
    asked = np.repeat(np.arange(n), each) if label is None else label(drawn)

    def accuracy(pictures: np.ndarray, truth: np.ndarray) -> float:
        each_class = metrics.per_class_accuracy(judge.predict(pictures), truth, n)
        return metrics.macro_accuracy(np.nan_to_num(each_class))  # A class that is never drawn is not drawn right.

    real, generated = judge.features(images), judge.features(drawn)
    precision, recall = metrics.precision_and_recall(real, generated)
    return {
        "generated_sample_accuracy": accuracy(drawn, asked),
        "judge_accuracy": accuracy(images, labels),
        "frechet_distance": metrics.frechet_distance(real, generated),
        "precision": precision,
        "recall": recall,
    }
