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
# Distinguishable for colour-blind readers, and legible on white and on black.
COLOURS = ("#2f7fd6", "#dd7a2a", "#259a6c", "#b8609f", "#a4922a", "#7a7f87", "#c7504d", "#4ba3b5")
_PER_INCH = 72
_MOST_IN_LEGEND = 20  # Names.


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
    text = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1system-ui, sans-serif", text)  # Instead of Matplotlib's fonts.
    head = (
        f'<svg viewBox="0 0 {width * _PER_INCH:g} {height * _PER_INCH:g}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(head + text[text.index(">") + 1 :].replace(INK, "currentColor"))


def lines(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    *,
    x: str,
    y: str,
    low: float | None = None,
    high: float | None = None,
    marks: bool = True,
) -> "Markup":
    """Draws one line for each name, through points (place, value); a value of None leaves a gap."""

    def draw(axes: Any) -> None:
        for name, (places, values) in series.items():
            known = [float("nan") if value is None else value for value in values]
            axes.plot(places, known, label=name, marker="o" if marks else None, markersize=3.5, linewidth=1.6)
        axes.set(xlabel=x, ylabel=y, ylim=(low, high))
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(series) > 1:
            axes.legend(loc="best")

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
            axes.scatter(*cloud.T, s=9, color=colour, linewidths=0, label=name)
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
