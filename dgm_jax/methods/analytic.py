"""Ridge regression on fixed features, from sums over images: nothing is trained, and no image is kept.

Relatives: ACIL (Zhuang et al. 2022), which first trains a network on many classes; Deep SLDA (Hayes and Kanan 2020),
whose reading `slda` comes from the same sums; RanDumb (Prabhu et al. 2024), with random features. Here filters are
found in the first task (models/patch_filters.py), and then never change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from dgm_jax.config import MethodSettings, setting
from dgm_jax.errors import ConfigError
from dgm_jax.methods.method import InProgress, Learnt, Method, Plan, Setting, TaskInput, Tree, Watch
from dgm_jax.models.patch_filters import WINDOW, PatchFilters, features, learn_filters
from dgm_jax.models.prediction import to_unit_range
from dgm_jax.training.devices import AXIS, data_parallel, share
from dgm_jax.training.epoch import padded

_IMAGES_PER_EPOCH = 4096  # A run can be interrupted between two epochs.
_AT_ONCE = 256  # Images in a call.
_PATCHES = 200_000
_RIDGES = np.logspace(-5, 1, 25)  # Tried ridges, as multiples of the mean eigenvalue.
_SLDA_SHRINKAGE = 1e-4  # That of Hayes and Kanan 2020.


@dataclass(frozen=True, kw_only=True)
class AnalyticSettings(MethodSettings):
    """The settings of analytic."""

    filters: int = setting(100, above=0)
    """Filters that are found in the first task; an image has eight features of each."""
    mirror: bool = setting(False)
    """Add up the features of each image's mirror image, too."""


@struct.dataclass
class Sums:
    """Sums over the images seen."""

    gram: Any  # [features, features]: products of all pairs of features.
    of_class: Any  # [classes, features]: features of each class.
    counts: Any  # [classes]: images of each class.


@dataclass(frozen=True)
class State:
    """What one seed knows between two tasks."""

    sums: Sums  # float32, on the host; of the Gram matrix, `to_tree` keeps a half.
    filters: PatchFilters | None = None  # None before the first task.


@dataclass
class Training(InProgress[State]):
    """A task in progress, of all seeds side by side."""

    sums: list[Sums]  # Of each seed, float64 on the host: those of earlier tasks, and of this one's images so far.


class Analytic(Method[State, Training]):
    """Keeps sums of features. Three classifiers are read off them, in closed form."""

    paper = (
        "closed-form ridge regression on single-layer features (Coates et al. 2011); related: ACIL (Zhuang et al. 2022)"
    )
    readings = ("analytic", "slda", "ncm")
    checkpoints_kept = 2  # Each holds the Gram matrix.
    settings = AnalyticSettings

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings and devices; raises ConfigError if images are smaller than a filter."""
        super().__init__(setting)
        if min(setting.image_shape[:2]) < WINDOW:
            raise ConfigError(f"image_size={setting.image_shape[0]}: method analytic needs at least {WINDOW}")
        add = partial(_add, mirror=self.method_settings.mirror, n_devices=len(setting.devices))
        self._add = data_parallel(add, setting.devices, setting.backend)

    @property
    def n_features(self) -> int:
        """Features of an image."""
        return 8 * self.method_settings.filters

    def new_state(self, key: jax.Array) -> State:
        """No filters yet, and sums of nothing."""
        return State(_no_sums(self.setting.n_classes, self.n_features))

    def plan(self, task: int, states: Sequence[State]) -> Plan:
        """One pass over the images."""
        n = sum(self.setting.counts[task])
        return Plan(epochs=-(-n // _IMAGES_PER_EPOCH), steps=-(-min(n, _IMAGES_PER_EPOCH) // _AT_ONCE))

    def begin(self, task: int, inputs: Sequence[TaskInput[State]], watch: Watch) -> Training:
        """Finds the filters, if this is the first task."""
        states, sums = [], []
        for own in inputs:
            state = own.state
            if state.filters is None:
                with watch.phase("filters"):
                    key, n = jax.random.fold_in(own.key, 0), self.method_settings.filters
                    state = replace(state, filters=learn_filters(key, own.images, n, n_patches=_PATCHES))
            states.append(state)
            so_far = Sums(**own.in_progress["sums"]) if own.in_progress else state.sums
            sums.append(jax.tree.map(np.float64, so_far))
        return Training(task, inputs, states, sums)

    def train_epoch(self, training: Training, epoch: int, watch: Watch) -> list[dict[str, float]]:
        """Adds some of the images to the sums."""
        rows = slice(epoch * _IMAGES_PER_EPOCH, (epoch + 1) * _IMAGES_PER_EPOCH)
        for run, (own, state) in enumerate(zip(training.inputs, training.states, strict=True)):
            images, labels = own.images[rows], own.labels[rows]
            added = _no_sums(self.setting.n_classes, self.n_features)
            with watch.phase("train", len(images), epoch=epoch) as on_images:
                for start in range(0, len(images), _AT_ONCE):
                    part = padded(images[start : start + _AT_ONCE], labels[start : start + _AT_ONCE], _AT_ONCE)
                    added = self._add(added, state.filters, part.images, part.labels, part.count)
                    on_images(int(part.count))
            # Sums of few images are exact enough in float32; those of many are added up in float64.
            training.sums[run] = jax.tree.map(np.add, training.sums[run], jax.device_get(added))
        return [{} for _ in training.inputs]

    def in_progress(self, training: Training) -> list[Tree]:
        """The sums so far of each seed."""
        return [{"sums": vars(sums)} for sums in training.sums]

    def end(self, training: Training, watch: Watch) -> list[Learnt[State]]:
        """Reads the classifiers off the sums."""
        learnt = []
        for state, sums in zip(training.states, training.sums, strict=True):
            state = replace(state, sums=jax.tree.map(np.float32, sums))
            with watch.phase("solve"):
                readings = self.classifiers(training.task, state)
            learnt.append(Learnt(state, readings))
        return learnt

    def classifiers(self, task: int, state: State) -> dict[str, "Linear"]:
        """The classifiers of the classes seen once a task is learnt."""
        n_seen = self.setting.n_seen(task)
        of = _Features(state.filters)
        own = jax.tree.map(np.float64, state.sums)
        sums = Sums(own.gram, own.of_class[:n_seen], own.counts[:n_seen])
        read = {"analytic": ridge_regression, "slda": linear_discriminant, "ncm": nearest_mean}
        return {name: Linear(of, *solve(sums), self.setting.n_classes) for name, solve in read.items()}

    def to_tree(self, state: State) -> tuple[Tree, dict[str, Any]]:
        """The filters and the sums; of the Gram matrix, which is symmetric, a half."""
        gram = state.sums.gram[np.triu_indices(self.n_features)]
        filters = {} if state.filters is None else {"filters": dict(vars(state.filters))}
        return filters | {"gram": gram, "of_class": state.sums.of_class, "counts": state.sums.counts}, {}

    def from_tree(self, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> State:
        """Undoes `to_tree`; there is room for classes that are new in the stream."""
        gram = np.zeros((self.n_features, self.n_features), np.float32)
        gram[np.triu_indices(self.n_features)] = tree["gram"]
        new = [(0, self.setting.n_classes - len(tree["counts"]))]
        sums = Sums(gram + np.triu(gram, 1).T, np.pad(tree["of_class"], [*new, (0, 0)]), np.pad(tree["counts"], new))
        return State(sums, PatchFilters(**tree["filters"]) if "filters" in tree else None)

    def memory_bytes(self, state: State) -> dict[str, int]:
        """Bytes of all that is needed to go on learning."""
        tree, _ = self.to_tree(state)
        sizes = {name: sum(np.asarray(array).nbytes for array in jax.tree.leaves(own)) for name, own in tree.items()}
        return sizes | {"total": sum(sizes.values())}


class _Features:
    """Features of images. Those asked for last are kept, because three classifiers read the same ones."""

    def __init__(self, filters: PatchFilters) -> None:
        self._filters = filters
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if self._last[0] is not images:
            whole = np.concatenate([images, np.zeros((-len(images) % _AT_ONCE, *images.shape[1:]), images.dtype)])
            parts = [_of_images(self._filters, part) for part in np.split(whole, max(1, len(whole) // _AT_ONCE))]
            self._last = images, np.concatenate(jax.device_get(parts))[: len(images)]
        return self._last[1]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Linear:
    """A classifier that is linear in the features."""

    of: Any
    weights: np.ndarray  # [features, classes seen]
    bias: np.ndarray  # [classes seen]
    n_classes: int  # Of the whole stream.

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of uint8 images, float32 [n, features]."""
        return self.of(images)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """A score for each class; minus infinity for classes that are not learnt yet."""
        scores = np.full((len(images), self.n_classes), -np.inf)
        scores[:, : len(self.bias)] = self.features(images) @ self.weights + self.bias
        return scores


def ridge_regression(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Weights [features, classes] and biases [classes] of ridge regression on the classes as one-hot vectors.

    Features are scaled to the same variance. The ridge is that of the least generalised cross-validation (Golub, Heath
    and Wahba 1979), which needs the sums only.
    """
    n, mean, gram, between = _centred(sums)
    scale = np.sqrt(np.maximum(np.diag(gram) / n, 1e-12))
    variances, directions = np.linalg.eigh(gram / np.outer(scale, scale))
    variances = np.maximum(variances, 0)
    along = directions.T @ (between / scale[:, None])
    shares = sums.counts / n
    total = n * np.sum(shares * (1 - shares))  # Of the squared distances of the one-hot vectors from their mean.

    def score(ridge: float) -> float:
        shrunk = variances + ridge
        explained = np.sum((variances + 2 * ridge)[:, None] * (along / shrunk[:, None]) ** 2)
        return float((total - explained) / (1 - np.sum(variances / shrunk) / n) ** 2)

    ridge = min(_RIDGES * variances.mean(), key=score)
    weights = directions @ (along / (variances + ridge)[:, None]) / scale[:, None]
    return weights, shares - mean @ weights


def linear_discriminant(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of streaming linear discriminant analysis: one covariance for all classes."""
    n, mean, gram, _ = _centred(sums)
    means = sums.of_class / sums.counts[:, None]
    apart = means - mean
    covariance = (gram - apart.T @ (sums.counts[:, None] * apart)) / n
    shrunk = (1 - _SLDA_SHRINKAGE) * covariance + _SLDA_SHRINKAGE * np.eye(len(mean))
    weights = np.linalg.solve(shrunk, means.T)
    return weights, -np.sum(means.T * weights, axis=0) / 2


def nearest_mean(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases with which the nearest class mean scores highest."""
    means = sums.of_class / sums.counts[:, None]
    return means.T, -np.sum(means**2, axis=1) / 2


def _centred(sums: Sums) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Images, mean features, and about this mean: the Gram matrix, and the products of features and classes."""
    n = float(sums.counts.sum())
    mean = sums.of_class.sum(axis=0) / n
    gram = sums.gram - n * np.outer(mean, mean)
    return n, mean, gram, (sums.of_class - sums.counts[:, None] * mean).T


def _no_sums(n_classes: int, n_features: int) -> Sums:
    zeros = partial(np.zeros, dtype=np.float32)
    return Sums(zeros((n_features, n_features)), zeros((n_classes, n_features)), zeros(n_classes))


def _add(
    sums: Sums,
    filters: PatchFilters,
    images: jax.Array,
    labels: jax.Array,
    count: jax.Array,
    shard: jax.Array,
    *,
    mirror: bool,
    n_devices: int,
) -> Sums:
    """Adds the first `count` of some uint8 images to the sums, each device its share."""
    images, labels = share(images, shard, n_devices), share(labels, shard, n_devices)
    is_there = shard * len(images) + jnp.arange(len(images)) < count
    of_class = jax.nn.one_hot(labels, len(sums.counts)) * is_there[:, None]
    for seen in (images, images[:, :, ::-1]) if mirror else (images,):
        rows = _of_images(filters, seen) * is_there[:, None]
        with jax.default_matmul_precision("highest"):
            added = lax.psum(Sums(rows.T @ rows, of_class.T @ rows, of_class.sum(axis=0)), AXIS)
        sums = jax.tree.map(jnp.add, sums, added)
    return sums


@jax.jit
def _of_images(filters: PatchFilters, images: jax.Array) -> jax.Array:
    """The square roots of the features of uint8 images: their large values would otherwise decide everything."""
    return jnp.sqrt(features(filters, to_unit_range(images)))
