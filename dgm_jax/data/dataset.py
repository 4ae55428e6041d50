"""`Dataset`: labelled images or vectors in memory. Every source makes one, checked; every stream is made from one."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dgm_jax.data.vectors import are_vectors, as_vectors
from dgm_jax.errors import DataError as DataError
from dgm_jax.errors import naming_extras

Images = NDArray[Any]  # uint8 [n, h, w, c]; or vectors, float32 [n, 1, 1, d]: images of a single pixel.
Labels = NDArray[np.int64]

_NARROW = 32  # Arrays whose values span less were not scaled to 0..255; 5 bits span 31.
_FEW = 256  # Of fewer values in all images, nothing follows.


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set of labelled images or vectors. Make one with `from_arrays` or `load`, which check it.

    Attributes:
      name: its name in reports.
      x_train: uint8 [n, h, w, c], c in {1, 3}; or vectors, float32 [n, 1, 1, d].
      y_train: int64 [n], any integers.
      x_test: as `x_train`, [m, ...].
      y_test: int64 [m], the same classes as in `y_train`.
      class_names: a name for every label.
      stored_shape: (h, w, c) of the images before they were resized; None if they were not resized.
      notes: sentences for the user about images that were converted, skipped or left out when they were read.
    """

    name: str
    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    class_names: dict[int, str]
    stored_shape: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Its name and sizes; the arrays would fill the screen."""
        things = f"{'vectors' if self.are_vectors else 'images'} {list(self.x_train.shape[1:])}"
        return (
            f"Dataset({self.name!r}, {len(self.x_train)} training and {len(self.x_test)} test {things}, "
            f"{len(self.labels)} classes)"
        )

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels of the classes, ascending."""
        return tuple(int(label) for label in np.unique(self.y_train))

    @property
    def shown(self) -> dict[str, int]:
        """What the best settings depend on (`config.best`): of images the side, the channels, how many a class has.

        The side of vectors is 0, and their channels are how many numbers each has.
        """
        _, height, width, channels = self.x_train.shape
        if self.stored_shape is not None:
            height, width, channels = self.stored_shape
        per_class = int(np.median(list(Counter(self.y_train.tolist()).values())))
        side = 0 if self.are_vectors else max(height, width)
        return {"side": side, "channels": channels, "per_class": per_class, "classes": len(self.labels)}

    @property
    def are_vectors(self) -> bool:
        """Whether there are vectors and not images."""
        return are_vectors(self.x_train)

    def first_per_class(self, n: int) -> Dataset:
        """Keeps the first `n` training images of every class, in stored order, and all test images.

        A class with fewer training images keeps all of them.

        Raises:
          DataError: if `n` < 1.
        """
        if n < 1:
            raise DataError(f"n={n} training images per class: expected at least 1.")
        rows = np.sort(np.concatenate([rows[:n] for rows in rows_of(self.y_train).values()]))
        return dataclasses.replace(self, x_train=self.x_train[rows], y_train=self.y_train[rows])

    def of_classes(self, labels: Sequence[int]) -> Dataset:
        """Keeps only the images of the given classes.

        Raises:
          DataError: if the data set has no such class.
        """
        missing = sorted(set(labels) - set(self.labels))
        if missing:
            raise DataError(
                f"there is no class {_some_labels(np.array(missing))}; "
                f"the classes are {_some_labels(np.array(self.labels))}."
            )
        train, test = np.isin(self.y_train, list(labels)), np.isin(self.y_test, list(labels))
        return dataclasses.replace(
            self,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_test=self.x_test[test],
            y_test=self.y_test[test],
            class_names={label: self.class_names[label] for label in sorted(labels)},
        )

    def for_choosing(self, share: float = 0.25) -> Dataset:
        """A data set for choosing settings: its test images are a share of the *training* images of this one.

        Args:
          share: share of the training images of each class, in (0, 1); the last ones in stored order are taken.

        Raises:
          DataError: if `share` is out of range, or leaves a class without training or test images.
        """
        if not 0 < share < 1:
            raise DataError(f"share={share}: expected a share in (0, 1), e.g. 0.25.")
        kept, held = [], []
        for label, rows in rows_of(self.y_train).items():
            n_held = round(share * len(rows))
            if not 0 < n_held < len(rows):
                raise DataError(
                    f"share={share} of the {len(rows)} training images of class {label} "
                    "leaves it without training or test images."
                )
            kept.append(rows[:-n_held])
            held.append(rows[-n_held:])
        train, test = np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))
        return dataclasses.replace(
            self,
            name=f"{self.name}, judged on training images held out",
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_test=self.x_train[test],
            y_test=self.y_train[test],
        )

    def resized(self, size: int) -> Dataset:
        """Scales all images to `size` x `size` pixels as `resize` does; `self` if they already have that size.

        Raises:
          DataError: if `size` < 1, or is not 1 although the data are vectors.
        """
        if size < 1:
            raise DataError(f"size={size}: expected at least 1 pixel.")
        if self.are_vectors and size != 1:
            raise DataError(
                f"{self.name} holds vectors of {self.x_train.shape[3]} numbers, which cannot be scaled to images of "
                f"{size}x{size} pixels: image_size must be 1, as --preset vectors has it."
            )
        if self.x_train.shape[1:3] == (size, size):
            return self
        return dataclasses.replace(
            self,
            x_train=resize(self.x_train, size),
            x_test=resize(self.x_test, size),
            stored_shape=self.stored_shape or self.x_train.shape[1:],
        )


def from_arrays(
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike,
    y_test: ArrayLike,
    *,
    name: str = "arrays",
    class_names: Mapping[int, str] | Sequence[str] | None = None,
) -> Dataset:
    """Makes a `Dataset` of arrays and checks it.

    Args:
      x_train: images, [n, h, w, c] or [n, h, w]; uint8, or other integers that are all in 0..255, or bool (True is
        white); c in {1, 3}. The values of each part must span at least 32, because the networks see 0..255 as -1..1.
        Or vectors, floats [n, d] of any scale, such as features of another network; they are kept as float32.
      y_train: integers [n] or [n, 1], any values.
      x_test: images or vectors of the same shape as in `x_train`.
      y_test: integers [m] or [m, 1]; exactly the classes of `y_train`.
      name: the name of the data set in reports.
      class_names: names by label, or a list of the names of the labels 0, 1, ..., each different; by default the name
        of a label is its number. Names are compared and kept in Unicode's composed form (NFC).

    Returns:
      The data set. Arrays that already have the right dtype and shape are not copied.

    Raises:
      DataError: if an argument is not as described above.
    """
    if class_names is not None and not isinstance(class_names, Mapping):
        class_names = dict(enumerate(class_names))
    dataset = from_scaled_arrays(x_train, y_train, x_test, y_test, name=name, class_names=class_names)
    for part, images in (("x_train", dataset.x_train), ("x_test", dataset.x_test)):
        if dataset.are_vectors:
            continue
        low, high = _nearly_all(images)
        if images.size >= _FEW and 0 < high - low < _NARROW:
            shifted = f"x.astype(int) - {low}" if low else "x"
            raise DataError(
                f"{name}: the values of {part} lie in {low}..{high}; expected 0..255, from black to white. If {low} is "
                f"black and {high} white here, rescale: np.clip(np.round(({shifted}) * (255 / {high - low})), 0, 255)"
                ".astype(np.uint8)."
            )
    return dataset


def _nearly_all(images: Images) -> tuple[int, int]:
    """The range that holds all values but one in a thousand at either end: a few odd pixels do not count."""
    below = np.cumsum(np.bincount(images.reshape(-1), minlength=256))
    odd = images.size // 1000
    return int(np.searchsorted(below, odd, side="right")), int(np.searchsorted(below, images.size - odd))


def from_scaled_arrays(
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike,
    y_test: ArrayLike,
    *,
    name: str,
    class_names: Mapping[int, str] | None = None,
) -> Dataset:
    """As `from_arrays`, for sources that know what white is: dark images get a note."""
    train, test = _as_images(x_train, f"{name}: x_train"), _as_images(x_test, f"{name}: x_test")
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{name}: x_train holds images of shape {train.shape[1:]}, x_test of {test.shape[1:]}; "
            "expected the same (h, w, c): resize or convert one of them."
            if not are_vectors(train) or not are_vectors(test)
            else f"{name}: x_train holds vectors of {train.shape[3]} numbers, x_test of {test.shape[3]}; expected the "
            "same, from the same network."
        )
    notes: tuple[str, ...] = ()
    if not are_vectors(train):
        largest = max(int(train.max()), int(test.max()))
        notes = (f"the largest value of all images is {largest}, where white is 255",) * (largest < 4 * _NARROW)
    train_labels = _as_labels(y_train, len(train), f"{name}: y_train")
    test_labels = _as_labels(y_test, len(test), f"{name}: y_test")
    for labels, where, others, elsewhere in (
        (test_labels, "y_test", train_labels, "y_train"),
        (train_labels, "y_train", test_labels, "y_test"),
    ):
        unmatched = np.setdiff1d(labels, others)
        if unmatched.size:
            raise DataError(
                f"{name}: class {_some_labels(unmatched)} is in {where} but not in {elsewhere}; "
                f"every class needs training and test images: add some, or drop the class from {where}."
            )
    given = class_names or {}
    names = {int(label): composed(str(given.get(int(label), int(label)))) for label in np.unique(train_labels)}
    for class_name, times in Counter(names.values()).items():
        if times > 1:
            raise DataError(
                f"{name}: class_names has the name {class_name!r} for {times} classes; "
                "give each class a different name."
            )
    return Dataset(name, train, train_labels, test, test_labels, names, notes=notes)


def rows_of(labels: Labels) -> dict[int, NDArray[np.int64]]:
    """The rows of each label that is there, ascending."""
    order = np.argsort(labels, kind="stable")
    there, starts = np.unique(labels[order], return_index=True)
    return dict(zip(there.tolist(), np.split(order, starts[1:]), strict=True))


def composed(name: str) -> str:
    """A name in the form in which names are compared: one letter may be written in several ways in Unicode."""
    return unicodedata.normalize("NFC", name)


def _as_images(values: ArrayLike, what: str) -> Images:
    """Returns uint8 [n, h, w, c], or float32 [n, 1, 1, d] of vectors; raises a DataError that begins with `what`."""
    images = np.asarray(values)
    if images.ndim == 2 and np.issubdtype(images.dtype, np.floating):
        return as_vectors(images, what)
    if images.ndim == 2:
        side, side_of_colour = math.isqrt(images.shape[1]), math.isqrt(images.shape[1] // 3)
        line = "reshape(-1, height, width)"
        if side**2 == images.shape[1]:
            line = f"reshape(-1, {side}, {side})"
        elif 3 * side_of_colour**2 == images.shape[1]:  # As in CIFAR's pickles.
            line = f"reshape(-1, 3, {side_of_colour}, {side_of_colour}).transpose(0, 2, 3, 1)"
        raise DataError(
            f"{what} has shape {images.shape}; expected [n, h, w, c] or [n, h, w]. If each row is a vector: "
            f"x.astype(np.float32). If each row is an image: x.{line}."
        )
    if images.ndim == 3 and images.shape[2] == 3 and math.isqrt(images.shape[1]) ** 2 == images.shape[1] >= 64:
        side = math.isqrt(images.shape[1])
        raise DataError(f"{what} has shape {images.shape}; expected [n, h, w, c]: x.reshape(-1, {side}, {side}, 3).")
    if images.ndim not in (3, 4):
        raise DataError(f"{what} has shape {images.shape}; expected [n, h, w, c] or [n, h, w].")
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[-1] not in (1, 3):
        raise DataError(
            f"{what} has {images.shape[-1]} channels (shape {images.shape}); expected 1 (grey) or 3 (RGB) in the last "
            f"axis{_axes_hint(images.shape)}."
        )
    if images.size == 0:
        raise DataError(f"{what} has shape {images.shape}: no images; expected at least one.")
    if images.dtype == np.uint8:
        return images
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(images.dtype, np.integer):
        fault = ""
        if np.issubdtype(images.dtype, np.floating):
            low, high = float(images.min()), float(images.max())
            outside = f" with values {low:g}..{high:g}, out of range" if low < 0 or high > 255 else ""
            fault = " and contains NaN" if np.isnan(low) else outside
        raise DataError(
            f"{what} is {images.dtype}{fault}; expected uint8 in 0..255: "
            "rescale to 0..255, then np.round(x).astype(np.uint8)."
        )
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise DataError(
            f"{what} is {images.dtype} with values {low}..{high}; expected uint8 in 0..255: rescale, then convert."
        )
    return images.astype(np.uint8)


def _axes_hint(shape: tuple[int, ...]) -> str:
    """What to do about a last axis that is none of channels."""
    if shape[1] in (1, 3):
        return ". The channels come first here: x.transpose(0, 2, 3, 1)"
    if shape[2] in (1, 3):
        return ". The images come last here: x.transpose(3, 0, 1, 2)"
    return ". Leave out transparency: x[..., :3]" if shape[3] == 4 else ""


def _as_labels(values: ArrayLike, n: int, what: str) -> Labels:
    """Returns int64 [n], or raises a DataError that begins with `what`."""
    labels = np.asarray(values)
    if labels.ndim == 2 and labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.ndim == 2 and len(labels) == n and np.all(np.sum(labels != 0, axis=1) == 1):
        raise DataError(f"{what} has shape {labels.shape}, one-hot; expected ({n},): y.argmax(axis=1).")
    if n and labels.shape == (n,) and (labels.dtype.kind in "UST" or isinstance(labels[0], str)):
        raise DataError(
            f"{what} is text, e.g. {str(labels[0])!r}; expected integer labels: names, y = np.unique(y, "
            "return_inverse=True). The names can be given as class_names."
        )
    if labels.shape != (n,):
        raise DataError(f"{what} has shape {labels.shape}; expected ({n},), one integer label per image.")
    if not np.issubdtype(labels.dtype, np.integer):
        nan = np.issubdtype(labels.dtype, np.floating) and bool(np.isnan(labels).any())
        raise DataError(
            f"{what} is {labels.dtype}{' and contains NaN' if nan else ''}; "
            f"expected integer labels: {'remove those images' if nan else 'number the classes'}, "
            "then y.astype(np.int64)."
        )
    if n and int(labels.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{what} holds {labels.max()}, which is too large; expected labels below 2**63: renumber them.")
    return labels.astype(np.int64, copy=False)


def _some_labels(labels: np.ndarray, at_most: int = 5) -> str:
    """Lists the first labels: "3", or "3, 4", or "0, 1, 2, 3, 4, ..."."""
    return ", ".join(str(label) for label in labels[:at_most]) + (", ..." if len(labels) > at_most else "")


@naming_extras()
def resize(images: Images, size: int) -> Images:
    """Scales uint8 images [n, h, w, c] to `size` x `size` (bilinear; averages when it shrinks, to avoid aliasing)."""
    from PIL import Image

    out = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
        out[i] = resized.reshape(out.shape[1:])
    return out
