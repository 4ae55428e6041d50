"""Reads and checks the order of classes and the sizes of tasks, given in code or on the command line."""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dgm_jax.data.classes import check_classes, few, read_names
from dgm_jax.data.dataset import DataError, composed


def parse_class_order(
    text: str, labels: Sequence[int], names: Mapping[int, str] | None = None, *, seed: int = 0
) -> tuple[int, ...]:
    """Reads a class order from the command line.

    Args:
      text: "natural" (ascending); "random:SEED"; "seed", which is "random:SEED" with the seed of the run, so that each
        seed has its own order; "legacy:SEED", the order of `numpy.random.seed(SEED)` that published class-incremental
        results have (with 1993); all labels or all names, e.g. "3,1,2" or "cat,dog", with or without brackets; or
        "@FILE", a text file with one name a line, in which `#` begins a comment.
      labels: the labels of the data set.
      names: the name of each label; None if labels have no names.
      seed: of the run.

    Returns:
      A permutation of `labels`.

    Raises:
      DataError: if `text` is none of these, or not a permutation of `labels`; or if it gives numbers where a number
        can be a label or a name of another label.
    """
    if text == "natural":
        return tuple(sorted(labels))
    kind, _, number = (f"random:{seed}" if text == "seed" else text).partition(":")
    if kind in ("random", "legacy") and number.isdecimal():
        if kind == "legacy" and int(number) >= 2**32:
            raise DataError(f"class order {text!r}: expected a seed below 2**32, as NumPy's old generator takes it.")
        generator = np.random.default_rng(int(number)) if kind == "random" else np.random.RandomState(int(number))
        return tuple(int(label) for label in generator.permutation(sorted(labels)))
    named = {name: label for label, name in (names or {}).items()}
    if text.startswith("@"):
        in_file = check_classes(read_names(Path(text[1:])), tuple(named), text[1:])
        return check_order([named[name] for name in in_file], labels)
    words = [
        composed(word.strip().strip("'\"")) for word in text.strip().removeprefix("[").removesuffix("]").split(",")
    ]
    by_name = [named[word] for word in words] if set(words) <= set(named) else None
    by_number = [int(word) for word in words] if all(map(_is_number, words)) else None
    doubtful = [word for word in words if by_number is not None and named.get(word, int(word)) != int(word)]
    if doubtful:
        label = int(doubtful[0])
        other = f", and label {label} is the class named {names[label]!r}" if names and label in names else ""
        raise DataError(
            f"class order {text!r}: {label} is the name of a class{other}; give the names in a file, one a line "
            "(--class-order @FILE)."
        )
    order = by_number if by_name is None else by_name
    if order is None:
        unknown = [word for word in words if word not in named]
        raise DataError(
            f"class order {text!r}: expected natural, random:SEED (e.g. random:0), seed, legacy:SEED, all labels "
            f"(e.g. 3,1,2), all names, or @FILE{f'; there is no class {few(unknown)}' if named and unknown else ''}."
        )
    return check_order(order, labels)


def _is_number(word: str) -> bool:
    """Whether a word is a label as labels are written: "007" is not."""
    return word.removeprefix("-").isdecimal() and str(int(word)) == word


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


def classes_of(tasks: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The classes of tasks, each once, in the order in which they came first; a later task may bring one again."""
    return tuple(dict.fromkeys(itertools.chain.from_iterable(tasks)))


def first_tasks(tasks: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """For each task, those of its classes that no task before it has."""
    n_seen = [len(classes_of(tasks[:number])) for number in range(len(tasks) + 1)]
    return tuple(classes_of(tasks)[start:stop] for start, stop in itertools.pairwise(n_seen))


def last_tasks(tasks: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """For each task, those of its classes that no task after it has."""
    later = [set(classes_of(tasks[number + 1 :])) for number in range(len(tasks))]
    return tuple(tuple(c for c in task if c not in again) for task, again in zip(tasks, later, strict=True))


def check_order(order: Sequence[int], labels: Sequence[int]) -> tuple[int, ...]:
    """Returns `order` if it is a permutation of `labels`.

    Raises:
      DataError: if it names an unknown label, one label twice, or not all labels.
    """
    classes = tuple(operator.index(label) for label in order)
    known = set(labels)
    for label, times in Counter(classes).items():
        if label not in known:
            raise DataError(f"class_order names class {label}; the data set has {_comma(sorted(labels))}.")
        if times > 1:
            raise DataError(f"class_order names class {label} {times} times; a class belongs to one task only.")
    missing = sorted(known - set(classes))
    if missing:
        raise DataError(
            f"class_order lacks class {_comma(missing)}; expected all of {_comma(sorted(labels))}, each once."
        )
    return classes


def _comma(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
