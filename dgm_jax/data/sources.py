"""Where data sets come from: scikit-learn's digits, TensorFlow Datasets folders (without TensorFlow), npz files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dgm_jax.data import tfds
from dgm_jax.data.classes import new_labels
from dgm_jax.data.dataset import DataError, Dataset, from_arrays

_DIGITS = tuple(map(str, range(10)))
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_DIGITS_SEED = 0

PathLike = str | os.PathLike[str]


def load(name: str, data_dir: PathLike | None = None, *, classes: Sequence[str] | None = None) -> Dataset:
    """Loads a data set by name into memory.

    Args:
      name: "digits" (8x8 grey, comes with scikit-learn, needs no files), or "mnist", "cifar10", "svhn", "imagenet32"
        (all of ImageNet at 32x32), read from TFDS folders in array_record format; TensorFlow is not needed.
      data_dir: the folder that holds `mnist/<version>/` and so on; the newest version is read.
      classes: names of the classes to keep (see `class_names`), which are labelled 0, 1, ... in this order; images of
        others are not decoded. By default all, with the labels that they are stored with.

    Returns:
      The data set, in stored order.

    Raises:
      DataError: for an unknown name or class, a class without images, or a folder that is missing, incomplete, damaged
        or in another format.
    """
    if name == "digits":
        return _load_digits(classes)
    return tfds.read_data_set(name, tfds.whole_folder(name, data_dir), classes)


def class_names(name: str, data_dir: PathLike | None = None) -> tuple[str, ...]:
    """Lists the classes of a data set, without reading its images.

    Args:
      name: as for `load`.
      data_dir: as for `load`.

    Returns:
      The names, sorted; where the data set names no classes, the numbers from "0", in order.

    Raises:
      DataError: as `load`.
    """
    if name == "digits":
        return _DIGITS
    folder = tfds.whole_folder(name, data_dir)
    names = tfds.label_names(name, tfds.open_builder(folder), folder)
    return tuple(names if names == [str(label) for label in range(len(names))] else sorted(names))


def from_npz(path: PathLike, *, name: str | None = None) -> Dataset:
    """Loads a data set from one npz file.

    Args:
      path: a file with the arrays x_train, y_train, x_test, y_test, as `from_arrays` wants them.
      name: what reports call the data set; the file's stem by default.

    Returns:
      The data set.

    Raises:
      DataError: if the file is missing, is not an npz file, lacks an array, holds pickled objects, or its arrays
        do not make a data set.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected an .npz file with the arrays {', '.join(_NPZ_KEYS)}.")
    advice = f"write it with np.savez(path, {', '.join(f'{key}=...' for key in _NPZ_KEYS)})"
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz file (or is cut short); {advice}.")
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickle could run code
            missing = [key for key in _NPZ_KEYS if key not in file.files]
            if missing:
                raise DataError(f"{path} has no {', '.join(missing)} (it has {', '.join(file.files)}); {advice}.")
            arrays = {key: file[key] for key in _NPZ_KEYS}
    except DataError:
        raise
    except Exception as error:  # A damaged file fails in zipfile, zlib, or NumPy's parser of headers, as it likes.
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds pickled Python objects, which are not read because a pickle can run code; "
                "save plain number arrays (a list of images of different sizes becomes an object array: resize them)."
            ) from error
        raise DataError(f"{path} is damaged ({error}); {advice}.") from error
    return from_arrays(**arrays, name=name or path.stem)


def _load_digits(classes: Sequence[str] | None) -> Dataset:
    """1797 real digits; a stratified 80/20 split by the fixed seed 0, each part in stored order."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    rows = train_test_split(np.arange(len(images)), test_size=0.2, random_state=_DIGITS_SEED, stratify=digits.target)
    new = new_labels(classes, _DIGITS, "of digits")
    train, test = (np.sort(part[np.isin(digits.target[part], list(new))]) for part in rows)
    y_train, y_test = ([new[label] for label in digits.target[part]] for part in (train, test))
    names = {new[label]: _DIGITS[label] for label in new}
    return from_arrays(images[train], y_train, images[test], y_test, name="digits", class_names=names)


# ---- TFDS folders: found, checked, read ----
