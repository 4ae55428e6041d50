"""Finds, checks and reads folders of TensorFlow Datasets (TFDS) in array_record format, without TensorFlow.

A data set is named by its key in `TFDS_NAMES`, and `data_dir` is the folder that holds `<tfds name>/<version>/`.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.data.classes import few, new_labels
from dgm_jax.data.dataset import DataError, Dataset, Images, Labels, from_scaled_arrays
from dgm_jax.errors import is_of_environment, naming_extras
from dgm_jax.system.files import PathLike

# The name that TFDS uses for each data set.
TFDS_NAMES: Mapping[str, str] = {
    "mnist": "mnist",
    "fashion": "fashion_mnist",
    "cifar10": "cifar10",
    "svhn": "svhn_cropped",
    "imagenet32": "imagenet_resized/32x32",
}

NAMES = ("digits", *TFDS_NAMES)  # All data sets that `sources.load` knows by name.

# Suffix of the folder that `prepare` writes beside a tfrecord folder of the same version, which it does not change.
REWRITTEN = "-array_record"

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_ROWS_AT_ONCE = 4096  # Reading many rows at once is several times faster; a limit keeps memory small.


def splits(name: str) -> tuple[str, str]:
    """Returns the names of the training split and the test split of a data set."""
    return "train", "validation" if name == "imagenet32" else "test"  # ImageNet's test images have no labels.


def whole_folder(name: str, data_dir: PathLike | None) -> Path:
    """Finds the folder of a data set as `find_version` does, and checks it as `check_folder` does.

    Raises:
      DataError: if the name is unknown, or the folder is missing, incomplete, damaged or in another format.
    """
    if name not in TFDS_NAMES:
        raise DataError(f"unknown data set {name!r}; expected one of {', '.join(NAMES)} (or from_npz for a file).")
    folder = find_version(name, data_dir)
    check_folder(name, folder)
    return folder


def find_version(name: str, data_dir: PathLike | None) -> Path:
    """Finds the newest `data_dir/<tfds name>/<version>`; if `prepare` has rewritten that version, the rewritten folder.

    Raises:
      DataError: if there is none.
    """
    tfds_name = TFDS_NAMES[name]
    how = (
        f"give --data-dir DIR holding {tfds_name}/<version>/, "
        f"or make one with `python -m dgm_jax prepare {name} --data-dir DIR`"
    )
    if data_dir is None:
        raise DataError(f"{name} is read from disk and no data_dir was given; {how}.")
    if not Path(data_dir).is_dir():
        raise DataError(f"data_dir={os.fspath(data_dir)!r} is not a folder; {how}.")
    versions = list_versions(name, data_dir)
    if not versions:
        found = ", ".join(sorted(entry.name for entry in Path(data_dir).iterdir())[:8]) or "nothing"
        raise DataError(f"data_dir={os.fspath(data_dir)!r} has no {tfds_name}/<version>/ (it holds: {found}); {how}.")
    return versions[-1]


def list_versions(name: str, data_dir: PathLike) -> list[Path]:
    """Lists the version folders of a TFDS data set, oldest first."""
    parent = Path(data_dir) / TFDS_NAMES[name]
    pattern = re.compile(rf"(\d+)\.(\d+)\.(\d+)({re.escape(REWRITTEN)})?")
    matches = [pattern.fullmatch(entry.name) for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    # As numbers, because "10.0.0" is newer than "9.0.0".
    found = sorted(((*map(int, m.group(1, 2, 3)), bool(m.group(4))), m.group(0)) for m in matches if m)
    return [parent / folder for _, folder in found]


def read_info(folder: Path) -> dict[str, Any]:
    """Reads dataset_info.json of a TFDS folder.

    Raises:
      DataError: if it, or features.json (which is needed to decode records), is missing or not JSON.
    """
    contents: dict[str, Any] = {}
    for file in ("features.json", "dataset_info.json"):
        try:
            contents = json.loads((folder / file).read_text("utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{folder} has no {file}, so the data set is incomplete; {_again(folder)}.") from error
        except (OSError, ValueError) as error:
            if is_of_environment(error):
                raise
            raise DataError(f"{folder / file} cannot be read ({error}); {_again(folder)}.") from error
    return contents


def check_folder(name: str, folder: Path) -> None:
    """Checks, before any image is decoded, that a TFDS folder is complete and readable without TensorFlow.

    Raises:
      DataError: if its format is not array_record, or a split, a shard or a record is missing.
    """
    info = read_info(folder)
    file_format = info.get("fileFormat", "tfrecord")  # TFDS does not write its default.
    if file_format != "array_record":
        data_dir = folder.parents[1 + TFDS_NAMES[name].count("/")]
        raise DataError(
            f"{folder} is in {file_format} format, and reading {file_format} needs TensorFlow; rewrite it once: "
            f"`python -m pip install tensorflow-cpu importlib_resources`, then `python -m dgm_jax prepare {name} "
            f"--data-dir {data_dir}`; or give another --data-dir that holds array_record files."
        )
    import_tfds()
    lengths = {split["name"]: [int(n) for n in split.get("shardLengths", [])] for split in info.get("splits", [])}
    for split in splits(name):
        if not sum(lengths.get(split, [])):
            raise DataError(
                f"{folder} has no {split} images (splits: {', '.join(lengths) or 'none'}); {_again(folder)}."
            )
        _check_shards(folder, split, lengths[split])


def _check_shards(folder: Path, split: str, lengths: list[int]) -> None:
    from array_record.python.array_record_module import ArrayRecordReader

    pattern = re.compile(rf".+-{split}\.array_record-\d{{5}}-of-\d{{5}}")
    shards = sorted(entry for entry in folder.iterdir() if pattern.fullmatch(entry.name))
    if len(shards) != len(lengths):
        raise DataError(
            f"{folder} has {len(shards)} {split} shards ({', '.join(s.name for s in shards[:4]) or 'none'}), "
            f"dataset_info.json counts {len(lengths)}; {_again(folder)}."
        )
    for shard, expected in zip(shards, lengths, strict=True):
        try:
            reader = ArrayRecordReader(str(shard))
            records = int(reader.num_records())
            reader.close()
        except (RuntimeError, ValueError) as error:
            if is_of_environment(error):
                raise
            raise DataError(f"{shard} is truncated or damaged ({error}); {_again(folder)}.") from error
        if records != expected:
            raise DataError(f"{shard} has {records} records, dataset_info.json counts {expected}; {_again(folder)}.")


def _again(folder: Path) -> str:
    return f"copy {folder} again, or remove it and prepare it again"


@naming_extras()
def import_tfds() -> Any:
    """Imports TensorFlow Datasets. Called only where it is needed: importing is slow, and other sources do without.

    Raises:
      MissingExtra: if tensorflow-datasets or array_record is not installed.
    """
    import array_record  # noqa: F401
    import tensorflow_datasets

    logging.getLogger("absl").setLevel(logging.ERROR)  # Otherwise it warns at every read that OpenCV is faster.
    return tensorflow_datasets


def open_builder(folder: Path) -> Any:
    """Opens a folder with TFDS; the builder knows the features of the data set and reads its splits."""
    return import_tfds().builder_from_directory(os.fspath(folder))


def label_names(name: str, builder: Any, folder: Path) -> list[str]:
    """Returns the names of the stored labels 0, 1, ...

    Raises:
      DataError: if the data set has no images or no labels.
    """
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise DataError(f"{folder} has the features {', '.join(features)}; expected image and label.")
    names = list(getattr(features["label"], "names", None) or [])
    if name == "cifar10" and names == [str(i) for i in range(10)]:  # Some versions are stored without names.
        return list(_CIFAR10)
    return names


def read_data_set(name: str, folder: Path, classes: Sequence[str] | None, train_per_class: int | None) -> Dataset:
    """Reads both splits of a folder that `check_folder` accepts; `sources.load` says what it returns.

    Raises:
      DataError: if a class is unknown or has no images, images are not uint8 of one shape, or a file is damaged.
    """
    builder = open_builder(folder)
    names = label_names(name, builder, folder)
    image = builder.info.features["image"]
    dtype = np.dtype(image.np_dtype)
    if len(image.shape) != 3 or None in image.shape or dtype != np.uint8:
        raise DataError(
            f"{folder} has images of shape {image.shape} and type {dtype}; expected a fixed (h, w, c) of uint8."
        )
    new = None if classes is None else new_labels(classes, names, f"of {name}")
    limits = (train_per_class, None)  # Of test images, all are read.
    parts = [_read_split(builder, *of, folder, new) for of in zip(splits(name), limits, strict=True)]
    for (_, labels), split in zip(parts, splits(name), strict=True):
        missing = [label for i, label in enumerate(classes or ()) if i not in labels]
        if missing:
            raise DataError(f"{folder} has no {split} images of {few(missing)}; choose other classes.")
    (x_train, y_train), (x_test, y_test) = parts
    return from_scaled_arrays(
        x_train, y_train, x_test, y_test, name=name, class_names=dict(enumerate(classes or names))
    )


def _read_split(
    builder: Any, split: str, limit: int | None, folder: Path, new: Mapping[int, int] | None
) -> tuple[Images, Labels]:
    """Reads a split in stored order: the first `limit` images of each label, or all; reading ends where all are found.

    `new` has the new label of each stored label to keep; None keeps all labels. Other images are not decoded.
    """
    source = builder.as_data_source(split=split, decoders={"image": import_tfds().decode.SkipDecoding()})
    feature = builder.info.features["image"]
    n_labels = getattr(builder.info.features["label"], "num_classes", None) if new is None else len(new)
    images, labels = [], []
    found: Counter[int] = Counter()
    for start in range(0, len(source), _ROWS_AT_ONCE):
        if limit is not None and sum(n == limit for n in found.values()) == n_labels:
            break
        stop = min(start + _ROWS_AT_ONCE, len(source))
        kept = []
        try:
            for i, row in enumerate(source.__getitems__(list(range(start, stop))), start):
                label = row["label"]
                if (new is None or label in new) and (limit is None or found[label] < limit):
                    found[label] += 1
                    kept.append((i, row))
            decoded = [feature.decode_example_np(row["image"]) for _, row in kept]
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            if is_of_environment(error):
                raise
            raise DataError(
                f"{folder}: the {split} images {start}..{stop - 1} are damaged ({error}); {_again(folder)}."
            ) from error
        for (i, _), image in zip(kept, decoded, strict=True):
            if image.shape != feature.shape or image.dtype != np.uint8:
                raise DataError(
                    f"{folder}: {split} image {i} is {image.dtype} {image.shape}, features.json says uint8 "
                    f"{feature.shape}; {_again(folder)}."
                )
        if kept:
            images.append(np.stack(decoded))
            labels += [row["label"] if new is None else new[row["label"]] for _, row in kept]
    empty = np.empty((0, *feature.shape), np.uint8)
    return np.concatenate([empty, *images]), np.array(labels, np.int64)


def default_folder() -> Path:
    """The usual folder for data sets of TFDS: $TFDS_DATA_DIR if it is set, otherwise ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
