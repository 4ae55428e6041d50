"""Physical widths: how wide the arrays of a growing generator are, so that a whole run compiles few programs."""

from collections.abc import Sequence

# Arrays that were outgrown make room for so many times the growth so far. To compile costs the same at any width, but
# padding costs more the wider the arrays are: after some tasks less of it pays.
_LOOK_AHEAD, _LOOK_AHEAD_LATER, _LATER = 2.25, 1.5, 7
_MARGIN = 1.1  # But for no more than so many times what the run will need if it goes on as it has.
_MULTIPLE = 8  # Widths are multiples of it, as vector units like them.


def physical_widths(history: Sequence[Sequence[int]], *, headroom: int, n_tasks: int) -> tuple[int, ...]:
    """The padded widths at which a task is trained, from all logical widths up to now.

    The first arrays have room for `headroom` times the first task. When any layer has outgrown its array, all arrays
    are laid out anew, for the growth to be expected: that of the last `t` tasks, once more and a quarter (after seven
    tasks, half of it). So the number of shapes grows with the logarithm of that of tasks; ten of steady growth need
    three.

    Args:
      history: logical widths of each layer before the first task, the second, ..., and the one to be trained.
      headroom: room in the first arrays, >= 1.
      n_tasks: tasks in the whole run.

    Returns:
      A width for each layer, at least its logical one. It depends on the arguments alone: a resumed run finds the same.
    """
    first = history[0]
    physical = tuple(headroom * width for width in first)
    for task, widths in enumerate(history):
        if any(width > room for width, room in zip(widths, physical, strict=True)):
            look_ahead = _LOOK_AHEAD if task < _LATER else _LOOK_AHEAD_LATER
            ahead = max(1.0, min(look_ahead, _MARGIN * (n_tasks - 1) / task))
            expected = (int(start + ahead * (width - start)) for start, width in zip(first, widths, strict=True))
            physical = tuple(-(-width // _MULTIPLE) * _MULTIPLE for width in expected)
    return physical
