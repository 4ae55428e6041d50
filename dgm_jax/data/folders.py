"""Folders of images, a folder for each class, become a `Dataset`."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from dgm_jax.data.classes import check_classes, few
from dgm_jax.data.dataset import DataError, Dataset, Images, from_arrays

if TYPE_CHECKING:
    from PIL.Image import Image

PathLike = str | os.PathLike[str]
Grey = Literal["convert", "refuse"]
Unreadable = Literal["refuse", "skip"]

_TEST_FOLDERS = ("val", "validation", "test")
# What lies beside images and was never meant as one; any other file is an image, or a mistake that is told.
_NO_IMAGES = (".txt", ".csv", ".json", ".jsonl", ".xml", ".html", ".md", ".yaml", ".yml", ".log", ".ini", ".db", ".npy")
_LAYOUTS = "PATH/train/<class>/* and PATH/val/<class>/*, or PATH/<class>/*"


def folder_classes(path: PathLike) -> tuple[str, ...]:
    """Lists the classes of a folder of images: the names of its (training) class folders, sorted.

    Args:
      path: as for `from_folder`.

    Raises:
      DataError: if there are none.
    """
    return tuple(_class_folders(_parts(Path(path))[0]))


def from_folder(
    path: PathLike,
    *,
    size: int,
    classes: Sequence[str] | None = None,
    grey: Grey = "convert",
    unreadable: Unreadable = "refuse",
    name: str | None = None,
) -> Dataset:
    """Loads a data set from class folders of images, in any format that Pillow reads.

    Training and test images lie either in `path/train/<class>/` and `path/val/<class>/` (or `validation`, or `test`;
    the first that is there), or all in `path/<class>/`: then the last fifth of each class's files, sorted by name and
    rounded down but at least one, are its test images, the same ones every time.

    Hidden files and folders are left out, and so are files that are no images by their suffix (.txt, .csv, .json,
    .xml and so on); every other file is tried. An image is turned as its EXIF orientation says, cut to its central
    square, and scaled with Pillow's bilinear filter, which averages when it shrinks. Large JPEGs are decoded at a
    fraction of their size, no less than 4 x `size`. Transparent parts become white, 16 bits become 8, palettes and
    CMYK become RGB, and of an animation the first image counts.

    Args:
      path: the folder.
      size: height and width of the result in pixels, >= 1.
      classes: the class folders to read; their positions here are their labels. By default all, sorted by name.
      grey: grey images among colour ones are converted to colour, or refused. If all images are grey, they stay so. An
        image is grey by the mode of its file; one of three equal channels counts as colour.
      unreadable: files that cannot be read as images are refused (after all were tried), or skipped.
      name: what reports call the data set; the folder's name by default.

    Returns:
      The data set, images [n, size, size, 3], or [n, size, size, 1] if all are grey; class by class, sorted by file
      name. Its `notes` say what was converted, skipped or left out.

    Raises:
      DataError: if the folder is missing or not laid out as above, a class is unknown, named twice, empty, or has no
        training or no test images, or an image is refused.
    """
    path = Path(path)
    if size < 1:
        raise DataError(f"size={size}: expected at least 1 pixel.")
    for option, value, choices in (("grey", grey, Grey), ("unreadable", unreadable, Unreadable)):
        if value not in get_args(choices):
            raise DataError(f"{option}={value!r}: expected one of {', '.join(get_args(choices))}.")
    chosen, train, test, left_out = _list_files(path, classes)

    files = [file for part in (train, test) for of_class in part for file in of_class]
    labels = np.concatenate([np.repeat(np.arange(len(chosen)), [len(f) for f in part]) for part in (train, test)])
    images, is_grey, faults = _read_all(files, size)
    read = np.array([not fault for fault in faults])
    told = [f"{file.relative_to(path)} ({fault})" for file, fault in zip(files, faults, strict=True) if fault]
    if told and unreadable == "refuse":
        raise DataError(
            f"{len(told):,} of {len(files):,} files in {path} cannot be read as images: {few(told)}; "
            "mend or remove them, or skip them (--unreadable skip)."
        )
    colour = bool((read & ~is_grey).any())
    turned = [str(files[i].relative_to(path)) for i in np.flatnonzero(read & is_grey)] if colour else []
    if turned and grey == "refuse":
        raise DataError(
            f"{len(turned):,} of {len(files):,} images in {path} are grey, the others are in colour: {few(turned)}; "
            "remove them, or convert them (--grey convert)."
        )
    notes = [
        *([f"grey images converted to colour: {len(turned):,}, {few(turned)}"] if turned else []),
        *([f"files skipped because they cannot be read: {len(told):,}, {few(told)}"] if told else []),
        *([f"files left out, being no images by their suffix: {left_out:,}"] if left_out else []),
    ]

    if not colour:
        images = images[..., :1]
    n_train = sum(map(len, train))
    parts = []
    for what, rows in (("training", np.arange(n_train)), ("test", np.arange(n_train, len(files)))):
        rows = rows[read[rows]]
        gone = [chosen[label] for label in np.setdiff1d(np.arange(len(chosen)), labels[rows])]
        if gone:
            raise DataError(f"{path}: none of the {what} images of {few(gone)} can be read; skipped: {few(told)}.")
        parts += [images[rows], labels[rows]]
    dataset = from_arrays(*parts, name=name or path.resolve().name, class_names=dict(enumerate(chosen)))
    return dataclasses.replace(dataset, notes=tuple(notes))


def read_images(files: Sequence[PathLike], *, size: int, channels: int) -> Images:
    """Reads single image files as `from_folder` does.

    Args:
      files: in any format that Pillow reads.
      size: height and width of the result in pixels, >= 1.
      channels: 1 makes all grey, 3 makes all colour.

    Returns:
      uint8 [n, size, size, channels].

    Raises:
      DataError: if a file cannot be read as an image; names them.
    """
    paths = [Path(file) for file in files]
    images, _, faults = _read_all(paths, size)
    told = [f"{path} ({fault})" for path, fault in zip(paths, faults, strict=True) if fault]
    if told:
        raise DataError(f"{len(told):,} of {len(paths):,} files cannot be read as images: {few(told)}.")
    if channels == 3:
        return images
    from PIL import Image

    grey = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
    return np.stack(grey)[..., None] if grey else images[..., :1]


# ---- what is there ----


def _parts(path: Path) -> tuple[Path, Path | None]:
    """Returns the folders that hold the class folders of training and of test images; no second: they are one."""
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {found}; expected a folder: {_LAYOUTS}.")
    tests = [path / name for name in _TEST_FOLDERS if (path / name).is_dir()]
    train = path / "train"
    # A class may be called "train" (or "test"): then it holds images.
    if not train.is_dir() or not (tests or any(entry.is_dir() for entry in _visible(train))):
        return path, None
    if not tests:
        raise DataError(f"{path} has train/, but none of {', '.join(f'{name}/' for name in _TEST_FOLDERS)} beside it.")
    return train, tests[0]


def _class_folders(root: Path) -> dict[str, Path]:
    """The class folders in a folder, sorted by name."""
    entries = sorted(_visible(root), key=lambda entry: entry.name)
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    for name in folders:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{root} has a class folder whose name is not UTF-8: {name!r}; rename it.") from None
    if not folders:
        found = f"it holds {few([entry.name for entry in entries])}" if entries else "it is empty"
        raise DataError(f"{root} has no class folders ({found}); expected {_LAYOUTS}.")
    return folders


def _list_files(
    path: Path, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[list[Path]], list[list[Path]], int]:
    """Returns the classes, the training and the test files of each, and how many files are no images."""
    root, test_root = _parts(path)
    folders = _class_folders(root)
    chosen = tuple(folders) if classes is None else check_classes(classes, tuple(folders), f"of {path}")
    if test_root is None:
        listed = [_image_files(folders[label]) for label in chosen]
        short = [label for label, (files, _) in zip(chosen, listed, strict=True) if len(files) < 2]
        if short:
            raise DataError(
                f"{path}: classes of 1 image: {few(short)}; expected at least 2, as the last fifth of a class's "
                "images, at least one, are its test images."
            )
        stops = [-max(1, len(files) // 5) for files, _ in listed]
        train = [files[:stop] for (files, _), stop in zip(listed, stops, strict=True)]
        test = [files[stop:] for (files, _), stop in zip(listed, stops, strict=True)]
        return chosen, train, test, sum(n for _, n in listed)

    test_folders = _class_folders(test_root)
    lacking = [label for label in chosen if label not in test_folders]
    extra = [label for label in test_folders if label not in folders] if classes is None else []
    if lacking or extra:
        faults = [
            f"in {there.name}/ but not in {elsewhere.name}/: {few(names)}"
            for names, there, elsewhere in ((lacking, root, test_root), (extra, test_root, root))
            if names
        ]
        raise DataError(
            f"{path}: classes {'; '.join(faults)}; add images, or choose classes that both have (--classes)."
        )
    listed = [_image_files(part[label]) for part in (folders, test_folders) for label in chosen]
    files = [files for files, _ in listed]
    return chosen, files[: len(chosen)], files[len(chosen) :], sum(n for _, n in listed)


def _image_files(folder: Path) -> tuple[list[Path], int]:
    """Returns what may be images in a class folder, sorted by name, and the number of files that are none."""
    entries = sorted(_visible(folder), key=lambda entry: entry.name)
    inner = [entry.name for entry in entries if entry.is_dir()]
    if inner:
        raise DataError(f"{folder} holds folders ({few(inner)}); expected a class's images, not further folders.")
    files = [entry for entry in entries if entry.suffix.lower() not in _NO_IMAGES]
    if not files:
        found = f"it holds {few([entry.name for entry in entries])}" if entries else "it is empty"
        raise DataError(f"{folder} has no images ({found}); add some, or remove the class.")
    return files, len(entries) - len(files)


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


# ---- reading ----


def _read_all(files: Sequence[Path], size: int) -> tuple[Images, np.ndarray, list[str]]:
    """Reads files in threads (Pillow lets go of the interpreter while it decodes).

    Returns:
      Images [n, size, size, 3], which of them are grey, and what is wrong with each; "": nothing.
    """
    images = np.zeros((len(files), size, size, 3), np.uint8)
    grey = np.zeros(len(files), bool)

    def read(row: int) -> str:
        try:
            image = _read(files[row], size)
        except Exception as error:  # A damaged file fails in its decoder as it likes: SyntaxError, struct.error, ...
            return _fault(files[row], error)
        images[row], grey[row] = image, image.shape[-1] == 1
        return ""

    pool = ThreadPoolExecutor()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # Of broken EXIF data and the like, a line an image.
        try:
            faults = list(pool.map(read, range(len(files))))
        finally:
            pool.shutdown(cancel_futures=True)  # Else Ctrl-C would wait for all images.
    return images, grey, faults


def _read(file: Path, size: int) -> Images:
    """Returns an image [size, size, 1 or 3]; see `from_folder`."""
    from PIL import Image, ImageOps

    if not file.is_file():  # Opening a pipe would wait forever.
        raise FileNotFoundError("not a file")
    with Image.open(file) as opened:
        # Of JPEGs alone: the smallest of 1, 1/2, 1/4, 1/8 that is as large. Twice `size` is no faster for ImageNet's
        # photographs, and moves single pixels by 30 levels.
        opened.draft(None, (4 * size, 4 * size))
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        image = _grey_or_rgb(opened)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).reshape(size, size, -1)


def _grey_or_rgb(image: Image) -> Image:
    """Converts an image of any mode to L, if it is grey, or RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values {values.min()}..{values.max()}, expected 8 or 16 bits")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point values, expected 8 or 16 bits")
    grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if grey else "RGB")
    image = image.convert("LA" if grey else "RGBA")
    ground = Image.new("L" if grey else "RGB", image.size, "white")
    ground.paste(image.convert(ground.mode), mask=image.getchannel("A"))
    return ground


def _fault(file: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if file.is_file() and not file.stat().st_size:
        return "empty"
    if isinstance(error, UnidentifiedImageError):
        return "no image, or one that Pillow does not know"
    return (str(error).splitlines() or [type(error).__name__])[0]
