"""Makes TFDS folders in array_record format, which `load` reads without TensorFlow.

Writing them from arrays needs no TensorFlow. Downloading through TFDS and reading tfrecord files need it.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dgm_jax.data.dataset import DataError, Dataset, Images
from dgm_jax.data.tfds import (
    REWRITTEN,
    TFDS_NAME,
    TFDS_NAMES,
    check_folder,
    image_and_label,
    import_tfds,
    list_versions,
    name_in_tfds,
    open_builder,
    read_info,
    splits,
)
from dgm_jax.system.files import PathLike

Rows = Iterable[tuple[Images, int]]


def prepare(name: str, data_dir: PathLike) -> Path:
    """Writes a data set that `load` can read into `data_dir`: rewrites its tfrecord files, or downloads it.

    An existing tfrecord folder is not changed; the rewritten copy is the folder `<version>-array_record` beside it.

    Args:
      name: of a data set, as `load` takes it, but not "digits".
      data_dir: the folder to write to, created if it is missing.

    Returns:
      The new folder, `data_dir/<tfds name>/<version>` or the copy described above. An interrupted call leaves no
      part of it behind.

    Raises:
      DataError: if TFDS has no such data set, it does not have one image and one label for each example, it exists
        already or is incomplete, or TensorFlow is missing.
    """
    if name == "digits":
        raise DataError("data set 'digits' comes with this package and needs no files; prepare makes those of TFDS.")
    versions = list_versions(name, data_dir)
    newest = versions[-1] if versions else None
    if newest is not None and read_info(newest).get("fileFormat", "tfrecord") == "array_record":
        check_folder(name, newest)
        raise DataError(f"{newest} exists already and is complete; nothing to prepare (remove it to prepare it again).")
    known = None if newest else _find_builder(name, data_dir)
    if importlib.util.find_spec("tensorflow") is None:
        doing = f"reading the tfrecord files of {newest}" if newest else f"downloading {name}"
        raise DataError(f"{doing} needs TensorFlow; run `python -m pip install tensorflow-cpu importlib_resources`.")
    if newest is not None:
        return _rewrite(name, newest)
    image_and_label(known, name)
    return _download(known, Path(data_dir))


def write_array_record(
    dataset: Dataset, data_dir: PathLike, tfds_name: str, version: str, *, test_split: str = "test"
) -> Path:
    """Writes a data set as a TFDS folder in array_record format, without TensorFlow.

    Rows keep their order and images are stored as PNG, so reading them back gives the same arrays.

    Args:
      dataset: the data set; its labels must be >= 0.
      data_dir: the folder to write to, created if it is missing.
      tfds_name: e.g. "mnist", "svhn_cropped", or with its configuration "imagenet_resized/32x32".
      version: three numbers, e.g. "3.0.1".
      test_split: the name of the test split.

    Returns:
      `data_dir/tfds_name/version`. An interrupted call leaves no part of it behind.

    Raises:
      DataError: if that folder exists, the name or version is not valid, or a label is negative.
    """
    if not TFDS_NAME.fullmatch(tfds_name):
        raise DataError(f"tfds_name={tfds_name!r}: expected lower-case letters, digits and _, e.g. svhn_cropped.")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise DataError(f"version={version!r}: expected three numbers, e.g. 1.0.0.")
    if min(dataset.labels) < 0:
        raise DataError(f"label {min(dataset.labels)}: TFDS class labels are >= 0; number the classes from 0.")
    return _write(
        Path(data_dir) / tfds_name / version,
        tfds_name,
        version,
        shape=dataset.x_train.shape[1:],
        # TFDS needs a name for every label from 0, including those that do not occur.
        labels=[dataset.class_names.get(label, str(label)) for label in range(max(dataset.labels) + 1)],
        rows={
            "train": zip(dataset.x_train, dataset.y_train, strict=True),
            test_split: zip(dataset.x_test, dataset.y_test, strict=True),
        },
    )


def _write(
    target: Path, tfds_name: str, version: str, *, shape: tuple[int, ...], labels: list[str], rows: Mapping[str, Rows]
) -> Path:
    tfds = import_tfds()
    if target.exists():
        raise DataError(f"{target} exists and is not overwritten; remove it, or give another data_dir or version.")
    tfds_name, _, config = tfds_name.partition("/")

    # The registry of TFDS already has builders of these names, so this one is not registered.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc, name-defined]
        name = tfds_name
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=version)] if config else []
        url_infos = None  # Nothing is downloaded; the default needs importlib_resources, which TFDS does not install.

        def _info(self) -> Any:
            features = {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=labels)}
            return tfds.core.DatasetInfo(
                builder=self,
                description="Written from arrays.",
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            return {split: self._generate_examples(rows[split]) for split in rows}

        def _generate_examples(self, rows: Rows) -> Iterator[tuple[int, dict[str, Any]]]:
            for row, (image, label) in enumerate(rows):
                # Encoded here, because TFDS would use TensorFlow to encode it.
                yield row, {"image": _png(image), "label": int(label)}

    return _build(tfds, target, lambda folder: Builder(data_dir=folder, file_format="array_record"))


def _find_builder(name: str, data_dir: PathLike) -> Any:
    """The builder that TFDS has for a data set; it is asked before anything is downloaded."""
    tfds_name = name_in_tfds(name)
    try:
        return import_tfds().builder(tfds_name, data_dir=os.fspath(data_dir))
    except ValueError as error:  # Its message ends with a list of hundreds of names.
        raise DataError(
            f"TensorFlow Datasets has no {tfds_name} ({str(error).partition(chr(10))[0]}); prepare makes "
            f"{', '.join(TFDS_NAMES)}, and what https://www.tensorflow.org/datasets/catalog lists."
        ) from error


def _download(known: Any, data_dir: Path) -> Path:
    tfds, full_name = import_tfds(), known.info.full_name  # With the configuration that TFDS takes if none is named.
    name, _, version = full_name.rpartition("/")
    return _build(
        tfds,
        data_dir / full_name,
        lambda folder: tfds.builder(f"{name}:{version}", data_dir=folder, file_format="array_record"),
    )


def _build(tfds: Any, target: Path, make_builder: Any) -> Path:
    """Runs a builder in a temporary folder beside `target`, and renames the result to `target` when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    config = tfds.download.DownloadConfig(
        compute_stats=tfds.download.ComputeStatsMode.SKIP,  # Statistics would need TensorFlow.
        try_download_gcs=False,
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as scratch:
        builder = make_builder(os.path.join(scratch, "data"))
        builder.download_and_prepare(download_dir=os.path.join(scratch, "downloads"), download_config=config)
        os.rename(os.fspath(builder.data_path), target)
    return target


def _rewrite(name: str, folder: Path) -> Path:
    """Copies a TFDS folder of any format in stored order, row by row, because ImageNet does not fit in memory."""
    tfds, builder = import_tfds(), open_builder(folder)
    image, label = image_and_label(builder, folder)
    # Read one shard after the other; by default TensorFlow alternates between shards.
    config = tfds.ReadConfig(interleave_cycle_length=1)

    def rows(split: str) -> Rows:
        for row in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=config)):
            yield row[image], row[label]

    return _write(
        folder.with_name(folder.name + REWRITTEN),
        name_in_tfds(name),
        folder.name,
        shape=builder.info.features[image].shape,
        labels=builder.info.features[label].names,
        rows={split: rows(split) for split in splits(read_info(folder))},
    )


def _png(image: Images) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, format="PNG")
    return out.getvalue()
