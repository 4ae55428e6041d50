"""iCaRL: exemplars chosen by herding, distillation, and classification by the nearest mean of exemplars."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dgm_jax.config import MethodSettings, setting
from dgm_jax.errors import ConfigError
from dgm_jax.memory.classifier import Classifier
from dgm_jax.methods.classifying import ClassifierMethod, State
from dgm_jax.methods.method import Setting
from dgm_jax.models import pair
from dgm_jax.training.epoch import TaskImages, padded


@dataclass(frozen=True, kw_only=True)
class ExemplarSettings(MethodSettings):
    """The settings of icarl."""

    memory_size: int = setting(200, above=0)
    """Real images that are kept, of all classes together."""


class ICaRL(ClassifierMethod):
    """Keeps `memory_size` real images in all, equally many of each class."""

    paper = "Rebuffi et al. 2017 (arXiv 1611.07725); here on the discriminator's network, with Adam"
    settings = ExemplarSettings
    checkpoints_kept = 2  # Each holds all exemplars.

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings; raises ConfigError if there is no room for one image of each class."""
        super().__init__(setting)
        if self.method_settings.memory_size < setting.n_classes:
            n, size = setting.n_classes, self.method_settings.memory_size
            raise ConfigError(f"memory_size={size}, but icarl keeps an image of each of {n} classes; give at least {n}")
        # One object, so that one program serves all tasks.
        self.loss = partial(_with_distillation, network=self.config.classifier_network)

    def new_state(self, key: jax.Array) -> State:
        """A fresh classifier, and no exemplars."""
        return replace(super().new_state(key), kept={"exemplars": []})

    def sources(self, state: State, images: np.ndarray, labels: np.ndarray) -> tuple[TaskImages, ...]:
        """New images and exemplars together."""
        exemplars = state.kept["exemplars"]
        old_labels = [np.full(len(own), index, np.int32) for index, own in enumerate(exemplars)]
        room = self.setting.largest_task + self.method_settings.memory_size
        return (padded(np.concatenate([images, *exemplars]), np.concatenate([labels, *old_labels]), room),)

    def anchor(self, task: int, state: State) -> Any:
        """The network before this task, whose outputs for old classes are distilled."""
        old = np.arange(self.setting.n_classes) < self.setting.n_seen(task - 1)
        return {"params": state.params, "statistics": state.statistics, "old": old}

    def remember(self, task: int, state: State, images: np.ndarray, labels: np.ndarray, key: jax.Array) -> State:
        """Shortens the lists of old exemplars, and chooses those of the new classes (algorithms 4 and 5)."""
        each = self.method_settings.memory_size // self.setting.n_seen(task)
        exemplars = [own[:each] for own in state.kept["exemplars"]]
        classifier = self.classifier(task, state)
        for index in self.setting.tasks[task]:
            candidates = images[labels == index]
            features = _normalised(classifier.features(candidates))
            exemplars.append(candidates[herded(features, min(each, len(candidates)))])
        return replace(state, kept={"exemplars": exemplars})

    def reading(self, task: int, state: State) -> "NearestMean":
        """The nearest mean of exemplars (algorithm 1)."""
        return NearestMean(self.classifier(task, state), state.kept["exemplars"])

    def memory_bytes(self, state: State) -> dict[str, int]:
        """Bytes of the exemplars, as the data set stores them."""
        total = self.setting.bytes_of(sum(map(len, state.kept["exemplars"])))
        return {"images": total, "total": total}


@dataclass(frozen=True)
class NearestMean:
    """Predicts the class whose exemplars' mean feature is nearest."""

    classifier: Classifier
    exemplars: list[np.ndarray]  # Of each class seen, uint8 [n, h, w, c].

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of unit length, [n, features]."""
        return _normalised(self.classifier.features(images))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Minus the distance to each class's mean; minus infinity for classes that are not learnt yet."""
        means = np.stack([_normalised(self.features(own).mean(axis=0)) for own in self.exemplars])
        distances = np.linalg.norm(self.features(images)[:, None] - means[None], axis=2)
        scores = np.full((len(images), self.classifier.n_outputs), -np.inf)
        scores[:, : len(means)] = -distances
        return scores


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
    before, _ = pair(network).discriminate(anchor["params"], anchor["statistics"], images, train=False)
    target = jnp.where(anchor["old"][None], jax.nn.sigmoid(before.logits), jax.nn.one_hot(labels, len(seen)))
    each = optax.sigmoid_binary_cross_entropy(output.logits, jax.lax.stop_gradient(target))
    return jnp.sum(jnp.where(seen[None], each, 0)) / len(labels)
