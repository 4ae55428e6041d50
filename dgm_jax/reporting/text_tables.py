"""What a run has measured, as lines and tables of text for the console."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

from dgm_jax.runs.events import TaskEnd

SCREEN = 24  # Lines: what is printed after a task fits on one screen.


def task_report(title: str, event: TaskEnd, width: int) -> Iterator[RenderableType]:
    """At most `SCREEN` lines after a task, the most important numbers first.

    Args:
      title: the first line.
      event: the end of the task.
      width: columns of the console.
    """
    gates = _gates(event)
    yield ""
    yield title
    if event.average:
        forgetting = event.forgetting if event.task else {}
        yield average_table(len(event.class_names), event.protocol, event.average, forgetting)
        yield ""
        lines = SCREEN - 4 - len(event.average) - len(gates)
        yield from _accuracy_tables(event.class_names, event.accuracy, width, lines)
    else:
        yield "  accuracy was not measured after this task (--evaluate-every)"
    yield from gates


def average_table(
    n_classes: int, protocol: str, average: Mapping[str, Mapping[str, float]], forgetting: Mapping[str, float | None]
) -> Padding:
    """A_n and, if given, forgetting of every reading."""
    headers = [f"A_{n_classes} ({protocol} protocol), %", "macro", "micro"]
    rows = [[reading, percent(means["macro"]), percent(means["micro"])] for reading, means in average.items()]
    if forgetting:
        headers.append("forgetting, points")
        for row in rows:
            row.append(percent(forgetting.get(row[0])))
    return _table(headers, rows)


def aligned(facts: Mapping[str, str], width: int, most: int = SCREEN) -> list[str]:
    """Lines of names and values; long values are wrapped, but never within a path, so that it can be copied.

    Args:
      facts: values by their names.
      width: columns of the console.
      most: lines of a value; what does not fit is left out, and the last line says so.
    """
    indent = max(map(len, facts)) + 2
    lines: list[str] = []
    for name, value in facts.items():
        room = max(width - indent, 20)
        parts = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False, max_lines=most) or [""]
        lines += [f"{name:{indent}}{parts[0]}", *(" " * indent + part for part in parts[1:])]
    return lines


def percent(value: float | None) -> str:
    """One decimal; "-" if it is unknown or NaN, which a class without test images has."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def time_of(seconds: float) -> str:
    """`0:07`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rough_time(seconds: float) -> str:
    """An estimate, rounded to what it is worth."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def _gates(event: TaskEnd) -> list[str]:
    """What the task used of the generator, over all layers; capacity.csv has each layer."""
    if not event.capacity:
        return []
    used, new, reused, free = (
        f"{sum(row[name] for row in event.capacity):,}" for name in ("used", "newly_reserved", "reused", "free")
    )
    widths = f"; widths from now on: {'-'.join(map(str, event.widths))}" if event.widths else ""
    return [f"  gates: {used} used ({new} new, {reused} reused), {free} free{widths}"]


def _accuracy_tables(
    names: Sequence[str], accuracy: Mapping[str, Sequence[float | None]], width: int, lines: int
) -> Iterator[RenderableType]:
    """A column for each class seen, in as many tables as are needed.

    If they take more than `lines`, only the first reading is shown, and only the classes with the lowest accuracy.
    """
    header = "accuracy, %"
    column = max(6, *(len(name) + 2 for name in names))
    columns = max(1, (width - 2 - max(map(len, (header, *accuracy)))) // column)
    shown, left_out = dict(accuracy), ""
    if math.ceil(len(names) / columns) * (1 + len(shown)) > lines:
        first = next(iter(accuracy))
        places: Sequence[int] = range(len(names))
        most = (lines - 1) // 2 * columns
        if len(names) > most:
            values = [math.inf if a is None or a != a else a for a in accuracy[first]]
            places = sorted(sorted(places, key=values.__getitem__)[:most])
            left_out = f"  the {most} of {len(names)} classes with the lowest accuracy; all: accuracy_matrix.csv"
        else:
            left_out = "  all readings: accuracy_matrix.csv"
        names, shown = [names[place] for place in places], {first: [accuracy[first][place] for place in places]}
    for start in range(0, len(names), columns):
        part = slice(start, start + columns)
        rows = [[reading, *map(percent, values[part])] for reading, values in shown.items()]
        yield _table([header, *names[part]], rows, width=column - 1, gap=1)
    if left_out:
        yield left_out


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = 0, gap: int = 2) -> Padding:
    """An indented table without rules, with columns at least `width` wide; the first column has names."""
    table = Table(box=None, padding=(0, 0, 0, gap), pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        is_name = number == 0
        table.add_column(
            header, justify="left" if is_name else "right", min_width=0 if is_name else width, no_wrap=True
        )
    for row in rows:
        table.add_row(*row)
    return Padding(table, (0, 0, 0, 2), expand=False)
