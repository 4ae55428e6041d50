"""What the pages of one run and of several runs share: their templates, their curves, and how they write numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from dgm_jax.reporting import charts

# How tasks and accuracies are counted on pages, on the console, and in docs/measures.md.
COUNTING = (
    "Tasks are counted from 0, here as in files, options and messages; A_n is the mean accuracy over the n classes "
    "seen so far, so that with one class a task A_1 is measured after task 0."
)
Curve = tuple[Sequence[float], Sequence[float | None]]  # Tasks, and percents after them.


def render(template: str, **values: Any) -> str:
    """Fills a template of this folder; what is written into it is text, never markup, unless it is `Markup`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dgm_jax.reporting", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(size=size, counting=COUNTING, **values)


def curve(values: Sequence[float | None], gap: int = 0) -> Curve:
    """Percents after the tasks that were measured; interrupted before task number `gap`, if that is not 0."""
    points: dict[float, float | None] = {t: 100 * value for t, value in enumerate(values) if value is not None}
    if gap:
        points[gap - 0.5] = None
    places = sorted(points)
    return places, [points[place] for place in places]


def accuracy_chart(curves: Mapping[str, Curve], spreads: Mapping[str, Sequence[float]] | None = None) -> Any:
    """Accuracy over all classes seen, in percent; of each name, after each task."""
    title = "accuracy after each task, %"
    return charts.lines(title, curves, x="after task", y="A_n, %", high=100, spreads=spreads)


def size(n: float) -> str:
    """Bytes, e.g. "12.3 kB"."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def duration(seconds: float) -> str:
    """Minutes or hours, e.g. "12.3 min"."""
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
