"""What `analytic` keeps of the images seen, and `dgm` beside its memory if asked: filters, and sums of features.

Scaled vectors are features themselves: there are no filters then.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from dgm_jax.data.pictures import to_uint8
from dgm_jax.memory.classifier import Predicting
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.methods.method import Setting, Tree
from dgm_jax.models import patch_filters
from dgm_jax.models.closed_form import Solution, Sums
from dgm_jax.models.patch_filters import GROUP, PatchFilters
from dgm_jax.training.feature_sums import FeatureSums

_PREDICTED_AT_ONCE = 8 * GROUP

GIVES_AWAY = "sums of features are kept, by which single training images can be recognised (docs/privacy.md)"
_GRAM_REMAINS = (
    "the Gram matrix of the analytic reading, one sum over the {} of all classes, still holds its share of them"
)
_FILTERS_REMAIN = "the filters of the analytic reading, which were found in the images of the run's first task, stay"


@dataclass(frozen=True)
class FeatureMemory:
    """What one seed keeps; no image is among it."""

    sums: Sums  # float32, on the host.
    filters: PatchFilters | None = None  # None before the first task, and for vectors.

    def to_tree(self) -> Tree:
        """The filters and the sums; of the Gram matrix, which is symmetric, a half."""
        gram = self.sums.gram[np.triu_indices(len(self.sums.gram))]
        filters = {} if self.filters is None else {"filters": dict(vars(self.filters))}
        return filters | {"gram": gram, "class_sums": self.sums.of_class, "counts": self.sums.counts}

    @classmethod
    def from_tree(cls, tree: Tree, n_classes: int) -> "FeatureMemory":
        """Undoes `to_tree`; there is room for the classes of the stream, which may be more than before, or fewer."""
        n_features = tree["class_sums"].shape[1]
        gram = np.zeros((n_features, n_features), np.float32)
        gram[np.triu_indices(n_features)] = tree["gram"]
        of_class, counts = tree["class_sums"][:n_classes], tree["counts"][:n_classes]
        new = (0, n_classes - len(counts))
        sums = Sums(gram + np.triu(gram, 1).T, np.pad(of_class, [new, (0, 0)]), np.pad(counts, new))
        return cls(sums, PatchFilters(**tree["filters"]) if "filters" in tree else None)

    def of_classes(self, kept: Sequence[int]) -> "FeatureMemory":
        """With the sums and counts of these classes only, in this order; the Gram matrix stays that of all images."""
        rows = list(kept)
        sums = Sums(self.sums.gram, self.sums.of_class[rows], self.sums.counts[rows])
        return replace(self, sums=sums)

    @property
    def remains(self) -> tuple[str, ...]:
        """What `of_classes` leaves of the other classes, for a person."""
        if self.filters is None:
            return (_GRAM_REMAINS.format("vectors"),)
        return _GRAM_REMAINS.format("images"), _FILTERS_REMAIN

    def bytes(self) -> dict[str, int]:
        """Bytes by part: all that is needed to go on learning and to predict."""
        parts = self.to_tree()
        return {name: sum(np.asarray(array).nbytes for array in jax.tree.leaves(parts[name])) for name in parts}


def bytes_of_filters(n_filters: int, channels: int, n_classes: int) -> int:
    """Bytes of a `FeatureMemory` of this size; the images have `channels` channels, 1 or 3."""
    n = patch_filters.n_features(n_filters)
    return 4 * (n_filters * (patch_filters.WINDOW**2 * channels + 1) + n * (n + 1) // 2 + n_classes * (n + 1))


def filters_for(n_bytes: float, channels: int, n_classes: int) -> int:
    """The largest number of filters, at least 1, with which a `FeatureMemory` has at most `n_bytes`."""
    fit = itertools.takewhile(lambda n: bytes_of_filters(n, channels, n_classes) <= n_bytes, itertools.count(1))
    return max(fit, default=1)


class FeatureLearner:
    """Adds what a task shows to a `FeatureMemory`."""

    def __init__(self, setting: Setting) -> None:
        """Binds it to settings and devices."""
        own, self.are_vectors = setting.config.features, setting.are_vectors
        self.n_classes, self.n_filters = setting.n_classes, own.filters
        self.n_features = setting.image_shape[2] if self.are_vectors else patch_filters.n_features(own.filters)
        self.sums = FeatureSums(self.n_features, setting.devices, mirror=own.mirror, backend=setting.backend)

    def new(self) -> FeatureMemory:
        """No filters yet, and sums over no image."""
        return FeatureMemory(Sums.of_nothing(self.n_classes, self.n_features))

    def with_filters(self, memory: FeatureMemory, seed_key: jax.Array, images: np.ndarray) -> FeatureMemory:
        """Finds the filters in a task's images if there are none, so that those of the first task stay."""
        if memory.filters is not None or self.are_vectors:
            return memory
        key = derive_key(seed_key, Purpose.FILTERS)
        return replace(memory, filters=patch_filters.learn_filters(key, images, self.n_filters))

    def learn(
        self,
        memory: FeatureMemory,
        seed_key: jax.Array,
        images: np.ndarray,
        labels: np.ndarray,
        on_images: Callable[[int], None],
    ) -> FeatureMemory:
        """Learns a whole task: finds the filters if it is the first, and adds its images to the sums."""
        memory = self.with_filters(memory, seed_key, images)
        before = jax.tree.map(np.float64, memory.sums)
        sums = self.sums.with_images(before, memory.filters, images, labels, on_images)
        return replace(memory, sums=jax.tree.map(np.float32, sums))


class Features:
    """Features of images. Those asked for last are kept, because several classifiers read the same ones."""

    def __init__(self, filters: PatchFilters | None) -> None:
        """Binds it to filters; None: features of vectors are the vectors themselves."""
        self._filters, self.are_images = filters, filters is not None
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float32 [n, features] of images, or of scaled vectors."""
        if self._filters is None:
            return images.reshape(len(images), -1)
        if self._last[0] is not images:
            missing = -len(images) % _PREDICTED_AT_ONCE
            whole = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
            starts = range(0, len(whole), _PREDICTED_AT_ONCE)
            filters = jax.device_put(self._filters)
            parts = [patch_filters.features(filters, whole[i : i + _PREDICTED_AT_ONCE]) for i in starts]
            self._last = images, np.concatenate(jax.device_get(parts))[: len(images)]
        return self._last[1]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class FeatureClassifier:
    """A classifier that is linear in the features; it is solved for when it is first asked."""

    features: Features
    sums: Sums  # Of the classes seen.
    solve: Callable[[Sums], Solution]
    n_classes: int  # Of the whole stream.

    @cached_property
    def solution(self) -> Solution:
        """Weights and biases for the classes seen."""
        return self.solve(self.sums)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores [n, classes] of uint8 or float32 images, or scaled vectors; minus infinity for classes to come."""
        if self.features.are_images and images.dtype != np.uint8:
            images = to_uint8(images)
        scores = np.full((len(images), self.n_classes), -np.inf)
        scores[:, : len(self.sums.counts)] = self.features(images) @ self.solution.weights + self.solution.bias
        return scores


@dataclass(frozen=True, repr=False, kw_only=True)
class OfSums(Predicting):
    """A classifier that is read off sums, with all that it needs to predict."""

    classifier: FeatureClassifier

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores [n, classes], as those of `FeatureClassifier`."""
        return self.classifier.logits(images)


def classifiers(
    memory: FeatureMemory, n_seen: int, solutions: Mapping[str, Callable[[Sums], Solution]]
) -> dict[str, FeatureClassifier]:
    """A classifier of the first `n_seen` classes for each way to read one off the sums, by its name."""
    features, n_classes = Features(memory.filters), len(memory.sums.counts)
    sums = memory.sums.first(n_seen)
    return {name: FeatureClassifier(features, sums, solve, n_classes) for name, solve in solutions.items()}
