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
    """Draws A_t over tasks, accuracy over bytes, the generator's size and the re-use of gates; returns file names."""
    import_matplotlib()
    from matplotlib.figure import Figure

    names = []
    for data, methods in results.items():
        figure = Figure(figsize=(11, 8), layout="constrained")
        (accuracy, memory), (size, reuse) = figure.subplots(2, 2)
        for index, (method, runs) in enumerate(methods.items()):
            style = {"color": f"C{index % 10}", "linestyle": "-" if index < 10 else "--", "label": method}
            _curves(accuracy, runs, style)
            _against_bytes(memory, method, runs, style["color"])
            if runs[0].capacity:
                _growth(size, reuse, runs[0], style)
        for axis, title, x, y in (
            (accuracy, "accuracy over all classes seen", "task", "A_t, %"),
            (memory, "accuracy against memory", "memory, kB", "A_final, %"),
            (size, "size of the generator", "task", "shared weights, thousands"),
            (reuse, "gates re-used from earlier tasks", "task", "share of the open gates, %"),
        ):
            axis.set(title=title, xlabel=x, ylabel=y)
            axis.grid(alpha=0.3)
        memory.set_xscale("symlog", linthresh=10)
        accuracy.legend(fontsize=8, ncols=2)
        protocols = dict.fromkeys(run.protocol for runs in methods.values() for run in runs)
        figure.suptitle(f"{data}, protocol {', '.join(protocols)}")
        names.append(f"{data}.png")
        figure.savefig(out / names[-1], dpi=110)
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


def _against_bytes(axis: Any, method: str, runs: Sequence[Summary], color: str) -> None:
    """A point for each reading of a method, with its name: the mean over seeds."""
    for reading in runs[0].readings:
        if reading == "auxiliary":
            continue
        size = statistics.mean(comparing.bytes_of_reading(run.bytes["memory"], reading) for run in runs) / 1000
        final = 100 * statistics.mean(run.final_accuracy(reading) for run in runs)
        name = method if reading == runs[0].readings[0] else f"{method}, {reading}"
        axis.scatter([size], [final], color=color, s=16)
        axis.annotate(name, (size, final), xytext=(3, 3), textcoords="offset points", fontsize=6)


def _curves(axis: Any, runs: Sequence[Summary], style: dict[str, Any]) -> None:
    by_task = enumerate(zip(*(run.curve() for run in runs), strict=True))
    measured = {task: [100 * a for a in of_runs if a is not None] for task, of_runs in by_task if None not in of_runs}
    tasks, columns = list(measured), list(measured.values())
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
    size.plot(tasks, weights, **style)
    reuse.plot(tasks, shares, **style)
