"""A table of many runs, beside published numbers: as Markdown, CSV, JSON and figures."""

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgm_jax.config import GENERATIVE, flattened, upgraded
from dgm_jax.errors import naming_extras
from dgm_jax.metrics.intervals import LEAST_SEEDS, Answers, interval
from dgm_jax.reporting.charts import import_matplotlib
from dgm_jax.runs import comparing
from dgm_jax.runs.summary import Summary
from dgm_jax.system.files import write_atomically, write_json

# Published test accuracy in % (A5 and A10: half-way and at the end), and what was measured.
# Ostapenko et al. 2019, table 1.
_OF_CLASSIFIER = "A of one classifier over all classes"
_OF_GENERATED = "most likely of generated images, as a classifier trained on all real data predicts them"
PUBLISHED: dict[tuple[str, str], tuple[float | None, float | None, str]] = {
    ("mnist", "joint"): (99.87, 99.24, _OF_CLASSIFIER),
    ("mnist", "icarl"): (84.61, 55.8, _OF_CLASSIFIER + " (iCaRL-S)"),
    ("mnist", "dgr"): (90.39, 85.40, _OF_GENERATED),
    ("mnist", "mergan"): (98.19, 97.00, _OF_GENERATED),
    ("mnist", "dgmw"): (98.75, 96.46, _OF_CLASSIFIER),
    ("mnist", "dgma"): (99.17, 97.92, _OF_CLASSIFIER),
    ("svhn", "joint"): (92.99, 88.72, _OF_CLASSIFIER),
    ("svhn", "dgr"): (61.29, 47.28, _OF_GENERATED),
    ("svhn", "mergan"): (80.90, 66.78, _OF_GENERATED),
    ("svhn", "dgmw"): (83.93, 74.38, _OF_CLASSIFIER),
    ("svhn", "dgma"): (81.07, 66.89, _OF_CLASSIFIER),
    ("cifar10", "joint"): (83.40, 77.82, _OF_CLASSIFIER),
    ("cifar10", "dgmw"): (72.45, 56.21, _OF_CLASSIFIER),
    ("cifar10", "dgma"): (71.91, 51.80, _OF_CLASSIFIER),
    # A30, A50.
    ("imagenet50", "joint"): (57.35, 49.88, _OF_CLASSIFIER),
    ("imagenet50", "icarl"): (29.38, 28.98, _OF_CLASSIFIER + " (iCaRL-S)"),
    ("imagenet50", "dgmw"): (32.14, 17.82, _OF_CLASSIFIER),
    ("imagenet50", "dgma"): (25.93, 15.16, _OF_CLASSIFIER),
}
_LEGEND = (
    "Test accuracy in %, mean over the classes seen, mean ± standard deviation over seeds; `A_final` is after the "
    "last task, in brackets its 95 % interval over seeds and test images; `A_half` is after half of the tasks (the "
    "paper's A5; for ImageNet-50 its A30). *Average*: average incremental accuracy, the mean of A_1 to A_T. */ joint*: "
    "`A_final` divided by that of `joint` with the same seed. *Consolidated*, and the "
    "*classifier* of mergan: a classifier trained on the memory's images of all classes (train-on-generated accuracy); "
    "*auxiliary*: the class head of the discriminator, as in the paper. *Generated*: the share of the memory's images "
    "that the classifier of `joint`, trained on all real images, assigns to the class asked for; *judge*: its accuracy "
    "on the real test images. For dgr, whose images have no labels, *generated* is the agreement with its solver. "
    "*Frechet*: Frechet distance in the features of that classifier (not FID); *precision, recall* use the same "
    "features. *Memory*: all that is needed to go on learning: what is kept of old classes, and a classifier or "
    "discriminator that the next task begins with (older runs count neither), as far as the reading needs it. *Worth*: the number "
    "of training images, stored as they come, that take the same bytes. *Published*: half-way / at the end; only runs "
    "of full length are compared: ✓ reached, ✗ not reached."
)
# A run of the paper's length has at least this many training images, and epochs a task. Shorter runs are not compared.
_FULL_LENGTH = {"mnist": (60_000, 101), "svhn": (73_257, 151), "cifar10": (50_000, 101), "imagenet50": (60_000, 101)}
_EXPECTED = {
    "ewc": "knows little but the newest classes, as is known of weight penalties where one head separates all classes "
    "(van de Ven and Tolias 2019): no image ever compares old with new classes",
    "finetune": "knows only the newest classes: it never sees the others again",
}
_QUALITY = ("generated_sample_accuracy", "judge_accuracy", "frechet_distance", "precision", "recall")


@dataclass(frozen=True)
class Result:
    """A run of the table: its summary, or why there is none."""

    data: str
    method: str
    seed: int
    command: str
    summary: Summary | None = None
    error: str = ""  # Why there is no summary.
    quality: dict[str, float] | None = None  # Of the images that the memory draws, if there is a memory.
    not_measured: str = ""  # Why the memory's images were not measured.
    answers: Mapping[str, Answers] = field(default_factory=dict)  # By reading; empty for runs of earlier versions.


@naming_extras()
def write(results: Sequence[Result], out: Path, *, command: str, ablations: bool = False) -> None:
    """Writes table.md, table.csv, table.json and figures.

    Args:
      results: the runs.
      out: the folder to write to; made if missing.
      command: the command that makes this table.
      ablations: the runs are one method with a part changed, which have other figures.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, pairs = summarised(results), differences(results)
    write_json(out / "table.json", {"command": command, "rows": rows, "differences": pairs})
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)  # A row without a result has fewer.
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / "table.csv", text.getvalue())
    pictures = (ablation_figures if ablations else figures)(results, out)
    write_atomically(out / "table.md", markdown(rows, pictures, command, pairs))


def summarised(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each data set, method and reading: mean and standard deviation over seeds."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.data, result.method].append(result)
    rows = []
    for (data, method), group in groups.items():
        summaries = [result.summary for result in group if result.summary is not None]
        failures = "; ".join(f"seed {result.seed}: {result.error}" for result in group if result.summary is None)
        common: dict[str, Any] = {"data": data, "method": method, "failures": failures, "command": group[0].command}
        if not summaries:
            rows.append(common)
            continue
        common["unjudged"] = "; ".join(
            f"seed {result.seed}: {result.not_measured}" for result in group if result.not_measured
        )
        precisions = [flattened(upgraded(s.config)).get("precision", "float32") for s in summaries]
        each = "; ".join(f"seed {s.seed}: {p}" for s, p in zip(summaries, precisions, strict=True))
        common["mixed_precisions"] = each if len(set(precisions)) > 1 else ""
        joint = {r.seed: r.summary for r in groups.get((data, "joint"), ()) if r.summary is not None}
        for reading in summaries[0].readings:
            common |= _interval(group, reading)
            common |= _spread("A_final_by_joint", comparing.shares_of_joint(summaries, joint, reading))
            common |= _spread("forward_transfer", comparing.forward_transfers(summaries, joint, reading))
            measured = [result.quality for result in group if result.quality and reading == summaries[0].readings[0]]
            rows.append(common | _row(summaries, measured, data, method, reading))
    return rows


def differences(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each two methods of a data set on the seeds that both have, as `comparing.differences` gives them."""
    by_data: dict[str, dict[str, dict[int, Answers]]] = {}
    for result in results:
        if result.summary is not None and result.answers:
            runs = by_data.setdefault(result.data, {}).setdefault(result.method, {})
            runs[result.seed] = result.answers[result.summary.readings[0]]
    return [{"data": data, **pair} for data, methods in by_data.items() for pair in comparing.differences(methods)]


def _interval(group: Sequence[Result], reading: str) -> dict[str, float | None]:
    """The 95 % interval of A_final over seeds and test images, if each run says which images it has right."""
    results = [result for result in group if result.summary is not None]
    answers = [result.answers[reading] for result in results if reading in result.answers]
    found = interval(answers) if len(answers) == len(results) else None
    return {"A_final_low": found.low if found else None, "A_final_high": found.high if found else None}


def _row(
    summaries: Sequence[Summary], measured: Sequence[dict[str, float]], data: str, method: str, reading: str
) -> dict[str, Any]:
    first = summaries[0]
    published = PUBLISHED.get((data, method), (None, None, ""))
    size = statistics.mean(comparing.bytes_of_reading(s.bytes["memory"], reading) for s in summaries)
    replaced, images = first.bytes["images_replaced"], first.bytes["image_count"]
    epochs = (
        flattened(upgraded(first.config)).get("epochs") if first.method in GENERATIVE else None
    )  # Others count steps.
    averages = [s.average_incremental.get(reading, {}) for s in summaries]
    half = first.n_seen((len(first.tasks) + 1) // 2 - 1)  # Classes after half of the tasks.
    return {
        "reading": reading,
        "protocol": first.protocol,
        "seeds": " ".join(str(s.seed) for s in summaries),
        **_spread("A_half", (s.averages[half][reading]["macro"] for s in summaries if half in s.averages)),
        **_spread("A_final", (s.final_accuracy(reading) for s in summaries)),
        **_spread("average_incremental", (of.get("from_1") for of in averages)),
        **_spread("average_incremental_from_2", (of.get("from_2") for of in averages)),
        **_spread("task_known", (s.task_known[reading]["A_t"][-1] for s in summaries if reading in s.task_known)),
        **_spread("A_final_micro", (s.final_accuracy(reading, "micro") for s in summaries)),
        **_spread("forgetting", (s.forgetting[reading] for s in summaries)),
        **_spread("backward_transfer", (s.backward_transfer.get(reading) for s in summaries)),
        **{name: _spread(name, (quality[name] for quality in measured))[name] for name in _QUALITY},
        "memory_bytes": round(size),
        "worth_images": round(size / (replaced / images)) if images and replaced else None,
        "epochs": epochs,
        "train_images": images,
        "test_images": sum(map(sum, first.confusion[reading])),
        "full_length": _is_full_length(data, images, epochs),
        "minutes": statistics.mean(sum(s.seconds.values()) / 60 for s in summaries),
        "device": first.device,
        "published_A_half": published[0],
        "published_A_final": published[1],
        "published_measure": published[2],
    }


def _is_full_length(data: str, images: int, epochs: int | None) -> bool:
    if data not in _FULL_LENGTH:
        return False
    least_images, least_epochs = _FULL_LENGTH[data]
    return images >= least_images and (epochs is None or epochs >= least_epochs)


def _spread(name: str, values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean and standard deviation of the values that are known."""
    known = [value for value in values if value is not None]
    return {
        name: statistics.mean(known) if known else None,
        f"{name}_sd": statistics.stdev(known) if len(known) > 1 else None,
    }


def markdown(
    rows: Sequence[dict[str, Any]], pictures: Sequence[str], command: str, pairs: Sequence[dict[str, Any]] = ()
) -> str:
    """The table as Markdown."""
    lines = ["# Class-incremental accuracy", "", f"`{command}`", "", _LEGEND, ""]
    lines += [f"| {' | '.join(_CELLS)} |", "|" + "---|" * len(_CELLS)]
    for row in rows:
        if "reading" in row:
            lines.append("| " + " | ".join(cell(row) for cell in _CELLS.values()) + " |")
        else:
            empty = " |" * (len(_CELLS) - 3)
            lines.append(f"| {row['data']} | {row['method']} | no result: {row['failures']} |{empty}")
    methods = dict.fromkeys(row["method"] for row in rows if "reading" in row)
    notes = [f"- *{method}*: {_EXPECTED[method]}." for method in methods if method in _EXPECTED]
    measures = {row["method"]: row["published_measure"] for row in rows if row.get("published_measure")}
    notes += [f"- Published numbers of *{method}*: {measure}." for method, measure in measures.items()]
    reasons = {(row["data"], row["method"]): row["unjudged"] for row in rows if row.get("unjudged")}
    notes += [f"- {data}, *{method}*: its images are not measured, {why}." for (data, method), why in reasons.items()]
    mixed = {(row["data"], row["method"]): row["mixed_precisions"] for row in rows if row.get("mixed_precisions")}
    notes += [f"- {data}, *{method}*: its seeds differ in precision, {each}." for (data, method), each in mixed.items()]
    notes += _verdicts(pairs)
    devices = sorted({row["device"] for row in rows if "device" in row})
    lines += ["", *notes, "", f"Device: {'; '.join(devices)}.", ""]
    lines += [f"![{picture}]({picture})" for picture in pictures]
    lines += ["", "Commands, one a row (`--seed` as in the column):", ""]
    lines += [f"- `{row_command}`" for row_command in dict.fromkeys(row["command"] for row in rows)]
    return "\n".join(lines) + "\n"


def _verdicts(pairs: Sequence[dict[str, Any]]) -> list[str]:
    """For each data set, each method and the next best one: whether they are different."""
    lines: dict[str, dict[str, str]] = defaultdict(dict)
    for pair in pairs:
        shown = "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * pair[name] for name in ("difference", "low", "high")))
        verdict = "different" if pair["different"] else "not different"
        verdict = f"*{pair['method']}* – *{pair['other']}* {shown}, {verdict}"
        lines[pair["data"]].setdefault(pair["method"], verdict)  # The first pair of a method is with the next best one.
    return [
        f"- {data}, each method and the next one, paired by seed and test image: the difference in points and its 95 % "
        f"interval (different: it excludes 0, with {LEAST_SEEDS} seeds or more): {'; '.join(shown.values())}."
        for data, shown in lines.items()
    ]


def _percent(row: dict[str, Any], name: str) -> str:
    value, sd = row.get(name), row.get(f"{name}_sd")
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else "")


def _bounds(row: dict[str, Any]) -> str:
    low, high = row["A_final_low"], row["A_final_high"]
    return "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"


def _plain(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)


def _published(row: dict[str, Any]) -> str:
    """Published numbers, each marked if our number of the same measure, at full length, reaches it or not."""
    numbers = (row["published_A_half"], row["published_A_final"])
    if numbers == (None, None):
        return "–"
    if not row["full_length"]:
        return f"{numbers[0]} / {numbers[1]} (context: a shorter run)"
    of_generated = row["published_measure"] == _OF_GENERATED
    ours = (None, row["generated_sample_accuracy"]) if of_generated else (row["A_half"], row["A_final"])
    marks = ["" if our is None else "✓" if 100 * our >= number else "✗" for our, number in zip(ours, numbers)]
    return f"{numbers[0]}{marks[0]} / {numbers[1]}{marks[1]}" + (" (generated)" if of_generated else "")


# Header -> the cell of a row that has a result.
_CELLS: dict[str, Callable[[dict[str, Any]], str]] = {
    "data": lambda row: row["data"],
    "method": lambda row: row["method"],
    "reading": lambda row: row["reading"],
    "A_half": lambda row: _percent(row, "A_half"),
    "A_final": lambda row: _percent(row, "A_final") + _bounds(row),
    "average": lambda row: _percent(row, "average_incremental"),
    "/ joint": lambda row: _plain(row["A_final_by_joint"], "{:.2f}"),
    "forgetting": lambda row: _percent(row, "forgetting"),
    "generated": lambda row: _percent(row, "generated_sample_accuracy"),
    "judge": lambda row: _percent(row, "judge_accuracy"),
    "Frechet": lambda row: _plain(row["frechet_distance"], "{:.1f}"),
    "precision, recall": lambda row: (
        "–" if row["precision"] is None else f"{_percent(row, 'precision')}, {_percent(row, 'recall')}"
    ),
    "memory, kB": lambda row: f"{row['memory_bytes'] / 1000:.0f}",
    "worth, images": lambda row: _plain(row["worth_images"], "{}"),
    "epochs, images": lambda row: f"{_plain(row['epochs'], '{}')}, {row['train_images']:,}",
    "minutes": lambda row: f"{row['minutes']:.1f}",
    "seeds": lambda row: row["seeds"] + (f" (no result: {row['failures']})" if row["failures"] else ""),
    "protocol": lambda row: row["protocol"],
    "published": _published,
}


def figures(results: Sequence[Result], out: Path) -> list[str]:
    """Draws A_t over tasks, accuracy over bytes, the generator's size and the re-use of gates; returns file names."""
    import_matplotlib()
    from matplotlib.figure import Figure

    names = []
    for data, methods in _by_method(results).items():
        figure = Figure(figsize=(11, 8), layout="constrained")
        (accuracy, memory), (size, reuse) = figure.subplots(2, 2)
        for index, (method, runs) in enumerate(methods.items()):
            style = {"color": f"C{index % 10}", "linestyle": "-" if index < 10 else "--", "label": method}
            _curves(accuracy, runs, style)
            final = [100 * run.final_accuracy() for run in runs]
            sizes = [run.bytes["memory"]["total"] / 1000 for run in runs]
            memory.scatter(sizes, final, color=style["color"], label=method)
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


def ablation_figures(results: Sequence[Result], out: Path) -> list[str]:
    """Draws what each change does to A_final, a point for each seed; returns file names."""
    import_matplotlib()
    from matplotlib.figure import Figure

    names = []
    for data, methods in _by_method(results).items():
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


def _by_method(results: Sequence[Result]) -> dict[str, dict[str, list[Summary]]]:
    """The summaries of each data set and method, in the order of the table."""
    summaries: dict[str, dict[str, list[Summary]]] = {}
    for result in results:
        if result.summary is not None:
            summaries.setdefault(result.data, {}).setdefault(result.method, []).append(result.summary)
    return summaries


def _curves(axis: Any, runs: Sequence[Summary], style: dict[str, Any]) -> None:
    by_task = enumerate(zip(*(run.curve() for run in runs), strict=True))
    measured = {task: [100 * a for a in of_runs if a is not None] for task, of_runs in by_task if None not in of_runs}
    tasks, columns = list(measured), list(measured.values())
    means = [statistics.mean(column) for column in columns]
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
