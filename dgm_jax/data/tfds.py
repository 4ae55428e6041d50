"""Finds, checks and reads folders of TensorFlow Datasets (TFDS) in array_record format, without TensorFlow.

A data set is named by its key in `TFDS_NAMES` or by the name that TFDS gives it, with its configuration if it has
several ("emnist/letters"); `data_dir` is the folder that holds `<tfds name>/<version>/`.
"""

from __future__ import annotations

import dataclasses
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
from dgm_jax.data.dataset import DataError, Dataset, Images, Labels, from_scaled_arrays, resize
from dgm_jax.data.folds import last_fifths
from dgm_jax.errors import is_of_environment, naming_extras
from dgm_jax.system.files import PathLike

# The name that TFDS uses for each data set that has a name here.
TFDS_NAMES: Mapping[str, str] = {
    "mnist": "mnist",
    "fashion": "fashion_mnist",
    "emnist": "emnist/balanced",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "svhn": "svhn_cropped",
    "imagenet32": "imagenet_resized/32x32",
}

NAMES = ("digits", *TFDS_NAMES)  # The data sets that have a name here.
TFDS_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9][\w.+-]*)?")  # A data set of TFDS, perhaps with a configuration.

# Suffix of the folder that `prepare` writes beside a tfrecord folder of the same version, which it does not change.
REWRITTEN = "-array_record"

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_ROWS_AT_ONCE = 4096  # Reading many rows at once is several times faster; a limit keeps memory small.


def name_in_tfds(name: str) -> str:
    """Returns the name that TFDS uses for a data set.

    Raises:
      DataError: if it cannot be a name of TFDS.
    """
    found = TFDS_NAMES.get(name, name)
    if not TFDS_NAME.fullmatch(found):
        raise DataError(
            f"unknown data set {name!r}; expected one of {', '.join(NAMES)}, or a name of TensorFlow Datasets, e.g. "
            "beans or emnist/letters (or from_npz for a file)."
        )
    return found


def splits(info: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the names of the training split and of the test split: "test", else "validation", else "train", too."""
    lengths = _shard_lengths(info)
    return "train", next((name for name in ("test", "validation") if sum(lengths.get(name, []))), "train")


def whole_folder(name: str, data_dir: PathLike | None) -> Path:
    """Finds the folder of a data set as `find_version` does, and checks it as `check_folder` does.

    Raises:
      DataError: if the folder is missing, incomplete, damaged or in another format.
    """
    folder = find_version(name, data_dir)
    check_folder(name, folder)
    return folder


def find_version(name: str, data_dir: PathLike | None) -> Path:
    """Finds the newest `data_dir/<tfds name>/<version>`; if `prepare` has rewritten that version, the rewritten folder.

    Raises:
      DataError: if there is none.
    """
    tfds_name = name_in_tfds(name)
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
        parent = Path(data_dir) / tfds_name  # If it is there, it may hold the configurations of the data set.
        there, which = (parent, f"{tfds_name}/") if parent.is_dir() else (Path(data_dir), "it")
        found = ", ".join(sorted(entry.name for entry in there.iterdir())[:8]) or "nothing"
        raise DataError(
            f"data_dir={os.fspath(data_dir)!r} has no {tfds_name}/<version>/ ({which} holds: {found}); {how}."
        )
    return versions[-1]


def list_versions(name: str, data_dir: PathLike) -> list[Path]:
    """Lists the version folders of a TFDS data set, oldest first."""
    parent = Path(data_dir) / name_in_tfds(name)
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
        data_dir = folder.parents[1 + name_in_tfds(name).count("/")]
        raise DataError(
            f"{folder} is in {file_format} format, and reading {file_format} needs TensorFlow; rewrite it once: "
            f"`python -m pip install tensorflow-cpu importlib_resources`, then `python -m dgm_jax prepare {name} "
            f"--data-dir {data_dir}`; or give another --data-dir that holds array_record files."
        )
    import_tfds()
    lengths, (train, test) = _shard_lengths(info), splits(info)
    is_known = name_in_tfds(name) in TFDS_NAMES.values()  # These have test images; of others, some are set apart.
    for split, expected in ((train, "train"), (test, "test or validation")):
        if not sum(lengths.get(split, [])) or (is_known and split == train != expected):
            raise DataError(
                f"{folder} has no {expected} images (splits: {', '.join(lengths) or 'none'}), and a run needs images "
                f"to train on and others to test on; if that is not so by design, {_again(folder)}."
            )
        _check_shards(folder, split, lengths[split])


def _shard_lengths(info: Mapping[str, Any]) -> dict[str, list[int]]:
    return {split["name"]: [int(n) for n in split.get("shardLengths", [])] for split in info.get("splits", [])}


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


def image_and_label(builder: Any, where: PathLike) -> tuple[str, str]:
    """Returns the names of the features that hold an example's image and its label.

    They are those that the data set says are to be learnt (`supervised_keys`), or else the only image and the only
    class label; other features are never decoded.

    Raises:
      DataError: if there are none; the message says `where`.
    """
    kinds, features = import_tfds().features, dict(sorted(builder.info.features.items()))
    images, labels = (
        [name for name, feature in features.items() if type(feature) is kind]
        for kind in (kinds.Image, kinds.ClassLabel)
    )
    match builder.info.supervised_keys:
        case (image, label) if image in images and label in labels:
            return image, label
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"{where} has the images {few(images) or 'none'} and the class labels {few(labels) or 'none'} (features: "
            f"{', '.join(features)}); expected one image and one label for each example."
        )
    return images[0], labels[0]


def label_names(name: str, builder: Any, folder: Path) -> list[str]:
    """Returns the names of the stored labels 0, 1, ...

    Raises:
      DataError: if the data set does not have one image and one label for each example.
    """
    _, label = image_and_label(builder, folder)
    names = list(builder.info.features[label].names or [])
    if name == "cifar10" and names == [str(i) for i in range(10)]:  # Some versions are stored without names.
        return list(_CIFAR10)
    return names


def read_data_set(
    name: str, folder: Path, classes: Sequence[str] | None, train_per_class: int | None, size: int | None = None
) -> Dataset:
    """Reads both splits of a folder that `check_folder` accepts; `sources.load` says what it returns.

    Raises:
      DataError: if a class is unknown or has no images, images are not uint8 of one shape (of any, with `size`) with 1
        or 3 channels, or a file is damaged.
    """
    builder = open_builder(folder)
    names = label_names(name, builder, folder)
    image = builder.info.features[image_and_label(builder, folder)[0]]
    dtype, is_fixed = np.dtype(image.np_dtype), None not in image.shape
    if len(image.shape) != 3 or image.shape[-1] not in (1, 3) or dtype != np.uint8 or not (is_fixed or size):
        expected = "(h, w, 1) or (h, w, 3) of uint8" + ("" if size else ", all of one size (or give `size`)")
        raise DataError(f"{folder} has images of shape {image.shape} and type {dtype}; expected {expected}.")
    new = None if classes is None else new_labels(classes, names, f"of {name}")
    both, limits = splits(read_info(folder)), (train_per_class, None)  # Of test images, all are read.
    notes: tuple[str, ...] = ()
    if both[0] == both[1]:
        images, labels = _read_split(builder, both[0], None, folder, new, size)
        held = last_fifths(labels)
        parts = [(images[~held], labels[~held]), (images[held], labels[held])]
        notes = (f"{name} has no test images; the last fifth of those of each class are taken as such",)
    else:
        parts = [_read_split(builder, *of, folder, new, size) for of in zip(both, limits, strict=True)]
    for (_, labels), split in zip(parts, both, strict=True):
        missing = [label for i, label in enumerate(classes or ()) if i not in labels]
        if missing:
            raise DataError(f"{folder} has no {split} images of {few(missing)}; choose other classes.")
        if labels.min(initial=0) < 0:
            raise DataError(f"{folder} has {split} images without a label (-1); expected a label for each image.")
    (x_train, y_train), (x_test, y_test) = parts
    dataset = from_scaled_arrays(
        x_train, y_train, x_test, y_test, name=name, class_names=dict(enumerate(classes or names))
    )
    if notes:
        dataset = dataset if train_per_class is None else dataset.first_per_class(train_per_class)
        dataset = dataclasses.replace(dataset, notes=(*dataset.notes, *notes))
    return dataclasses.replace(dataset, stored_shape=image.shape) if size and is_fixed else dataset


def _read_split(
    builder: Any, split: str, limit: int | None, folder: Path, new: Mapping[int, int] | None, size: int | None = None
) -> tuple[Images, Labels]:
    """Reads a split in stored order: the first `limit` images of each label, or all; reading ends where all are found.

    `new` has the new label of each stored label to keep; None keeps all labels. Other images are not decoded. With
    `size`, images are cut to their central squares and scaled.
    """
    tfds, features, (x, y) = import_tfds(), builder.info.features, image_and_label(builder, folder)
    source = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    only = tfds.features.FeaturesDict({x: features[x], y: features[y]})  # Whatever else there is stays undecoded.
    skip, feature = {x: tfds.decode.SkipDecoding()}, features[x]
    n_labels = features[y].num_classes if new is None else len(new)
    images, labels = [], []
    found: Counter[int] = Counter()
    for start in range(0, len(source), _ROWS_AT_ONCE):
        if limit is not None and sum(n == limit for n in found.values()) == n_labels:
            break
        stop = min(start + _ROWS_AT_ONCE, len(source))
        kept = []
        try:
            for i, record in enumerate(source.__getitems__(list(range(start, stop))), start):
                row = only.deserialize_example_np(record, decoders=skip)
                label = row[y]
                if (new is None or label in new) and (limit is None or found[label] < limit):
                    found[label] += 1
                    kept.append((i, row))
            decoded = [_decoded(feature, row[x]) for _, row in kept]
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            if is_of_environment(error):
                raise
            raise DataError(
                f"{folder}: the {split} images {start}..{stop - 1} are damaged ({error}); {_again(folder)}."
            ) from error
        for (i, _), image in zip(kept, decoded, strict=True):
            fits = len(image.shape) == 3 and all(n in (None, m) for n, m in zip(feature.shape, image.shape))
            if not fits or image.dtype != np.uint8:
                raise DataError(
                    f"{folder}: {split} image {i} is {image.dtype} {image.shape}, features.json says uint8 "
                    f"{feature.shape}; {_again(folder)}."
                )
        if kept:
            images.append(np.stack(decoded if size is None else [_square(image, size) for image in decoded]))
            labels += [row[y] if new is None else new[row[y]] for _, row in kept]
    empty = np.empty((0, *(feature.shape[:2] if size is None else (size, size)), feature.shape[-1]), np.uint8)
    return np.concatenate([empty, *images]), np.array(labels, np.int64)


def _decoded(feature: Any, encoded: bytes) -> Images:
    """Decodes an image; TFDS leaves a grey file among colour ones without channels."""
    image: Images = feature.decode_example_np(encoded)
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 and feature.shape[-1] == 3 else image


def _square(image: Images, size: int) -> Images:
    """The central square of an image [h, w, c], scaled to [size, size, c]."""
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return resize(image[None, top : top + side, left : left + side], size)[0]


def default_folder() -> Path:
    """The usual folder for data sets of TFDS: $TFDS_DATA_DIR if it is set, otherwise ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
