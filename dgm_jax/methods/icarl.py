"""iCaRL: exemplars chosen by herding, distillation, and classification by the nearest mean of exemplars."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dgm_jax.memory.classifier import Classifier
from dgm_jax.methods.classifying import State
from dgm_jax.methods.kept_images import BalancedImageMemory, chosen
from dgm_jax.methods.method import Setting, Tree
from dgm_jax.models import pair
from dgm_jax.training.epoch import TaskImages, padded


class ICaRL(BalancedImageMemory):
    """Keeps `memory_size` real images in all, equally many of each class."""

    paper = "Rebuffi et al. 2017 (arXiv 1611.07725); here on the discriminator's network, with Adam"

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings; raises ConfigError if there is no room for one image of each class."""
        super().__init__(setting)
        # One object, so that one program serves all tasks.
        self.loss = partial(_with_distillation, network=self.config.classifier_network)

    def sources(self, state: State, images: np.ndarray, labels: np.ndarray) -> tuple[TaskImages, ...]:
        """New images and exemplars together."""
        together = (
            np.concatenate([self.as_kept(images), self.images(state)]),
            np.concatenate([labels, state.kept["labels"]]),
        )
        return (padded(*together, self.setting.largest_task + self.method_settings.memory_size),)

    def anchor(self, task: int, state: State) -> Any:
        """The network before this task, whose outputs for old classes are distilled."""
        old = np.arange(self.setting.n_classes) < self.setting.n_seen(task - 1)
        return {"params": state.params, "statistics": state.statistics, "old": old}

    def remember(self, task: int, state: State, images: np.ndarray, labels: np.ndarray, key: jax.Array) -> State:
        """Shortens the lists of old exemplars, and chooses those of the new classes (algorithms 4 and 5)."""
        each = self.method_settings.memory_size // self.setting.n_seen(task)
        kept = state.kept["labels"]
        rows = [np.flatnonzero(kept == index)[:each] for index in range(self.setting.n_seen(task - 1))]
        classifier = self.classifier(task, state)
        for index in self.setting.tasks[task]:
            candidates = np.flatnonzero(labels == index)
            features = _normalised(classifier.features(images[candidates]))
            rows.append(len(kept) + candidates[herded(features, min(each, len(candidates)))])
        return replace(state, kept=chosen(state.kept, np.concatenate(rows), images, labels))

    def reading(self, task: int, state: State) -> "NearestMean":
        """The nearest mean of exemplars (algorithm 1)."""
        images, labels = self.images(state), state.kept["labels"]
        exemplars = [images[labels == index] for index in range(self.setting.n_seen(task))]
        return NearestMean(self.classifier(task, state), exemplars)

    def from_tree(self, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> State:
        """Undoes `to_tree`; reads checkpoints of earlier versions, too."""
        if "labels" not in tree:  # They hold a list with the images of each class.
            exemplars = tree.get("exemplars", [])
            labels = np.array([index for index, own in enumerate(exemplars) for _ in own], np.int32)
            images = np.concatenate([self.setting.room(0), *exemplars])
            tree = {name: own for name, own in tree.items() if name != "exemplars"}
            tree |= {"images": images, "labels": labels}
        return super().from_tree(tree, plain, finished_tasks)


@dataclass(frozen=True)
class NearestMean:
    """Predicts the class whose exemplars' mean feature is nearest."""

    classifier: Classifier
    exemplars: list[np.ndarray]  # Of each class seen, [n, h, w, c].

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
