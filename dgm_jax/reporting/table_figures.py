"""The figures of the table: curves, accuracy against bytes, growth, and what each part of DGM contributes."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgm_jax.reporting.charts import import_matplotlib
from dgm_jax.runs import comparing
from dgm_jax.runs.summary import Summary

Results = Mapping[str, Mapping[str, Sequence[Summary]]]  # Data set -> method -> its runs.


def figures(results: Results, out: Path) -> list[str]:
    """Draws A_t over tasks, the generator's size and re-use of gates, and accuracy over bytes; returns file names."""
    import_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    names = []

    def save(figure: Any, name: str) -> None:
        names.append(name)
        figure.savefig(out / name, dpi=110)

    for data, methods in results.items():
        protocols = dict.fromkeys(run.protocol for runs in methods.values() for run in runs)
        title = f"{data}, protocol {', '.join(protocols)}"
        figure = Figure(figsize=(11, 7), layout="constrained")
        grows = any(runs[0].capacity for runs in methods.values())  # Without such a run, its panels would be empty.
        panels: list[Any] = [["accuracy", "size"], ["accuracy", "reuse"]] if grows else [["accuracy"]]
        axes = figure.subplot_mosaic(panels, width_ratios=[1.6, 1] if grows else [1])
        for index, (method, runs) in enumerate(methods.items()):
            style = {"color": f"C{index % 10}", "linestyle": "-" if index < 10 else "--", "label": method}
            _curves(axes["accuracy"], runs, style)
            if runs[0].capacity:
                _growth(axes["size"], axes["reuse"], runs[0], style)
        several = any(len(runs) > 1 for runs in methods.values())
        titles = {
            "accuracy": ("accuracy over all classes seen" + "; bands: ± one standard deviation" * several, "A_t, %"),
            "size": ("size of the generator", "shared weights, thousands"),
            "reuse": ("gates re-used from earlier tasks", "share of the open gates, %"),
        }
        for name, axis in axes.items():
            heading, y = titles[name]
            axis.set(title=heading, xlabel="tasks learnt", ylabel=y)
            axis.grid(alpha=0.3)
        figure.legend(*axes["accuracy"].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=6)
        figure.suptitle(title)
        save(figure, f"{data}.png")
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axis = figure.subplots()
        _against_bytes(axis, methods)
        axis.set(xscale="log", xlabel="all that is needed to go on learning, kB", ylabel="A_final, %")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize=8)
        figure.suptitle(title)
        save(figure, f"{data}-bytes.png")
    return names


def ablation_figures(results: Results, out: Path) -> list[str]:
    """Draws what each change does to A_final, a point for each seed; returns file names."""
    import_matplotlib()
    from matplotlib.figure import Figure

    names = []
    for data, methods in results.items():
        groups: dict[str, dict[str, list[float]]] = defaultdict(dict)
        for method, runs in methods.items():
            variant, _, change = method.partition(": ")
            groups[variant][change or variant] = [100 * run.final_accuracy() for run in runs]
        figure = Figure(figsize=(9, 1.6 + 0.32 * sum(map(len, groups.values()))), layout="constrained")
        heights = [len(changes) + 1 for changes in groups.values()]
        axes = figure.subplots(len(groups), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
        for axis, (variant, changes) in zip(axes, groups.items(), strict=True):
            if "as it is" in changes:
                axis.axvline(statistics.mean(changes["as it is"]), color="0.5", linewidth=1)
            for row, values in enumerate(changes.values()):
                axis.plot(values, [row] * len(values), "o", color="C0", alpha=0.5)
                axis.plot(statistics.mean(values), row, "|", color="C3", markersize=14)
            axis.set(title=f"{data}, {variant}", yticks=range(len(changes)), ylim=(len(changes) - 0.5, -0.5))
            axis.set_yticklabels(list(changes))
            axis.grid(alpha=0.3)
        axes[-1].set_xlabel("A_final, %; points: seeds; red: mean; line: the variant as it is")
        names.append(f"{data}-ablations.png")
        figure.savefig(out / names[-1], dpi=110)
    return names


def _against_bytes(axis: Any, methods: Mapping[str, Sequence[Summary]]) -> None:
    """A point for each run's size, the mean over seeds; a line joins the sizes of one method.

    Methods are drawn by the reading that counts, and DGM by the combined one, too. A method that keeps all images is a
    line across: its bytes are no choice.
    """
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for method, runs in methods.items():
        family = method.partition("-as-")[0].removesuffix("-half").removesuffix("-double")
        for reading, name in comparing.compared_readings(family, runs[0]).items():
            size = statistics.mean(comparing.bytes_of_reading(run.bytes["memory"], reading) for run in runs) / 1000
            points[name].append((size, 100 * statistics.mean(run.final_accuracy(reading) for run in runs)))
    for index, (name, of_method) in enumerate(points.items()):
        style = {"color": f"C{index % 10}", "label": name}
        if name in ("ceiling", "joint"):
            axis.axhline(of_method[0][1], linestyle="-" if name == "ceiling" else "--", linewidth=1, **style)
        elif all(size > 0 for size, _ in of_method):  # Finetune keeps nothing in some settings.
            axis.plot(*zip(*sorted(of_method)), marker="osD^vPX*<>"[index // 10], markersize=6, linewidth=1, **style)


def _curves(axis: Any, runs: Sequence[Summary], style: dict[str, Any]) -> None:
    by_task = enumerate(zip(*(run.curve() for run in runs), strict=True))
    measured = {task: [100 * a for a in of_runs if a is not None] for task, of_runs in by_task if None not in of_runs}
    tasks, columns = [task + 1 for task in measured], list(measured.values())
    means = [statistics.mean(column) for column in columns]
    if len(runs[0].tasks) == 1:  # All classes at once: the ceiling of the others' last task.
        axis.axhline(means[0], **style | {"linestyle": ":"})
        return
    axis.plot(tasks, means, **style)
    if len(runs) > 1:
        spreads = [statistics.stdev(column) for column in columns]
        low = [mean - spread for mean, spread in zip(means, spreads)]
        high = [mean + spread for mean, spread in zip(means, spreads)]
        axis.fill_between(tasks, low, high, color=style["color"], alpha=0.15)


def _growth(size: Any, reuse: Any, run: Summary, style: dict[str, Any]) -> None:
    tasks = sorted({row["task"] for row in run.capacity})
    weights, shares = [], []
    for task in tasks:
        rows = [row for row in run.capacity if row["task"] == task]
        weights.append(sum(row["weights"] for row in rows) / 1000)
        shares.append(100 * sum(row["reused"] for row in rows) / max(sum(row["used"] for row in rows), 1))
    size.plot([task + 1 for task in tasks], weights, **style)
    reuse.plot([task + 1 for task in tasks], shares, **style)
