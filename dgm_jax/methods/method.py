"""What a baseline is: something that learns tasks one after the other, classifies, and can be saved between tasks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np

from dgm_jax.config import Config
from dgm_jax.training.classifier import init_classifier, predict_logits

Tree = Any


class Watch:
    """Hears how far a task is; this one does nothing with it."""

    def moved(
        self,
        phase: str,
        done: float,
        total: float,
        *,
        epoch: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """`done` of `total` units of a phase, in training of the epoch if there are several; means since the last."""

    def epoch_ended(self, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """An epoch of a task is over; `metrics` are means over its iterations."""

    def consolidated(self, metrics: Mapping[str, float]) -> None:
        """The classifier that will be asked has learnt the task; `metrics` are means over all of its steps."""


@dataclass(frozen=True)
class Setting:
    """What is known of a stream before its first task."""

    config: Config
    devices: Sequence[jax.Device]
    backend: str
    image_shape: tuple[int, int, int]
    stored_shape: tuple[int, ...]  # Of the images before they were resized.
    tasks: tuple[tuple[int, ...], ...]  # Class indices.
    counts: tuple[tuple[int, ...], ...]  # Training images of each class of each task.

    @property
    def n_classes(self) -> int:
        """Of the whole stream."""
        return sum(map(len, self.tasks))

    def bytes_of(self, n_images: int) -> int:
        """What so many images take as the data set holds them."""
        return n_images * math.prod(self.stored_shape)

    def seen(self, task: int) -> np.ndarray:
        """The classes met once a task is learnt, bool [classes]."""
        return np.arange(self.n_classes) < sum(map(len, self.tasks[: task + 1]))


class Method(ABC):
    """A method of class-incremental learning."""

    paper: ClassVar[str]  # The paper that it is from, and what differs here.

    def __init__(self, setting: Setting) -> None:
        """Begins before the first task."""
        self.setting, self.config = setting, setting.config

    def plan(self, task: int) -> tuple[int, int]:
        """How many epochs training on a task takes, and how many mini-batches each; (1, 1) of what has none."""
        del task
        return 1, 1

    @abstractmethod
    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Learns a task.

        Args:
          task: its number.
          images: uint8 [n, h, w, c], of the task's classes.
          labels: class indices [n].
          key: a PRNG key.
          watch: is told how far each phase is.
        """

    @abstractmethod
    def logits(self, task: int, images: np.ndarray) -> np.ndarray:
        """Scores uint8 images for every class, [n, classes]; the highest is the prediction."""

    @abstractmethod
    def to_tree(self) -> Tree:
        """All that later tasks need, as arrays."""

    @abstractmethod
    def restore(self, tree: Tree, finished_tasks: int) -> None:
        """Undoes `to_tree`."""

    @abstractmethod
    def memory_bytes(self) -> dict[str, int]:
        """Bytes kept of old classes, by part, "total" among them; the classifier itself does not count."""


class ClassifierMethod(Method):
    """A method whose state is one classifier, of the discriminator's network."""

    def __init__(self, setting: Setting) -> None:
        """Begins with a fresh classifier."""
        super().__init__(setting)
        self.classifier = init_classifier(
            jax.random.fold_in(jax.random.key(self.config.seed), 0),
            self.config,
            channels=setting.image_shape[2],
            n_classes=setting.n_classes,
        )

    def plan(self, task: int) -> tuple[int, int]:
        """As many steps for every task, whatever its size."""
        del task
        return 1, self.config.consolidation_steps

    def logits(self, task: int, images: np.ndarray) -> np.ndarray:
        """The class head's, over the classes seen."""
        return predict_logits(
            self.classifier.params,
            self.classifier.statistics,
            images,
            self.setting.seen(task),
            network=self.config.classifier_network,
        )

    def to_tree(self) -> Tree:
        """The classifier; what else there is, subclasses add."""
        return {"params": self.classifier.params, "statistics": self.classifier.statistics}

    def restore(self, tree: Tree, finished_tasks: int) -> None:
        """Takes the classifier back."""
        self.classifier = replace(self.classifier, params=tree["params"], statistics=tree["statistics"])

    def memory_bytes(self) -> dict[str, int]:
        """Nothing."""
        return {"total": 0}


class ImageMemory(ClassifierMethod):
    """A classifier, and real images kept of old classes."""

    def __init__(self, setting: Setting) -> None:
        """Begins with no images."""
        super().__init__(setting)
        self.images = np.zeros((0, *setting.image_shape), np.uint8)
        self.labels = np.zeros(0, np.int32)

    def to_tree(self) -> Tree:
        """The classifier and the images."""
        return super().to_tree() | {"images": self.images, "labels": self.labels}

    def restore(self, tree: Tree, finished_tasks: int) -> None:
        """Takes both back."""
        super().restore(tree, finished_tasks)
        self.images, self.labels = tree["images"], tree["labels"]

    def memory_bytes(self) -> dict[str, int]:
        """The images, as the data set holds them."""
        total = self.setting.bytes_of(len(self.images))
        return {"images": total, "total": total}
