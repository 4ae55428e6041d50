"""A table of many runs, beside published numbers: as Markdown, CSV, JSON, and pictures."""

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dgm_jax.config import GENERATIVE, Config, flattened, upgraded
from dgm_jax.system.files import write_atomically, write_json

# Test accuracy, %, as published (half-way and at the end: A5 and A10), and what was measured.
# Ostapenko et al. 2019, table 1.
_OWN = "A of one classifier over all classes"
_GENERATED = "most likely: generated images, told by a classifier of all real data"
PUBLISHED: dict[tuple[str, str], tuple[float | None, float | None, str]] = {
    ("mnist", "joint"): (99.87, 99.24, _OWN),
    ("mnist", "icarl"): (84.61, 55.8, _OWN + " (iCaRL-S)"),
    ("mnist", "ewc"): (70.62, 77.03, _GENERATED),
    ("mnist", "dgr"): (90.39, 85.40, _GENERATED),
    ("mnist", "mergan"): (98.19, 97.00, _GENERATED),
    ("mnist", "dgmw"): (98.75, 96.46, _OWN),
    ("mnist", "dgma"): (99.17, 97.92, _OWN),
    ("svhn", "joint"): (92.99, 88.72, _OWN),
    ("svhn", "ewc"): (39.84, 33.02, _GENERATED),
    ("svhn", "dgr"): (61.29, 47.28, _GENERATED),
    ("svhn", "mergan"): (80.90, 66.78, _GENERATED),
    ("svhn", "dgmw"): (83.93, 74.38, _OWN),
    ("svhn", "dgma"): (81.07, 66.89, _OWN),
    ("cifar10", "joint"): (83.40, 77.82, _OWN),
    ("cifar10", "dgmw"): (72.45, 56.21, _OWN),
    ("cifar10", "dgma"): (71.91, 51.80, _OWN),
    # A30, A50.
    ("imagenet50", "joint"): (57.35, 49.88, _OWN),
    ("imagenet50", "icarl"): (29.38, 28.98, _OWN + " (iCaRL-S)"),
    ("imagenet50", "dgmw"): (32.14, 17.82, _OWN),
    ("imagenet50", "dgma"): (25.93, 15.16, _OWN),
}
_LEGEND = (
    "Test accuracy in %, mean over the classes seen, mean ± standard deviation over seeds; `A_final` is after the "
    "last task, `A_half` after half of them (the paper's A5; of ImageNet-50 its A30). *Consolidated*, and the "
    "*classifier* of mergan: trained on the memory's images of all classes (train-on-generated accuracy); "
    "*auxiliary*: the discriminator's own class head, as in the paper. *Generated*: the memory's images, told by a "
    "classifier that learnt all real images, that of `joint`, which tells *judge* of the real test images; of dgr, "
    "whose images bear no label, it is agreement with its solver. *Frechet*: Frechet distance in that classifier's "
    "features (not FID), and there too *precision, recall*. *Memory*: what is kept of old classes, the classifier and "
    "discriminator not counted. *Worth*: as many training images, stored as they come, take the same bytes. "
    "*Published*: half-way / at the end; only runs of full length are compared: ✓ reached, ✗ not."
)
# What a run of the paper's length has at least: training images in all, and epochs a task. Others are not compared.
_FULL_LENGTH = {"mnist": (60_000, 101), "svhn": (73_257, 151), "cifar10": (50_000, 101), "imagenet50": (60_000, 101)}
_EXPECTED = {
    "ewc": "knows little but the newest class, as is known of weight penalties where one head tells all classes apart "
    "(van de Ven and Tolias 2019): no image ever compares old with new",
    "finetune": "knows the newest class alone: nothing asks for the others again",
}
_COLUMNS = (
    *("data", "method", "reading", "protocol", "seeds", "A_half", "A_half_sd", "A_final", "A_final_sd"),
    *("A_final_micro", "forgetting", "backward_transfer", "generated_sample_accuracy", "judge_accuracy"),
    *("frechet_distance", "precision", "recall", "memory_bytes", "worth_images", "epochs", "train_images"),
    *("test_images", "minutes", "device", "published_A_half", "published_A_final", "published_measure"),
    *("full_length", "failures", "unjudged", "command"),
)


def write(results: Sequence[dict[str, Any]], out: Path, *, command: str, ablations: bool = False) -> None:
    """Writes table.md, table.csv, table.json and figures.

    Args:
      results: of each run "data", "method", "seed", "command", and "summary" and "quality" (or None), or "error".
      out: the folder to write to; made if missing.
      command: that made the table.
      ablations: the runs are one method with a part changed: other figures.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = summarised(results)
    write_json(out / "table.json", {"command": command, "rows": rows})
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / "table.csv", text.getvalue())
    pictures = (ablation_figures if ablations else figures)(results, out)
    write_atomically(out / "table.md", markdown(rows, pictures, command))


def summarised(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each data set, method and reading: mean and standard deviation over seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        groups[result["data"], result["method"]].append(result)
    rows = []
    for (data, method), group in groups.items():
        done = [result for result in group if "summary" in result]
        failures = "; ".join(f"seed {r['seed']}: {r['error']}" for r in group if "error" in r)
        common = {"data": data, "method": method, "failures": failures, "command": group[0]["command"]}
        for reading in done[0]["summary"]["forgetting"] if done else ["-"]:
            rows.append(common | (_row(done, data, method, reading) if done else {}))
    return rows


def _row(done: Sequence[dict[str, Any]], data: str, method: str, reading: str) -> dict[str, Any]:
    summaries = [result["summary"] for result in done]
    first = summaries[0]
    published = PUBLISHED.get((data, method), (None, None, ""))

    def spread(name: str, values: Iterable[float]) -> dict[str, float | None]:
        known = list(values)
        return {
            name: statistics.mean(known) if known else None,
            f"{name}_sd": statistics.stdev(known) if len(known) > 1 else None,
        }

    def average(name: str) -> list[float]:
        return [s[name][reading]["macro"] for s in summaries if name in s]

    judged = [result["quality"] for result in done if result["quality"]] if reading != "auxiliary" else []
    size = statistics.mean(s["bytes"]["memory"]["total"] for s in summaries)
    replaced = first["bytes"]["images_replaced"]
    epochs = (Config().flat() | flattened(upgraded(first["config"])))["epochs"]
    images = first["bytes"]["image_count"]
    trains_generator = first["method"] in GENERATIVE
    half = sum(map(len, first["tasks"][: (len(first["tasks"]) + 1) // 2]))  # Classes after half of the tasks.
    return {
        "reading": reading,
        "protocol": first["protocol"],
        "seeds": " ".join(str(s["seed"]) for s in summaries),
        **spread("A_half", average(f"A_{half}")),
        **spread("A_final", average(f"A_{first['final']}")),
        **spread("A_final_micro", (s[f"A_{s['final']}"][reading]["micro"] for s in summaries)),
        **spread("forgetting", (s["forgetting"][reading] for s in summaries)),
        **spread("backward_transfer", (s["backward_transfer"][reading] for s in summaries if "backward_transfer" in s)),
        **{
            name: spread(name, (q[name] for q in judged))[name]
            for name in ("generated_sample_accuracy", "judge_accuracy", "frechet_distance", "precision", "recall")
        },
        "memory_bytes": round(size),
        "worth_images": round(size / (replaced / images)) if images and replaced else None,
        "epochs": epochs if trains_generator else None,  # Others count steps alone.
        "train_images": images,
        "test_images": sum(map(sum, first["confusion"][reading])),
        "full_length": data in _FULL_LENGTH
        and images >= _FULL_LENGTH[data][0]
        and (not trains_generator or epochs >= _FULL_LENGTH[data][1]),
        "unjudged": "; ".join(f"seed {r['seed']}: {r['unjudged']}" for r in done if "unjudged" in r),
        "minutes": statistics.mean(sum(s["seconds"].values()) / 60 for s in summaries),
        "device": first["device"],
        "published_A_half": published[0],
        "published_A_final": published[1],
        "published_measure": published[2],
    }


def markdown(rows: Sequence[dict[str, Any]], pictures: Sequence[str], command: str) -> str:
    """The table for people."""
    lines = [
        "# Class-incremental accuracy",
        "",
        f"`{command}`",
        "",
        _LEGEND,
        "",
        "| data | method | reading | A_half | A_final | forgetting | generated | judge | Frechet | precision, recall "
        "| memory, kB | worth, images | epochs, images | minutes | seeds | protocol | published |",
        "|" + "---|" * 17,
    ]
    for row in rows:
        if "reading" not in row:
            lines.append(f"| {row['data']} | {row['method']} | no result: {row['failures']} |" + " |" * 14)
            continue
        cells = [
            *(row["data"], row["method"], row["reading"]),
            *(_percent(row, name) for name in ("A_half", "A_final", "forgetting")),
            *(_percent(row, name) for name in ("generated_sample_accuracy", "judge_accuracy")),
            _plain(row["frechet_distance"], "{:.1f}"),
            "–" if row["precision"] is None else f"{_percent(row, 'precision')}, {_percent(row, 'recall')}",
            f"{row['memory_bytes'] / 1000:.0f}",
            _plain(row["worth_images"], "{}"),
            f"{_plain(row['epochs'], '{}')}, {row['train_images']:,}",
            f"{row['minutes']:.1f}",
            row["seeds"] + (f" (no result: {row['failures']})" if row["failures"] else ""),
            row["protocol"],
            _published(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    methods = dict.fromkeys(row["method"] for row in rows if "reading" in row)
    notes = [f"- *{method}*: {_EXPECTED[method]}." for method in methods if method in _EXPECTED]
    measures = {row["method"]: row["published_measure"] for row in rows if row.get("published_measure")}
    notes += [f"- Published numbers of *{method}*: {measure}." for method, measure in measures.items()]
    reasons = {(row["data"], row["method"]): row["unjudged"] for row in rows if row.get("unjudged")}
    notes += [f"- {data}, *{method}*: what it draws is not measured, {why}." for (data, method), why in reasons.items()]
    devices = sorted({row["device"] for row in rows if "device" in row})
    lines += ["", *notes, "", f"Device: {'; '.join(devices)}.", ""]
    lines += [f"![{picture}]({picture})" for picture in pictures]
    lines += ["", "Commands, one a row (`--seed` as in the column):", ""]
    lines += [f"- `{row_command}`" for row_command in dict.fromkeys(row["command"] for row in rows)]
    return "\n".join(lines) + "\n"


def _percent(row: dict[str, Any], name: str) -> str:
    value, sd = row.get(name), row.get(f"{name}_sd")
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else "")


def _plain(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)


def _published(row: dict[str, Any]) -> str:
    """Published numbers, each with a mark of whether ours, by the same measure and at full length, reaches it."""
    numbers = (row["published_A_half"], row["published_A_final"])
    if numbers == (None, None):
        return "–"
    if not row["full_length"]:
        return f"{numbers[0]} / {numbers[1]} (context: a shorter run)"
    of_generated = row["published_measure"] == _GENERATED
    ours = (None, row["generated_sample_accuracy"]) if of_generated else (row["A_half"], row["A_final"])
    marks = ["" if own is None else "✓" if 100 * own >= number else "✗" for own, number in zip(ours, numbers)]
    return f"{numbers[0]}{marks[0]} / {numbers[1]}{marks[1]}" + (" (generated)" if of_generated else "")


def figures(results: Sequence[dict[str, Any]], out: Path) -> list[str]:
    """Draws A_t over tasks, accuracy against bytes, the generator's size, and the re-use of gates; names the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = [result for result in results if "summary" in result]
    names = []
    for data in dict.fromkeys(result["data"] for result in done):
        own = [result for result in done if result["data"] == data]
        figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
        for index, method in enumerate(dict.fromkeys(result["method"] for result in own)):
            runs = [result["summary"] for result in own if result["method"] == method]
            style = {"color": f"C{index % 10}", "linestyle": "-" if index < 10 else "--", "label": method}
            _curves(axes[0, 0], runs, style)
            final = [final_accuracy(run) for run in runs]
            sizes = [run["bytes"]["memory"]["total"] / 1000 for run in runs]
            axes[0, 1].scatter(sizes, final, color=style["color"], label=method)
            if "capacity" in runs[0]:
                _growth(axes[1, 0], axes[1, 1], runs, style)
        for axis, title, x, y in (
            (axes[0, 0], "accuracy over all classes seen", "task", "A_t, %"),
            (axes[0, 1], "accuracy against memory", "memory, kB", "A_final, %"),
            (axes[1, 0], "size of the generator", "task", "shared weights, thousands"),
            (axes[1, 1], "gates re-used from earlier tasks", "task", "share of the open gates, %"),
        ):
            axis.set(title=title, xlabel=x, ylabel=y)
            axis.grid(alpha=0.3)
        axes[0, 1].set_xscale("symlog", linthresh=10)
        axes[0, 0].legend(fontsize=8, ncols=2)
        figure.suptitle(f"{data}, protocol strict")
        name = f"{data}.png"
        figure.savefig(out / name, dpi=110)
        pyplot.close(figure)
        names.append(name)
    return names


def ablation_figures(results: Sequence[dict[str, Any]], out: Path) -> list[str]:
    """Draws what each change does to A_final, a point a seed, beside the variant as it is; names the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = []
    for data in dict.fromkeys(result["data"] for result in results):
        own = [result for result in results if result["data"] == data and "summary" in result]
        groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for result in own:
            variant, _, change = result["method"].partition(": ")
            groups[variant][change or variant].append(final_accuracy(result["summary"]))
        if not groups:
            continue
        figure, axes = pyplot.subplots(
            *(len(groups), 1),
            figsize=(9, 1.6 + 0.32 * sum(map(len, groups.values()))),
            height_ratios=[len(changes) + 1 for changes in groups.values()],
            layout="constrained",
            sharex=True,
            squeeze=False,
        )
        for axis, (variant, changes) in zip(axes[:, 0], groups.items(), strict=True):
            if "as it is" in changes:
                axis.axvline(statistics.mean(changes["as it is"]), color="0.5", linewidth=1)
            for row, values in enumerate(changes.values()):
                axis.plot(values, [row] * len(values), "o", color="C0", alpha=0.5)
                axis.plot(statistics.mean(values), row, "|", color="C3", markersize=14)
            axis.set(title=f"{data}, {variant}", yticks=range(len(changes)), ylim=(len(changes) - 0.5, -0.5))
            axis.set_yticklabels(list(changes))
            axis.grid(alpha=0.3)
        axes[-1, 0].set_xlabel("A_final, %; points: seeds; red: mean; line: the variant as it is")
        names.append(f"{data}-ablations.png")
        figure.savefig(out / names[-1], dpi=110)
        pyplot.close(figure)
    return names


def final_accuracy(summary: dict[str, Any]) -> float:
    """A_final of a run's first reading, %."""
    reading = next(iter(summary["forgetting"]))
    return 100 * summary[f"A_{summary['final']}"][reading]["macro"]


def _curves(axis: Any, runs: Sequence[dict[str, Any]], style: dict[str, Any]) -> None:
    reading = next(iter(runs[0]["forgetting"]))
    seen = [sum(len(task) for task in runs[0]["tasks"][: t + 1]) for t in range(len(runs[0]["tasks"]))]
    values = [[100 * run[f"A_{n}"][reading]["macro"] for n in seen] for run in runs]
    means = [statistics.mean(column) for column in zip(*values, strict=True)]
    axis.plot(range(len(seen)), means, **style)
    if len(runs) > 1:
        spreads = [statistics.stdev(column) for column in zip(*values, strict=True)]
        low, high = ([m + sign * s for m, s in zip(means, spreads)] for sign in (-1, 1))
        axis.fill_between(range(len(seen)), low, high, color=style["color"], alpha=0.15)


def _growth(size: Any, reuse: Any, runs: Sequence[dict[str, Any]], style: dict[str, Any]) -> None:
    rows = runs[0]["capacity"]
    tasks = sorted({row["task"] for row in rows})
    weights = [sum(row["weights"] for row in rows if row["task"] == task) / 1000 for task in tasks]
    size.plot(tasks, weights, **style)
    shares = []
    for task in tasks:
        used = sum(row["used"] for row in rows if row["task"] == task)
        shares.append(100 * sum(row["reused"] for row in rows if row["task"] == task) / max(used, 1))
    reuse.plot(tasks, shares, **style)
