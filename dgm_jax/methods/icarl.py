"""iCaRL: exemplars chosen by herding, distillation, and the nearest mean of exemplars."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dgm_jax.baselines import classifier
from dgm_jax.baselines.method import ClassifierMethod, Setting, Tree, Watch
from dgm_jax.errors import ConfigError
from dgm_jax.models import pair
from dgm_jax.training.classifier import predict_features
from dgm_jax.training.epoch import padded


class ICaRL(ClassifierMethod):
    """Keeps `memory_size` real images in all, equally many of each class."""

    paper = "Rebuffi et al. 2017 (arXiv 1611.07725); here on the discriminator's network, with Adam"

    def __init__(self, setting: Setting) -> None:
        """Begins with no exemplars; raises ConfigError if there is no room for one of each class."""
        super().__init__(setting)
        if self.config.memory_size < setting.n_classes:
            n, size = setting.n_classes, self.config.memory_size
            raise ConfigError(f"memory_size={size}, but icarl keeps an image of each of {n} classes; give at least {n}")
        self.exemplars: list[np.ndarray] = []  # Of each class seen, the most telling first.
        # One object: one compiled program.
        self._loss = partial(_with_distillation, network=self.config.classifier_network)

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Trains on new images and exemplars together, old outputs distilled; then chooses exemplars anew."""
        old = len(self.exemplars)
        kept = [np.full(len(own), c, np.int32) for c, own in enumerate(self.exemplars)]
        data = padded(
            np.concatenate([images, *self.exemplars]),
            np.concatenate([labels, *kept]),
            max(map(sum, self.setting.counts)) + self.config.memory_size,
        )
        anchor = {
            "params": self.classifier.params,
            "statistics": self.classifier.statistics,
            "old": np.arange(self.setting.n_classes) < old,
        }
        seen = self.setting.seen(task)
        self.classifier = classifier.train(
            self.classifier, (data,), seen, key, self.config, watch, loss=self._loss, anchor=anchor
        )
        each = self.config.memory_size // int(seen.sum())
        self.exemplars = [own[:each] for own in self.exemplars]
        for index in self.setting.tasks[task]:
            own = images[labels == index]
            self.exemplars.append(own[herded(self._features(own), min(each, len(own)))])

    def logits(self, task: int, images: np.ndarray) -> np.ndarray:
        """Minus the distance to each class's mean of exemplars."""
        means = np.stack([_normalised(self._features(own).mean(axis=0)) for own in self.exemplars])
        distances = np.linalg.norm(self._features(images)[:, None] - means[None], axis=2)
        scores = np.full((len(images), self.setting.n_classes), -np.inf)
        scores[:, : len(means)] = -distances
        return scores

    def _features(self, images: np.ndarray) -> np.ndarray:
        """Of unit length, [n, features]."""
        params, statistics = self.classifier.params, self.classifier.statistics
        return _normalised(predict_features(params, statistics, images, network=self.config.classifier_network))

    def to_tree(self) -> Tree:
        """The classifier and the exemplars."""
        return super().to_tree() | {"exemplars": self.exemplars}

    def restore(self, tree: Tree, finished_tasks: int) -> None:
        """Takes both back."""
        super().restore(tree, finished_tasks)
        self.exemplars = list(tree["exemplars"])

    def memory_bytes(self) -> dict[str, int]:
        """The exemplars."""
        total = self.setting.bytes_of(sum(map(len, self.exemplars)))
        return {"images": total, "total": total}


def herded(features: np.ndarray, n: int) -> np.ndarray:
    """Chooses `n` rows one by one, each bringing the mean of those chosen closest to the mean of all (algorithm 4)."""
    mean, total = features.mean(axis=0), np.zeros(features.shape[1])
    left = np.ones(len(features), bool)
    chosen = []
    for k in range(1, n + 1):
        distances = np.linalg.norm(mean - (total + features) / k, axis=1)
        chosen.append(int(np.argmin(np.where(left, distances, np.inf))))
        left[chosen[-1]] = False
        total += features[chosen[-1]]
    return np.asarray(chosen, int)


def _normalised(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _with_distillation(
    params: Any, output: Any, images: Any, labels: Any, seen: Any, anchor: Any, *, network: str
) -> jax.Array:
    """Binary cross-entropy of each class seen: towards the label, or for old classes towards the old network."""
    del params
    before, _ = pair(network).discriminate(anchor["params"], anchor["statistics"], images, train=False)
    target = jnp.where(anchor["old"][None], jax.nn.sigmoid(before.logits), jax.nn.one_hot(labels, len(seen)))
    each = optax.sigmoid_binary_cross_entropy(output.logits, jax.lax.stop_gradient(target))
    return jnp.sum(jnp.where(seen[None], each, 0)) / len(labels)
