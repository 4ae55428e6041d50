"""Where the window of a convolution stands: step, padding and dilation, one for each axis of space."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Sizes = int | Sequence[int]
Padding = str | int | Sequence[int | Sequence[int]]
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Geometry:
    """What a convolution does beside its arrays, with a number (or a pair) for each axis of space."""

    stride: tuple[int, ...]
    padding: Pairs
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int


def per_axis(name: str, value: Any, axes: int) -> tuple[int, ...]:
    """One number >= 1 for each axis; a single number is that of all axes. Raises ValueError."""
    try:
        numbers = tuple(map(operator.index, _listed(value, axes)))
    except TypeError:
        numbers = ()
    if len(numbers) != axes or min(numbers) < 1:
        raise ValueError(f"{name}={value!r}; expected a whole number >= 1, or one for each axis ({axes})")
    return numbers


def pairs(padding: Any, axes: int) -> Pairs:
    """A pair (before, after) of numbers >= 0 for each axis; a single number is both. Raises ValueError."""
    try:
        found = tuple(tuple(map(operator.index, _listed(pair, 2))) for pair in _listed(padding, axes))
    except TypeError:
        found = ()
    if len(found) != axes or any(len(pair) != 2 or min(pair) < 0 for pair in found):
        raise ValueError(
            f"padding={padding!r}; expected 'SAME', 'VALID', a whole number >= 0, "
            f"or a number or a pair (before, after) for each axis ({axes})"
        )
    return found  # type: ignore[return-value]


def extents(window: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """How many pixels a window spans on each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))


def _listed(value: Any, count: int) -> Sequence[Any]:
    return value if isinstance(value, (tuple, list)) else (value,) * count
