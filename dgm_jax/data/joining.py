"""Joins data sets into one, for streams with more tasks than a single data set has classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgm_jax.data.dataset import DataError, Dataset, Images, from_scaled_arrays


def join(datasets: Sequence[Dataset], size: int) -> Dataset:
    """Joins data sets: the classes of the first come first, then those of the second, and so on.

    Classes are numbered from 0 again, and the name of each begins with the name of its data set ("mnist 3"). All images
    are scaled to `size` x `size`. If any data set has colour images, grey images get three equal channels.

    Args:
      datasets: two or more data sets with different names.
      size: height and width of the result in pixels, >= 1.

    Raises:
      DataError: if there are fewer than two data sets, or two have the same name, or one holds vectors.
    """
    names = [dataset.name for dataset in datasets]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"{', '.join(names) or 'nothing'}: expected two or more different data sets to join.")
    if vectors := [dataset.name for dataset in datasets if dataset.are_vectors]:
        raise DataError(f"{', '.join(vectors)}: vectors cannot be joined; expected images.")
    channels = max(dataset.x_train.shape[-1] for dataset in datasets)
    arrays: dict[str, list[np.ndarray]] = {"x_train": [], "y_train": [], "x_test": [], "y_test": []}
    class_names: dict[int, str] = {}
    for dataset in datasets:
        resized, first = dataset.resized(size), len(class_names)
        for part in ("x_train", "x_test"):
            arrays[part].append(_with_channels(getattr(resized, part), channels))
        for part in ("y_train", "y_test"):
            arrays[part].append(first + np.searchsorted(dataset.labels, getattr(dataset, part)))
        for number, label in enumerate(dataset.labels):
            class_names[first + number] = f"{dataset.name} {dataset.class_names[label]}"
    return from_scaled_arrays(
        **{part: np.concatenate(parts) for part, parts in arrays.items()},
        name="+".join(names),
        class_names=class_names,
    )


def _with_channels(images: Images, channels: int) -> Images:
    return images if images.shape[-1] == channels else np.repeat(images, channels, axis=-1)
