"""Makes TFDS folders in array_record format, which `load` reads without TensorFlow.

Writing them from arrays needs no TensorFlow; downloading through TFDS, or reading tfrecord files, does.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.data.dataset import DataError, Dataset, Images, Labels, from_arrays
from dgm_jax.data.sources import (
    REWRITTEN,
    TFDS_NAMES,
    PathLike,
    check_folder,
    import_tfds,
    list_versions,
    read_info,
)


def prepare(name: str, data_dir: PathLike) -> Path:
    """Makes `data_dir` hold a data set that `load` can read: rewrites its tfrecord files, or downloads it.

    A tfrecord folder is left as it is; its copy is written beside it as `<version>-array_record`.

    Args:
      name: "mnist", "cifar10" or "svhn".
      data_dir: the folder to write to, made if it is missing.

    Returns:
      The folder written, `data_dir/<tfds name>/<version>` or the above. It is written whole or not at all.

    Raises:
      DataError: for another name, if the data set is there already or half there, or if TensorFlow is missing.
    """
    if name not in TFDS_NAMES:
        why = "comes with scikit-learn and needs no files" if name == "digits" else "is unknown"
        raise DataError(f"data set {name!r} {why}; prepare makes {', '.join(TFDS_NAMES)}.")
    versions = list_versions(name, data_dir)
    newest = versions[-1] if versions else None
    if newest is not None and read_info(newest).get("fileFormat", "tfrecord") == "array_record":
        check_folder(name, newest)
        raise DataError(f"{newest} is there already and whole; nothing to prepare (remove it to prepare it anew).")
    if importlib.util.find_spec("tensorflow") is None:
        doing = f"reading the tfrecord files of {newest}" if newest else f"downloading {name}"
        raise DataError(f"{doing} needs TensorFlow; run `python -m pip install -r requirements-prepare.txt`.")
    if newest is None:
        return _download(TFDS_NAMES[name], Path(data_dir))
    dataset = _read_with_tensorflow(name, newest)
    return _write(dataset, newest.with_name(newest.name + REWRITTEN), TFDS_NAMES[name], newest.name)


def write_array_record(dataset: Dataset, data_dir: PathLike, tfds_name: str, version: str) -> Path:
    """Writes a data set as a TFDS folder in array_record format, without TensorFlow.

    Rows keep their order and images are stored as PNG, so reading them back gives the same arrays.

    Args:
      dataset: what to write; its labels must be >= 0.
      data_dir: the folder to write to, made if it is missing.
      tfds_name: e.g. "mnist", "svhn_cropped".
      version: three numbers, e.g. "3.0.1".

    Returns:
      `data_dir/tfds_name/version`. It is written whole or not at all.

    Raises:
      DataError: if that folder exists, the name or version cannot be one, or a label is negative.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", tfds_name):
        raise DataError(f"tfds_name={tfds_name!r}: expected lower-case letters, digits and _, e.g. svhn_cropped.")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise DataError(f"version={version!r}: expected three numbers, e.g. 1.0.0.")
    return _write(dataset, Path(data_dir) / tfds_name / version, tfds_name, version)


def _write(dataset: Dataset, target: Path, tfds_name: str, version: str) -> Path:
    tfds = import_tfds()
    if target.exists():
        raise DataError(f"{target} exists and is not overwritten; remove it, or give another data_dir or version.")
    if min(dataset.labels) < 0:
        raise DataError(f"label {min(dataset.labels)}: TFDS class labels are >= 0; number the classes from 0.")
    splits = {"train": (dataset.x_train, dataset.y_train), "test": (dataset.x_test, dataset.y_test)}
    # TFDS names all labels from 0 on, also those that do not occur.
    names = [dataset.class_names.get(label, str(label)) for label in range(max(dataset.labels) + 1)]

    # Official names are taken in the registry of TFDS, so this builder stays out of it.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc, name-defined]
        name = tfds_name
        VERSION = tfds.core.Version(version)
        url_infos = None  # nothing is downloaded, and looking it up needs importlib_resources, which TFDS forgets

        def _info(self) -> Any:
            image = tfds.features.Image(shape=dataset.x_train.shape[1:])
            features = {"image": image, "label": tfds.features.ClassLabel(names=names)}
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{dataset.name}, written from arrays.",
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            return {split: self._generate_examples(*splits[split]) for split in splits}

        def _generate_examples(self, images: Images, labels: Labels) -> Iterator[tuple[int, dict[str, Any]]]:
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                # Encoded here, because TFDS would use TensorFlow for it.
                yield row, {"image": _png(image), "label": int(label)}

    return _build(tfds, target, lambda folder: Builder(data_dir=folder, file_format="array_record"))


def _download(tfds_name: str, data_dir: Path) -> Path:
    tfds = import_tfds()
    version = str(tfds.builder(tfds_name, data_dir=os.fspath(data_dir)).version)
    target = data_dir / tfds_name / version
    return _build(
        tfds, target, lambda folder: tfds.builder(f"{tfds_name}:{version}", data_dir=folder, file_format="array_record")
    )


def _build(tfds: Any, target: Path, make_builder: Any) -> Path:
    """Lets a builder work in a temporary folder beside `target`, and renames its result when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    config = tfds.download.DownloadConfig(
        compute_stats=tfds.download.ComputeStatsMode.SKIP,  # would need TensorFlow
        try_download_gcs=False,
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as scratch:
        builder = make_builder(os.path.join(scratch, "data"))
        builder.download_and_prepare(download_dir=os.path.join(scratch, "downloads"), download_config=config)
        os.rename(os.fspath(builder.data_path), target)
    return target


def _read_with_tensorflow(name: str, folder: Path) -> Dataset:
    """Reads a TFDS folder of any format, in stored order."""
    tfds = import_tfds()
    builder = tfds.builder_from_directory(os.fspath(folder))
    # One shard after the other: by default TensorFlow takes turns between them.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        rows = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=config)))
        arrays[f"x_{split}"] = np.stack([row["image"] for row in rows])
        arrays[f"y_{split}"] = np.array([row["label"] for row in rows])
    return from_arrays(**arrays, name=name, class_names=dict(enumerate(builder.info.features["label"].names)))


def _png(image: Images) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, format="PNG")
    return out.getvalue()
