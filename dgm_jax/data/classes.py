"""Chooses classes of a data set or of a run: reads a choice, and checks it against those that there are."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dgm_jax.data.dataset import DataError, composed
from dgm_jax.errors import UserError


def parse_classes(text: str, available: Sequence[str]) -> tuple[str, ...]:
    """Reads a choice of classes from the command line.

    Args:
      text: names separated by commas; "first:50" for the first 50 of `available`; or "@FILE", a text file with one
        name per line, in which `#` after a space begins a comment.
      available: the names of all classes.

    Returns:
      The chosen names, in the order given.

    Raises:
      DataError: if `text` is none of these, or names a class that is not available, or one class twice.
    """
    kind, _, number = text.partition(":")
    if kind == "first" and text not in available:
        most = len(available)
        if not number.isdecimal() or not 1 <= int(number) <= most:
            raise DataError(f"classes {text!r}: there are {most} classes; expected first:N with N from 1 to {most}.")
        return tuple(available[: int(number)])
    if text.startswith("@"):
        return check_classes(read_names(Path(text[1:])), available, text[1:])
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise DataError(f"classes {text!r}: expected names separated by commas, first:N (e.g. first:50), or @FILE.")
    return check_classes(names, available, repr(text))


def check_classes(chosen: Sequence[str], available: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns `chosen`, as `available` writes it, if it names at least one class, only available ones, each one once.

    Raises:
      DataError: otherwise; the message says `where` the choice was made.
    """
    if not chosen:
        raise DataError(f"classes {where} names no class; expected at least one of {few(available)}.")
    written = {composed(name): name for name in available}
    chosen = [written.get(composed(name), name) for name in chosen]
    unknown = [name for name in chosen if composed(name) not in written]
    if unknown:
        close = difflib.get_close_matches(unknown[0], available, n=3)
        hint = f"; {unknown[0]} is close to {few(close)}" if close else ""
        raise DataError(
            f"classes {where}: {few(unknown)} {'is' if len(unknown) == 1 else 'are'} not among the {len(available)} "
            f"available classes ({few(available)}){hint}."
        )
    twice = [name for name, times in Counter(chosen).items() if times > 1]
    if twice:
        raise DataError(f"classes {where} names {few(twice)} more than once; name each class once.")
    return tuple(chosen)


def few(names: Sequence[str], at_most: int = 5) -> str:
    """Lists the first names, and their number if there are more: "a, b", or "a, b, c, d, e, ... (12)"."""
    return ", ".join(names[:at_most]) + (f", ... ({len(names)})" if len(names) > at_most else "")


def read_names(path: Path) -> list[str]:
    """Reads a text file with one name a line; `#` after a space begins a comment.

    Raises:
      DataError: if the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"classes @{path}: the file cannot be read ({error}); expected one name per line.") from error
    return [name for name in (re.split(r"(?:^|\s)#", line)[0].strip() for line in lines) if name]


def new_labels(classes: Sequence[str] | None, names: Sequence[str], where: str) -> dict[int, int]:
    """Maps the stored label of each chosen class to its new label, its position in `classes`; None keeps all labels.

    `names` are the names of the stored labels 0, 1, ...; raises as `check_classes`.
    """
    if classes is None:
        return {label: label for label in range(len(names))}
    stored = {name: label for label, name in enumerate(names)}
    return {stored[name]: label for label, name in enumerate(check_classes(classes, names, where))}


def titled(label: int, name: str) -> str:
    """A class as a person reads it: its label and its name, once if they are the same."""
    return str(label) if str(label) == name else f"{label} {name}"


def find_classes(words: Sequence[str], known: dict[int, str]) -> list[int]:
    """The labels of classes that are given by label or by name, without repetition.

    Args:
      words: labels or names.
      known: the name of each label that the memory knows.

    Raises:
      UserError: if a word is unknown, or is the label of one class and the name of another.
    """
    words, known = [composed(word) for word in words], {label: composed(name) for label, name in known.items()}
    by_word = {str(label): label for label in known}
    for label, name in known.items():
        if by_word.setdefault(name, label) != label and name in words:
            other = known[by_word[name]]
            raise UserError(
                f"--classes {name} is ambiguous: it is the label of class {other!r} and the name of the class with "
                f"label {label}; write {other} for the first or {label} for the second"
            )
    unknown = [word for word in words if word not in by_word]
    if unknown:
        titles = ", ".join(titled(label, name) for label, name in known.items())
        apart = [part for word in words for part in word.split(",")]  # As learn's --classes has them.
        hint = f"; write --classes {' '.join(apart)}" if len(apart) > len(words) and set(apart) <= set(by_word) else ""
        raise UserError(f"--classes {' '.join(unknown)}: unknown to the memory; it knows {titles}{hint}")
    return list(dict.fromkeys(by_word[word] for word in words))
