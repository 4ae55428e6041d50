"""Reads a folder of image files, with one folder per class, as a `Dataset`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from dgm_jax.data.classes import check_classes, few
from dgm_jax.data.dataset import DataError, Dataset, Images, composed, from_scaled_arrays, rows_of
from dgm_jax.data.image_files import read_files
from dgm_jax.system.files import PathLike

Grey = Literal["convert", "refuse"]
Unreadable = Literal["refuse", "skip"]

Parts = tuple[str, str]  # The names of the folders of training and of test images.

# Names of these folders, in upper or lower case; the first one that is there counts.
_TRAIN_FOLDERS = ("train", "training", "seg_train")
_TEST_FOLDERS = ("val", "validation", "valid", "test", "testing", "eval", "evaluation", "seg_test")
# What systems, not people, put beside images.
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information")
# Files that often lie beside images. Every other file must be an image; if not, it is an error.
_NO_IMAGES = (".txt", ".csv", ".json", ".jsonl", ".xml", ".html", ".md", ".yaml", ".yml", ".log", ".ini", ".db", ".npy")
_ANNOTATIONS = "val_annotations.txt"
_LAYOUTS = "PATH/train/<class>/* and PATH/val/<class>/*, or PATH/<class>/*"


def parse_parts(text: str) -> Parts:
    """Reads the names of two folders from the command line, e.g. "train,test".

    Raises:
      DataError: if `text` is not two different names.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise DataError(f"parts {text!r}: expected the folders of training and of test images, e.g. train,test.")
    return names[0], names[1]


def folder_classes(path: PathLike, parts: Parts | None = None) -> tuple[str, ...]:
    """Lists the classes of a folder for `from_folder`: the sorted names of its (training) class folders.

    Raises:
      DataError: if the folder is missing or has no class folders.
    """
    return tuple(_class_folders(_find_parts(Path(path), parts)[0]))


def from_folder(
    path: PathLike,
    *,
    size: int,
    classes: Sequence[str] | None = None,
    grey: Grey = "convert",
    unreadable: Unreadable = "refuse",
    parts: Parts | None = None,
    train_per_class: int | None = None,
    name: str | None = None,
) -> Dataset:
    """Loads a data set from class folders of images, in the usual formats.

    There are two layouts. Either training images are in `path/train/<class>/` and test images in `path/val/<class>/`
    (other usual names are known, too, and Tiny ImageNet's own layout). Or all images are in `path/<class>/`: then the
    last fifth of the files of each class, sorted by name, are its test images (rounded down, but at least one).

    Hidden files and folders are ignored, and so are files whose suffix shows that they are not images (.txt, .csv,
    .json, .xml and so on). Every other file is read, except PostScript, for which Pillow would run another program. An
    image is rotated as its EXIF orientation says, cut to its central square, and scaled with Pillow's bilinear filter,
    which averages when it shrinks. Large JPEGs are decoded at a fraction of their size, but at least at 4 x `size`.
    Transparent parts become white, palettes and CMYK become RGB, and only the first image of an animation is read. Grey
    files of more than 8 bits are taken to have as many bits (8, 12 or 16) as the largest value in all of them needs.

    Args:
      path: the folder.
      size: height and width of the result in pixels, >= 1.
      classes: the class folders to read; their positions in this list are their labels. By default all, sorted by name.
      grey: whether grey images among colour images are converted to colour or refused. If all images are grey, they
        stay grey. The mode of a file decides whether it is grey; three equal channels count as colour.
      unreadable: whether files that cannot be read as images are refused (after all files were read) or skipped.
      parts: names of the folders in `path` that hold training and test images; None: found by their names.
      train_per_class: keep only the first N training images of each class that can be read. The other files are opened,
        because all of them decide whether images are grey, but not decoded. None: all.
      name: the name of the data set in reports; by default that of the folder.

    Returns:
      The data set with uint8 images [n, size, size, 3], or [n, size, size, 1] if all are grey, sorted by class and then
      by file name. Its `notes` say what was converted, skipped or left out.

    Raises:
      DataError: if the folder is missing or has another layout, a class is unknown, named twice or without training or
        test images, or an image is refused.
    """
    path = Path(path)
    _check_options(size, grey, unreadable, train_per_class)
    chosen, train, test, notes = _list_files(path, classes, parts)
    files = [file for part in (train, test) for of_class in part for file in of_class]
    labels = np.concatenate([np.repeat(np.arange(len(chosen)), [len(f) for f in part]) for part in (train, test)])
    in_test = np.arange(len(files)) >= sum(map(len, train))
    images, is_grey, faults, deep, kept = _read_first(files, size, labels, in_test, train_per_class)
    read = np.array([not fault for fault in faults])
    names = [str(file.relative_to(path)) for file in files]
    faulty = [f"{file} ({fault})" for file, fault in zip(names, faults, strict=True) if fault]
    colour = bool((read & ~is_grey).any())
    converted = [names[i] for i in np.flatnonzero(read & is_grey)] if colour else []
    if faulty and unreadable == "refuse":
        raise DataError(
            f"{len(faulty):,} of {len(files):,} files in {path} cannot be read as images: {few(faulty)}; "
            "repair or remove them, or skip them (--unreadable skip)."
        )
    if converted and grey == "refuse":
        raise DataError(
            f"{len(converted):,} of {len(files):,} images in {path} are grey, the others are in colour: "
            f"{few(converted)}; remove them, or convert them (--grey convert)."
        )

    arrays = []
    for what, rows in (("training", kept & ~in_test), ("test", kept & in_test)):
        empty = [chosen[label] for label in np.setdiff1d(np.arange(len(chosen)), labels[rows])]
        if empty:
            raise DataError(f"{path}: none of the {what} images of {few(empty)} can be read; skipped: {few(faulty)}.")
        arrays += [images[rows] if colour else images[rows, ..., :1], labels[rows]]
    dataset = from_scaled_arrays(*arrays, name=name or path.resolve().name, class_names=dict(enumerate(chosen)))
    return dataclasses.replace(dataset, notes=(*dataset.notes, *_notes(converted, faulty), *deep, *notes))


def _read_first(
    files: list[Path], size: int, labels: np.ndarray, in_test: np.ndarray, train_per_class: int | None
) -> tuple[Images, np.ndarray, list[str], list[str], np.ndarray]:
    """What `read_files` returns, and which images are kept: test images, and the first of each class for training."""

    def first(there: np.ndarray) -> np.ndarray:
        kept, training = there.copy(), np.flatnonzero(there & ~in_test)
        if train_per_class is not None and training.size:
            for rows in rows_of(labels[training]).values():
                kept[training[rows[train_per_class:]]] = False
        return kept

    wanted = first(np.ones(len(files), bool))
    while True:
        images, is_grey, faults, notes = read_files(files, size, wanted)
        kept = first(np.array([not fault for fault in faults]))
        if not (kept & ~wanted).any():
            return images, is_grey, faults, notes, kept
        wanted |= kept  # The next files take the places of those that cannot be read.


def _check_options(size: int, grey: str, unreadable: str, train_per_class: int | None) -> None:
    if size < 1:
        raise DataError(f"size={size}: expected at least 1 pixel.")
    if train_per_class is not None and train_per_class < 1:
        raise DataError(f"train_per_class={train_per_class}: expected at least 1.")
    for option, value, choices in (("grey", grey, Grey), ("unreadable", unreadable, Unreadable)):
        if value not in get_args(choices):
            raise DataError(f"{option}={value!r}: expected one of {', '.join(get_args(choices))}.")


def _notes(converted: list[str], skipped: list[str]) -> list[str]:
    notes = []
    if converted:
        notes.append(f"grey images converted to colour: {len(converted):,}, {few(converted)}")
    if skipped:
        notes.append(f"files skipped because they cannot be read: {len(skipped):,}, {few(skipped)}")
    return notes


def _find_parts(path: Path, parts: Parts | None) -> tuple[Path, Path | None, list[str]]:
    """Returns the folders that hold the class folders of training and of test images, and notes.

    The second folder is None if all images are in the first.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {found}; expected a folder: {_LAYOUTS}.")
    folders = {entry.name: entry for entry in sorted(_visible(path)) if entry.is_dir()}
    if parts is not None:
        lacking = [name for name in parts if not (path / name).is_dir()]
        if lacking:
            raise DataError(f"{path} has no folder {few(lacking)}; it has {few(list(folders)) or 'none'}.")
        train, test = (path / name for name in parts)
    else:
        trains, tests = (
            [folders[name] for known in usual for name in folders if name.casefold() == known]
            for usual in (_TRAIN_FOLDERS, _TEST_FOLDERS)
        )
        # If "train" (or "test") is the name of a class, that folder holds images and no folders.
        if not trains or not (tests or any(entry.is_dir() for entry in _visible(trains[0]))):
            return path, None, []
        train = trains[0]
        if not tests:
            raise DataError(
                f"{path} has {train.name}/, but none of {', '.join(f'{name}/' for name in _TEST_FOLDERS)} beside it; "
                "name both folders (--parts TRAIN,TEST)."
            )
        test = next((folder for folder in tests if any(entry.is_dir() for entry in _visible(folder))), tests[0])
    unused = [f"{name}/" for name, folder in folders.items() if folder not in (train, test)]
    note = f"images are read from {train.name}/ and {test.name}/; not used: {few(unused)} (--parts TRAIN,TEST chooses)"
    return _inner(train), _inner(test), [note] * bool(unused)


def _inner(folder: Path) -> Path:
    """The folder, or the only one in it if that has the same name: some archives are packed so."""
    entries = _visible(folder)
    return _inner(entries[0]) if [entry.name for entry in entries] == [folder.name] else folder


def _class_folders(root: Path) -> dict[str, Path]:
    """The class folders in a folder by name, sorted."""
    entries = sorted(_visible(root), key=lambda entry: entry.name)
    folders: dict[str, Path] = {}
    for entry in entries:
        if not entry.is_dir():
            continue
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{root} has a class folder whose name is not UTF-8: {entry.name!r}; rename it.") from None
        other = folders.setdefault(composed(entry.name), entry)
        if other is not entry:
            raise DataError(
                f"{root} has two class folders named {composed(entry.name)}, written in two forms of Unicode: "
                f"{other.name!a} and {entry.name!a}; put their images into one."
            )
    if not folders:
        found = f"it holds {few([entry.name for entry in entries])}" if entries else "it is empty"
        raise DataError(f"{root} has no class folders ({found}); expected {_LAYOUTS}.")
    return folders


def _list_files(
    path: Path, classes: Sequence[str] | None, parts: Parts | None
) -> tuple[tuple[str, ...], list[list[Path]], list[list[Path]], list[str]]:
    """Returns the classes, the training and the test files of each, and notes."""
    root, test_root, notes = _find_parts(path, parts)
    folders = _class_folders(root)
    chosen = tuple(folders) if classes is None else check_classes(classes, tuple(folders), f"of {path}")
    if test_root is None:
        listed = [_image_files(folders[label]) for label in chosen]
        short = [label for label, (files, _) in zip(chosen, listed, strict=True) if len(files) < 2]
        if short:
            raise DataError(
                f"{path}: these classes have only 1 image: {few(short)}; expected at least 2, because the last "
                "fifth of the images of a class, at least one, are its test images."
            )
        cuts = [(files, -max(1, len(files) // 5)) for files, _ in listed]
        train, test = [files[:cut] for files, cut in cuts], [files[cut:] for files, cut in cuts]
    else:
        annotated = test_root / _ANNOTATIONS
        if "images" not in folders and [entry.name for entry in _visible(test_root)] == ["images"]:
            raise DataError(f"{test_root} holds images/ but no {_ANNOTATIONS}, which names the class of each image.")
        tested = _annotated_files(annotated) if annotated.is_file() else _class_folders(test_root)
        lacking = [label for label in chosen if label not in tested]
        extra = [label for label in tested if label not in folders] if classes is None else []
        faults = [
            f"in {there.name}/ but not in {elsewhere.name}/: {few(names)}"
            for names, there, elsewhere in ((lacking, root, test_root), (extra, test_root, root))
            if names
        ]
        if faults:
            raise DataError(
                f"{path}: classes {'; '.join(faults)}; add images, or choose classes that both have (--classes)."
            )
        places = [tested[label] for label in chosen]
        listed = [_image_files(folders[label]) for label in chosen]
        listed += [_image_files(place) if isinstance(place, Path) else (place, 0) for place in places]
        images = [files for files, _ in listed]
        train, test = images[: len(chosen)], images[len(chosen) :]
    if left_out := sum(n for _, n in listed):
        notes.append(f"files left out because their suffix is not that of an image: {left_out:,}")
    return chosen, train, test, notes


def _image_files(folder: Path) -> tuple[list[Path], int]:
    """Returns the files of a class folder that may be images, sorted by name, and the number of other files."""
    entries = sorted(_visible(folder), key=lambda entry: entry.name)
    inner = [entry.name for entry in entries if entry.is_dir()]
    files = [entry for entry in entries if entry.suffix.lower() not in _NO_IMAGES and not entry.is_dir()]
    if inner == ["images"] and not files:  # As in Tiny ImageNet.
        files, n_others = _image_files(folder / "images")
        return files, n_others + len(entries) - 1
    if inner:
        raise DataError(f"{folder} holds folders ({few(inner)}); expected the images of a class, not folders.")
    if not files:
        found = f"it holds {few([entry.name for entry in entries])}" if entries else "it is empty"
        raise DataError(f"{folder} has no images ({found}); add some, or remove the class.")
    return files, len(entries) - len(files)


def _annotated_files(annotations: Path) -> dict[str, list[Path]]:
    """The files of each class, from lines of a file name and a class, as Tiny ImageNet has them for its test images."""
    try:
        text = annotations.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{annotations} cannot be read ({error}); expected UTF-8.") from error
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if wrong := [line[0] for line in lines if len(line) < 2 or Path(line[0]).name != line[0]]:
        raise DataError(f"{annotations}: {few(wrong)}; expected lines of a file's name and a class.")
    files: dict[str, list[Path]] = {}
    for name, label, *_ in sorted(lines):
        files.setdefault(composed(label), []).append(annotations.parent / "images" / name)
    return files


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in _OF_SYSTEMS]
