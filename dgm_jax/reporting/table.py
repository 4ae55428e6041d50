"""A table of many runs, beside published numbers: as Markdown, CSV, JSON and figures."""

import csv
import io
import math
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgm_jax.config import GENERATIVE, TRAINS, flattened, upgraded
from dgm_jax.errors import naming_extras
from dgm_jax.metrics.intervals import Answers, interval
from dgm_jax.reporting.published import OF_GENERATED, PUBLISHED, is_full_length
from dgm_jax.reporting.table_figures import ablation_figures, figures
from dgm_jax.runs import comparing
from dgm_jax.runs.summary import Summary
from dgm_jax.system.files import write_atomically, write_json

# Column -> what the legend says of it, if the table has it.
_LEGEND = {
    "A_final": "Accuracy is that on test images in %, as the mean over the classes seen. Over seeds: mean ± standard "
    "deviation. `A_final` is after the last task, in brackets its 95 % interval over seeds and test images.",
    "A_half": "`A_half` is after half of the tasks (the paper's A5; for ImageNet-50 its A30).",
    "average; from A_2": "*Average*: average incremental accuracy, the mean of A_1 to A_T; then without A_1, which "
    "with one class is 100.",
    "/ joint": "*Ceiling*: joint training on all real images at once, for the steps listed (docs/baselines.md). "
    "*Joint*: for as many as other methods take. */ joint*: `A_final` divided by that of `ceiling` with the same seed.",
    "forgetting": "*Forgetting*: the mean over classes of the best accuracy after an earlier task minus the last one, "
    "in points.",
    "task known": "*Task known*, and *transfer* (forward transfer in that reading): only where tasks have several "
    "classes.",
    "epochs, steps": "*Epochs* are those of a generator, *steps* those of the classifier, for each task.",
    "reading": "*Consolidated*, and the *classifier* of mergan: a classifier trained on the memory's images of all "
    "classes (train-on-generated accuracy). *Auxiliary*: the class head of the discriminator, as in the paper.",
    "generated": "*Generated*: the share of the memory's images that the classifier of `joint`, trained on all real "
    "images, assigns to the class asked for. *Judge*: its accuracy on the real test images. For dgr, whose images have "
    "no labels, *generated* is the agreement with its solver.",
    "Frechet": "*Frechet*: Frechet distance in the features of that classifier (not FID). *Precision, recall* use the "
    "same features.",
    "memory, kB": "*Memory*: all that is needed to go on learning. This is what is kept of old classes, and a "
    "classifier or discriminator that the next task begins with, as far as the reading needs it (older runs count "
    "neither).",
    "worth, images": "*Worth*: the number of training images, stored as they come, that take the same bytes.",
    "seeds": "*Seeds*: their numbers.",
    "published": "*Published*: half-way / at the end. Only runs of full length are compared: ✓ reached, ✗ not reached.",
}
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
    pictures = (ablation_figures if ablations else figures)(_by_method(results), out)
    write_atomically(out / "table.md", markdown(rows, pictures, command, pairs))


def summarised(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each data set, method and reading: mean and standard deviation over seeds."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.data, result.method].append(result)
    rows = []
    for (data, method), group in groups.items():
        summaries = [result.summary for result in group if result.summary is not None]
        failures = _by_seed({result.seed: result.error for result in group if result.summary is None})
        common: dict[str, Any] = {"data": data, "method": method, "failures": failures, "command": group[0].command}
        if not summaries:
            rows.append(common)
            continue
        common["unjudged"] = _by_seed({result.seed: result.not_measured for result in group if result.not_measured})
        precisions = [flattened(upgraded(s.config)).get("precision", "float32") for s in summaries]
        each = _by_seed({s.seed: p for s, p in zip(summaries, precisions, strict=True)})
        common["mixed_precisions"] = each if len(set(precisions)) > 1 else ""
        joint, ceiling = (
            {r.seed: r.summary for r in groups.get((data, name), ()) if r.summary is not None}
            for name in ("joint", "ceiling")
        )
        for reading in summaries[0].readings:
            common |= _interval(group, reading)
            common |= _spread("A_final_by_joint", comparing.shares_of_joint(summaries, ceiling, reading))
            common |= _spread("forward_transfer", comparing.forward_transfers(summaries, joint, reading))
            measured = [result.quality for result in group if result.quality and reading == summaries[0].readings[0]]
            rows.append(common | _row(summaries, measured, data, method, reading))
    return rows


def _by_seed(texts: Mapping[int, str]) -> str:
    """What holds of each seed; seeds of which the same holds stand together."""
    seeds: dict[str, list[str]] = defaultdict(list)
    for seed, text in texts.items():
        seeds[text].append(str(seed))
    return "; ".join(f"seed{'s' * (len(of) > 1)} {', '.join(of)}: {text}" for text, of in seeds.items())


def differences(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each two methods of a data set on the seeds that both have, as `comparing.differences` gives them.

    A method is compared by the reading that counts; DGM by the combined one, too.
    """
    by_data: dict[str, dict[str, dict[int, Answers]]] = {}
    for result in results:
        if result.summary is not None and result.answers:
            methods = by_data.setdefault(result.data, {})
            for reading, name in comparing.compared_readings(result.method, result.summary).items():
                if reading in result.answers:
                    methods.setdefault(name, {})[result.seed] = result.answers[reading]
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
    with_sums = reading in comparing.OF_FEATURES  # Nothing of this kind was published of DGM.
    published = (None, None, "") if with_sums else PUBLISHED.get((data, method), (None, None, ""))
    size = statistics.mean(comparing.bytes_of_reading(s.bytes["memory"], reading) for s in summaries)
    replaced, images = first.bytes["images_replaced"], first.bytes["image_count"]
    epochs = (
        flattened(upgraded(first.config)).get("epochs") if first.method in GENERATIVE else None
    )  # Others count steps.
    half = first.n_seen((len(first.tasks) + 1) // 2 - 1)  # Classes after half of the tasks.
    several = summaries if len(first.tasks) > 1 else []  # With a single task there is no half, mean or earlier task.
    averages = [s.average_incremental.get(reading, {}) for s in several]
    return {
        "reading": reading,
        "protocol": first.protocol,
        "seeds": " ".join(str(s.seed) for s in summaries),
        **_spread("A_half", (s.averages[half][reading]["macro"] for s in several if half in s.averages)),
        **_spread("A_final", (s.final_accuracy(reading) for s in summaries)),
        **_spread("average_incremental", (of.get("from_1") for of in averages)),
        **_spread("average_incremental_from_2", (of.get("from_2") for of in averages)),
        **_spread("task_known", (s.task_known[reading]["A_t"][-1] for s in summaries if reading in s.task_known)),
        **_spread("A_final_micro", (s.final_accuracy(reading, "micro") for s in summaries)),
        **_spread("forgetting", (s.forgetting[reading] for s in several)),
        **_spread("backward_transfer", (s.backward_transfer.get(reading) for s in several)),
        **{name: _spread(name, (quality[name] for quality in measured))[name] for name in _QUALITY},
        "memory_bytes": round(size),
        "worth_images": round(size / (replaced / images)) if images and replaced else None,
        "epochs": epochs,
        "steps": flattened(upgraded(first.config)).get("consolidation_steps") if first.method in TRAINS else None,
        "train_images": images,
        "test_images": sum(map(sum, first.confusion[reading])),
        "full_length": is_full_length(data, images, epochs),
        "minutes": statistics.mean(sum(s.seconds.values()) / 60 for s in summaries),
        "device": first.device,
        "published_A_half": published[0],
        "published_A_final": published[1],
        "published_measure": published[2],
    }


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
    """The table as Markdown, without columns in which no row has anything."""
    measured = [row for row in rows if "reading" in row]
    columns = {name: cell for name, cell in _CELLS.items() if not measured or _is_filled(map(cell, measured))}
    lines = ["# Class-incremental accuracy", "", f"`{command}`", ""]
    lines += [*(_item(text) for name, text in _LEGEND.items() if name in columns), ""]
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        if "reading" in row:
            lines.append("| " + " | ".join(cell(row) for cell in columns.values()) + " |")
        else:
            empty = " |" * (len(columns) - 3)
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
    lines += ["", *notes, *([""] if notes else [])]
    lines += [f"Device: {'; '.join(devices)}.", ""] if devices else []
    lines += [f"![{picture}]({picture})" for picture in pictures]
    lines += ["", "Commands, one a row (`--seed` as in the column):", ""]
    lines += [f"- `{row_command}`" for row_command in dict.fromkeys(row["command"] for row in rows)]
    return "\n".join(lines) + "\n"


def _is_filled(cells: Iterable[str]) -> bool:
    """Whether a cell of a column says anything."""
    return any(cell.strip("–;, ") for cell in cells)


def _item(text: str) -> str:
    """An item of a list, in lines of at most 120 characters."""
    return textwrap.fill(f"- {text}", 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _verdicts(pairs: Sequence[dict[str, Any]]) -> list[str]:
    """For each data set, each method and the next best one: whether a difference is shown."""
    lines: dict[str, dict[str, str]] = defaultdict(dict)
    for pair in pairs:
        shown = "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * pair[name] for name in ("difference", "low", "high")))
        verdict = "different" if pair["different"] else "no difference shown"
        verdict = f"  - *{pair['method']}* – *{pair['other']}*: {shown}, {verdict}"
        lines[pair["data"]].setdefault(pair["method"], verdict)  # The first pair of a method is with the next best one.
    found = []
    for data, verdicts in lines.items():
        text = (
            f"{data}, each method and the next best one, in pairs by seed and test image: the difference of `A_final` "
            "in points, its 95 % interval, and *different* if that excludes 0 (all pairs are under `differences` in "
            "`table.json`):"
        )
        found += [_item(text), *verdicts.values()]
    return found


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
    of_generated = row["published_measure"] == OF_GENERATED
    ours = (None, row["generated_sample_accuracy"]) if of_generated else (row["A_half"], row["A_final"])
    marks = ["" if None in (our, number) else "✓" if 100 * our >= number else "✗" for our, number in zip(ours, numbers)]
    half, end = ("–" if number is None else f"{number}{mark}" for number, mark in zip(numbers, marks, strict=True))
    return f"{half} / {end}" + (" (generated)" if of_generated else "")


# Header -> the cell of a row that has a result.
_CELLS: dict[str, Callable[[dict[str, Any]], str]] = {
    "data": lambda row: row["data"],
    "method": lambda row: row["method"],
    "reading": lambda row: row["reading"],
    "A_half": lambda row: _percent(row, "A_half"),
    "A_final": lambda row: _percent(row, "A_final") + _bounds(row),
    "average; from A_2": lambda row: (
        f"{_percent(row, 'average_incremental')}; {_percent(row, 'average_incremental_from_2')}"
    ),
    "/ joint": lambda row: _plain(row["A_final_by_joint"], "{:.2f}"),
    "forgetting": lambda row: _percent(row, "forgetting"),
    "task known": lambda row: _percent(row, "task_known"),
    "transfer": lambda row: _percent(row, "forward_transfer"),
    "generated": lambda row: _percent(row, "generated_sample_accuracy"),
    "judge": lambda row: _percent(row, "judge_accuracy"),
    "Frechet": lambda row: _plain(row["frechet_distance"], "{:.1f}"),
    "precision, recall": lambda row: (
        "–" if row["precision"] is None else f"{_percent(row, 'precision')}, {_percent(row, 'recall')}"
    ),
    "memory, kB": lambda row: f"{row['memory_bytes'] / 1000:.0f}",
    "worth, images": lambda row: _plain(row["worth_images"], "{}"),
    "epochs, steps": lambda row: f"{_plain(row['epochs'], '{}')}, {_plain(row['steps'], '{:,}')}",
    "images": lambda row: f"{row['train_images']:,}",
    "minutes": lambda row: f"{row['minutes']:.1f}",
    "seeds": lambda row: row["seeds"] + (f" (no result: {row['failures']})" if row["failures"] else ""),
    "protocol": lambda row: row["protocol"],
    "published": _published,
}


def _by_method(results: Sequence[Result]) -> dict[str, dict[str, list[Summary]]]:
    """The summaries of each data set and method, in the order of the table."""
    summaries: dict[str, dict[str, list[Summary]]] = {}
    for result in results:
        if result.summary is not None:
            summaries.setdefault(result.data, {}).setdefault(result.method, []).append(result.summary)
    return summaries
