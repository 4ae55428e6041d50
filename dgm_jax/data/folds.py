"""Test images from among others: folds for data sets with too few of them, and a part of those that have none."""

import dataclasses

import numpy as np

from dgm_jax.data.dataset import DataError, Dataset, Labels, rows_of


def last_fifths(labels: Labels) -> np.ndarray:
    """The last fifth of the rows of each class, rounded down, but at least one: bool [n]."""
    chosen = np.zeros(len(labels), bool)
    for rows in rows_of(labels).values():
        chosen[rows[-max(1, len(rows) // 5) :]] = True
    return chosen


def fold(dataset: Dataset, number: int, n: int) -> Dataset:
    """One of `n` divisions of a data set: in all of them together, each image is a test image once.

    The images of a class, first the training and then the test images in stored order, are dealt out in turn. So each
    fold has an equal share of each class, and it is the same for every method and seed.

    Args:
      dataset: the data set.
      number: of the fold whose images are the test images, in 1..n.
      n: how many folds there are, at least 2.

    Returns:
      The data set, under the name of the fold.

    Raises:
      DataError: if `number` or `n` is out of range, or a class has fewer than `n` images.
    """
    if not (n >= 2 and 1 <= number <= n):
        raise DataError(f"fold {number} of {n}: expected a number from 1 to that of all folds, e.g. 1 of 5.")
    images = np.concatenate([dataset.x_train, dataset.x_test])
    labels = np.concatenate([dataset.y_train, dataset.y_test])
    is_test = np.zeros(len(labels), bool)
    for label, rows in rows_of(labels).items():
        if len(rows) < n:
            raise DataError(f"{n} folds of the {len(rows)} images of class {label}: make fewer folds.")
        is_test[rows[number - 1 :: n]] = True
    return dataclasses.replace(
        dataset,
        name=fold_name(dataset.name, number, n),
        x_train=images[~is_test],
        y_train=labels[~is_test],
        x_test=images[is_test],
        y_test=labels[is_test],
    )


def fold_name(name: str, number: int, n: int) -> str:
    """What a fold of the data set `name` is called in the files of a run."""
    return f"{name}, fold {number} of {n}"


def parse_fold(text: str) -> tuple[int, int]:
    """Reads a fold from the command line: "1/5" is the first of five.

    Raises:
      DataError: if it is not two numbers.
    """
    number, _, n = text.partition("/")
    if not (number.isdecimal() and n.isdecimal()):
        raise DataError(f"fold {text!r}: expected its number and how many folds there are, e.g. 1/5.")
    return int(number), int(n)
