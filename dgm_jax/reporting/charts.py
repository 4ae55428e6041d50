"""Charts as SVG that takes its text colour from the page around it, so that it suits light, dark and printed pages."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # Only pages need the libraries for charts, so that a run can do without them.
    from markupsafe import Markup

INK = "#0a0b0c"  # A placeholder for the text colour of the page; nothing else is drawn in this colour.
# Distinguishable for colour-blind readers, with a contrast of at least 3:1 to the paper of both schemes (page.html).
COLOURS = ("#2f7fd6", "#c8691c", "#259a6c", "#b8609f", "#95841f", "#7a7f87", "#c7504d", "#3d92a3")
_MARKS, _DASHES = "osD^vPX*", ("-", "--", "-.", ":")  # Lines differ in more than colour.
_PER_INCH = 72
_MOST_IN_LEGEND = 20  # Names.
_CLEAR = 0.04  # Of the height of a chart: what is free above the highest value there can be.


def import_matplotlib() -> Any:
    """Imports Matplotlib, which fails if $MPLBACKEND names a backend that is not installed; charts here need none.

    A notebook sets that variable for every command that is started from it, in whatever environment.
    """
    backend = os.environ.pop("MPLBACKEND", None) if "matplotlib" not in sys.modules else None
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    return matplotlib


def svg(title: str, draw: Callable[[Any], None], *, width: float = 6.4, height: float = 2.9) -> "Markup":
    """Draws one chart.

    Args:
      title: describes the chart to screen readers; it is not drawn.
      draw: draws on the Matplotlib axes that it is called with.
      width: in inches; the page scales the chart to the width it has.
      height: in inches.

    Returns:
      An `<svg>` element, whose text is text and not outlines.
    """
    matplotlib = import_matplotlib()
    from cycler import cycler
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    settings: Any = {
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": INK,
        "grid.alpha": 0.15,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS),
        "legend.frameon": False,
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": title,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # Nothing refers to them, and other charts of a page have the same.
    text = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1system-ui, sans-serif", text)  # Instead of Matplotlib's fonts.
    head = (
        f'<svg viewBox="0 0 {width * _PER_INCH:g} {height * _PER_INCH:g}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(head + text[text.index(">") + 1 :].replace(INK, "currentColor"))


def plain(name: str) -> str:
    """A name as Matplotlib draws it letter by letter: without formulas between $, and not left out of the legend."""
    name = name.replace("$", r"\$")
    return f"\u200b{name}" if name.startswith("_") else name


def lines(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    *,
    x: str,
    y: str,
    low: float | None = None,
    high: float | None = None,
    marks: bool = True,
    spreads: Mapping[str, Sequence[float]] | None = None,
) -> "Markup":
    """Draws one line for each name, through points (place, value); a value of None leaves a gap.

    Args:
      title: as for `svg`.
      series: by name, places and values.
      x: what places are.
      y: what values are.
      low: where the axis of values begins; None: below the values.
      high: the highest value there can be, which stays clear of the frame; None: the axis ends above the values.
      marks: whether each point has a mark; otherwise lines differ in their dashes.
      spreads: for some names, how far a band around the line reaches up and down, for each of its values.
    """

    def draw(axes: Any) -> None:
        for index, (name, (places, values)) in enumerate(series.items()):
            known = np.array([np.nan if value is None else value for value in values])
            style = {"marker": _MARKS[index % len(_MARKS)], "markersize": 3.5} if marks else {}
            dashes = _DASHES[(index if not marks else index // len(COLOURS)) % len(_DASHES)]
            (line,) = axes.plot(places, known, label=plain(name), linestyle=dashes, linewidth=1.6, **style)
            if spreads and name in spreads:
                half = np.array(spreads[name])
                above = known + half if high is None else np.minimum(known + half, high)
                axes.fill_between(places, known - half, above, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set(xlabel=x, ylabel=y, ylim=(low, high))
        if high is not None:
            bottom = axes.get_ylim()[0]
            axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= high])
            axes.set_ylim(bottom, high + _CLEAR * (high - bottom))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        left, right = axes.get_xlim()
        if right - left < 1:  # A single task: without room around it, ticks would be fractions of tasks.
            axes.set_xlim((left + right - 1) / 2, (left + right + 1) / 2)
        if 1 < len(series) <= len(COLOURS):
            axes.legend(loc="best")
        elif len(series) > 1:  # Beside the lines, of which it would hide some.
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")

    return svg(title, draw)


def points(
    title: str, clouds: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], *, x: str, y: str
) -> "Markup":
    """Draws a dot for each point [n, 2] of each name, in a colour of the name, and a cross for each of the others.

    Distances are to the same scale along both axes.
    """

    def draw(axes: Any) -> None:
        colours = import_matplotlib().colormaps["turbo"]
        for number, (name, cloud) in enumerate(clouds.items()):
            colour = colours(0.1 + 0.8 * (number + 0.5) / len(clouds))  # Its ends cannot be seen on dark paper.
            axes.scatter(*cloud.T, s=9, color=colour, linewidths=0, label=plain(name))
            if name in others:
                axes.scatter(*others[name].T, s=14, color=colour, marker="x", linewidths=0.8)
        axes.set(xlabel=x, ylabel=y)
        axes.set_aspect("equal", adjustable="datalim")
        if len(clouds) <= _MOST_IN_LEGEND:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)

    return svg(title, draw, height=4.2)


def stacked(title: str, columns: Sequence[str], parts: Mapping[str, Sequence[float]], *, x: str, y: str) -> "Markup":
    """Draws one column for each name, with its parts stacked on each other."""

    def draw(axes: Any) -> None:
        below = [0.0] * len(columns)
        for name, values in parts.items():
            axes.bar(columns, values, bottom=below, label=name, width=0.7)
            below = [a + b for a, b in zip(below, values, strict=True)]
        axes.set(xlabel=x, ylabel=y)
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper left", ncols=len(parts))
        axes.margins(y=0.2)

    return svg(title, draw)
