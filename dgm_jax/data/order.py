"""Reads and checks the order of classes and the sizes of tasks, given in code or on the command line."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from dgm_jax.data.dataset import DataError


def parse_class_order(text: str, labels: Sequence[int]) -> tuple[int, ...]:
    """Reads a class order from the command line.

    Args:
      text: "natural" (ascending), "random:SEED", or all labels, e.g. "3,1,4,0,2".
      labels: the labels of the data set.

    Returns:
      A permutation of `labels`.

    Raises:
      DataError: if `text` is none of these, or not a permutation of `labels`.
    """
    if text == "natural":
        return tuple(sorted(labels))
    kind, _, seed = text.partition(":")
    if kind == "random" and seed.isdecimal():
        return tuple(int(label) for label in np.random.default_rng(int(seed)).permutation(sorted(labels)))
    try:
        order = [int(label) for label in text.split(",")]
    except ValueError:
        raise DataError(
            f"class order {text!r}: expected natural, random:SEED (e.g. random:0), or all labels, e.g. 3,1,2."
        ) from None
    return check_order(order, labels)


def parse_classes_per_task(text: str) -> int | tuple[int, ...]:
    """Reads task sizes from the command line: "2" means two classes in every task, "3,3,4" means three tasks.

    Raises:
      DataError: if `text` is neither.
    """
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise DataError(f"classes per task {text!r}: expected a number >= 1 (e.g. 2), or one per task (e.g. 3,3,4).")
    return sizes if "," in text else sizes[0]


def task_sizes(classes_per_task: int | Sequence[int], n_classes: int) -> list[int]:
    """Returns the number of classes of each task; they sum to `n_classes`.

    Args:
      classes_per_task: as for `class_incremental`.
      n_classes: the number of classes of the data set.

    Raises:
      DataError: if the sizes do not sum to `n_classes`, or one number does not divide it.
    """
    if not isinstance(classes_per_task, (int, np.integer)):
        sizes = [operator.index(size) for size in classes_per_task]
        if sum(sizes) != n_classes or min(sizes, default=0) < 1:
            raise DataError(
                f"classes_per_task={_comma(sizes)} sums to {sum(sizes)}; "
                f"expected numbers >= 1 that sum to {n_classes}, the number of classes."
            )
        return sizes
    size = operator.index(classes_per_task)
    if size < 1:
        raise DataError(f"classes_per_task={size}: expected at least 1.")
    whole, rest = divmod(n_classes, size)
    if rest:
        raise DataError(
            f"{n_classes} classes do not split into tasks of {size}; give e.g. {_comma([size] * whole + [rest])}."
        )
    return [size] * whole


def check_order(order: Sequence[int], labels: Sequence[int]) -> tuple[int, ...]:
    """Returns `order` if it is a permutation of `labels`.

    Raises:
      DataError: if it names an unknown label, one label twice, or not all labels.
    """
    classes = tuple(operator.index(label) for label in order)
    for label in classes:
        if label not in labels:
            raise DataError(f"class_order names class {label}; the data set has {_comma(sorted(labels))}.")
        if classes.count(label) > 1:
            times = classes.count(label)
            raise DataError(f"class_order names class {label} {times} times; a class belongs to one task only.")
    missing = sorted(set(labels) - set(classes))
    if missing:
        raise DataError(
            f"class_order lacks class {_comma(missing)}; expected all of {_comma(sorted(labels))}, each once."
        )
    return classes


def _comma(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
