"""Physical widths: how wide the arrays of a growing generator are, so that a whole run compiles few programs."""

from collections.abc import Sequence

# When arrays are too small, new ones have room for this multiple of the growth so far. Compiling costs the same at any
# width, but padding costs more the wider the arrays are, so later tasks get less of it.
_LOOK_AHEAD, _LOOK_AHEAD_LATER, _LATER = 2.25, 1.5, 7
_MARGIN = 1.1  # The room is at most this multiple of what the run needs if growth stays as it is.
_MULTIPLE = 8  # Widths are multiples of 8, which suits vector units.


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
      A width for each layer, at least its logical one. It depends only on the arguments: a resumed run gets the same.
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
