"""Loads data sets: the digits of this package, folders of TensorFlow Datasets (`tfds`), npz files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dgm_jax.data import tfds
from dgm_jax.data.classes import new_labels
from dgm_jax.data.dataset import DataError, Dataset, from_arrays
from dgm_jax.errors import is_of_environment
from dgm_jax.system.files import PathLike

_DIGITS = tuple(map(str, range(10)))
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_MEDMNIST_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def load(
    name: str,
    data_dir: PathLike | None = None,
    *,
    classes: Sequence[str] | None = None,
    train_per_class: int | None = None,
    size: int | None = None,
) -> Dataset:
    """Loads a data set by name into memory.

    Args:
      name: "digits" (1,797 grey images, 8x8, which come with this package), or a data set that is read from a TFDS
        folder in array_record format, without TensorFlow: "mnist", "fashion" (Fashion-MNIST), "emnist" (its balanced
        split), "cifar10", "cifar100", "svhn", "imagenet32" (all of ImageNet at 32x32), or the name that TFDS gives to
        any other one with one image and one class label for each example.
      data_dir: the folder that holds `mnist/<version>/` and so on; the newest version is read.
      classes: names of the classes to keep (see `class_names`); they are labelled 0, 1, ... in this order, and images
        of other classes are not decoded. By default all classes are kept, with their stored labels.
      train_per_class: keep only the first N training images of each class, as `Dataset.first_per_class` does; the
        others are not decoded. None: all.
      size: cut the images of a TFDS folder to their central squares and scale them to this height and width as they
        are read; needed if they are of different sizes. None: as they are stored.

    Returns:
      The data set, in stored order.

    Raises:
      DataError: if the name or a class is unknown, a class has no images, or the folder is missing, incomplete,
        damaged, in another format or of another kind of examples.
    """
    if name == "digits":
        digits = _load_digits(classes)
        return digits if train_per_class is None else digits.first_per_class(train_per_class)
    if train_per_class is not None and train_per_class < 1:
        raise DataError(f"train_per_class={train_per_class}: expected at least 1.")
    return tfds.read_data_set(name, tfds.whole_folder(name, data_dir), classes, train_per_class, size)


def class_names(name: str, data_dir: PathLike | None = None) -> tuple[str, ...]:
    """Lists the names of the classes of a data set, without reading its images.

    Takes and raises what `load` does.

    Returns:
      The names, sorted; if the data set has no names, the numbers from "0", in order.
    """
    if name == "digits":
        return _DIGITS
    folder = tfds.whole_folder(name, data_dir)
    names = tfds.label_names(name, tfds.open_builder(folder), folder)
    return tuple(names if names == [str(label) for label in range(len(names))] else sorted(names))


def from_npz(path: PathLike, *, name: str | None = None) -> Dataset:
    """Loads a data set of images or vectors from one npz file.

    Args:
      path: a file with the arrays x_train, y_train, x_test and y_test, as `from_arrays` takes them, or under the names
        that MedMNIST has. It may hold `class_names`, too: texts, one for each of the labels 0, 1, ...
      name: the name of the data set in reports; by default the file name without its suffix.

    Returns:
      The data set.

    Raises:
      DataError: if the file is missing, is not an npz file, lacks an array, holds pickled objects, or holds arrays that
        `from_arrays` refuses.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {found}; expected an .npz file with the arrays {', '.join(_NPZ_KEYS)}.")
    advice = f"write it with np.savez(path, {', '.join(f'{key}=...' for key in _NPZ_KEYS)})"
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz file (or is cut short); {advice}.")
    try:
        with np.load(path, allow_pickle=False) as file:  # A pickle could run code.
            names = file.files
            is_medmnist = set(_MEDMNIST_KEYS) <= set(names) and not set(_NPZ_KEYS) & set(names)
            stored = _MEDMNIST_KEYS if is_medmnist else _NPZ_KEYS
            arrays = {key: file[name] for key, name in zip(_NPZ_KEYS, stored, strict=True) if name in names}
            texts = file["class_names"] if "class_names" in names else None
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise different errors for damaged files.
        if is_of_environment(error):
            raise
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds pickled Python objects, which are not read because a pickle can run code; "
                "save plain number arrays (a list of images of different sizes becomes an object array: resize them)."
            ) from error
        raise DataError(f"{path} is damaged ({error}); {advice}.") from error
    missing = [key for key in _NPZ_KEYS if key not in arrays]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)} (it has {', '.join(names)}); {advice}.")
    if texts is not None:
        labels = arrays["y_train"] if arrays["y_train"].dtype.kind in "iu" else np.zeros(1, int)
        lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
        if texts.ndim != 1 or texts.dtype.kind != "U" or len(texts) <= highest or lowest < 0:
            raise DataError(
                f"{path}: class_names is {texts.dtype} of shape {texts.shape}, for labels {lowest}..{highest}; "
                "expected texts, one for each of the labels 0, 1, ..."
            )
    dataset = from_arrays(**arrays, name=name or path.stem, class_names=None if texts is None else texts.tolist())
    unused = sorted(set(names) - {*stored, "class_names"})
    notes = (f"arrays of {path.name} that are not used: {', '.join(unused)}",) * bool(unused)
    return replace(dataset, notes=(*dataset.notes, *notes))


def _load_digits(classes: Sequence[str] | None) -> Dataset:
    """Real digits, split 80/20 with equal shares of each class; digits.txt says where they come from."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        arrays = {key: file[key] for key in _NPZ_KEYS}
    new = new_labels(classes, _DIGITS, "of digits")
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        chosen = np.isin(labels, list(new))
        arrays[f"x_{part}"] = np.round(images[chosen] * (255 / 16)).astype(np.uint8)  # Stored as 0..16.
        arrays[f"y_{part}"] = np.array([new[label] for label in labels[chosen].tolist()])
    names = {new[label]: _DIGITS[label] for label in new}
    return from_arrays(**arrays, name="digits", class_names=names)
