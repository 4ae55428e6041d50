"""Images that arrive without tasks: gathered until classes have enough of them to be learnt as a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from dgm_jax.data.dataset import DataError, Dataset, Images, from_scaled_arrays, rows_of


class Gathering:
    """Gathers images of any classes, and hands out each class once: when it has enough images."""

    def __init__(
        self,
        enough: int,
        *,
        known: Iterable[int] = (),
        class_names: Mapping[int, str] | None = None,
        name: str = "stream",
    ) -> None:
        """Begins with no images.

        Args:
          enough: images of a class, at least 2; the last fifth of them, at least one, are its test images.
          known: labels of classes that are learnt already, e.g. `load_memory(workdir).labels`.
          class_names: as for `from_arrays`.
          name: of the data sets that are handed out.

        Raises:
          DataError: if `enough` is below 2.
        """
        if enough < 2:
            raise DataError(f"enough={enough}: expected at least 2 images of a class, one to learn and one to test.")
        self.enough, self.class_names, self.name = enough, class_names, name
        self.known = set(known)  # Of these, images are dropped: a class is learnt once.
        self.waiting: dict[int, Images] = {}  # By label, as `add` takes them: uint8 [n, h, w, c], or float32 [n, d].

    def add(self, images: ArrayLike, labels: ArrayLike) -> Dataset | None:
        """Adds a batch; returns the classes that have enough images now, to be learnt as one task, or None.

        Args:
          images: [n, h, w, c] or [n, h, w], or vectors, floats [n, d], as `from_arrays` takes them; all batches of one
            shape.
          labels: integers [n].

        Raises:
          DataError: if a batch is not as described, or two classes have one name; nothing of it is gathered then.
        """
        batch = from_scaled_arrays(images, labels, images, labels, name=self.name)
        x_batch = batch.x_train[:, 0, 0] if batch.are_vectors else batch.x_train
        shapes = {own.shape[1:] for own in self.waiting.values()} | {x_batch.shape[1:]}
        if len(shapes) > 1:
            raise DataError(f"{self.name}: batches have images of shapes {sorted(shapes)}; expected one shape.")
        waiting = dict(self.waiting)
        for label, rows in rows_of(batch.y_train).items():
            if label not in self.known:
                waiting[label] = np.concatenate([waiting.get(label, x_batch[:0]), x_batch[rows]])
        ready = {label: own for label, own in sorted(waiting.items()) if len(own) >= self.enough}
        dataset = self._dataset(ready) if ready else None  # It may raise, and then no image is lost.
        self.known |= set(ready)
        self.waiting = {label: own for label, own in waiting.items() if label not in ready}
        return dataset

    def _dataset(self, ready: Mapping[int, Images]) -> Dataset:
        x, y = np.concatenate(list(ready.values())), np.repeat(list(ready), [len(own) for own in ready.values()])
        test = np.concatenate([np.arange(len(own)) >= len(own) - max(1, len(own) // 5) for own in ready.values()])
        return from_scaled_arrays(x[~test], y[~test], x[test], y[test], name=self.name, class_names=self.class_names)
