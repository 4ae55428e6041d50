"""The tables of README, the results pages and the notebook say what the records in `results/` say."""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.results_pages import NOTEBOOK, PAGES, ROOT, Record, numbers, read, require_equal, rows_with, tables

# ---- runs of the experiments ----


def macro(field: str, reading: str | None = None) -> Callable[[Record], float]:
    return lambda run: 100 * (run[field][reading] if reading else next(iter(run[field].values())))["macro"]


# Header of a column -> what a run's record says of it, in the column's unit.
COLUMNS: dict[str, Callable[[Record], float]] = {
    "A_5": macro("A_5"),
    "A_10": macro("A_10"),
    "A_10 consolidated": macro("A_10", "consolidated"),
    "A_10 auxiliary": macro("A_10", "auxiliary"),
    "A_10 analytic": macro("A_10", "analytic"),
    "A_10 combined": macro("A_10", "combined"),
    "forgetting, points": lambda run: 100 * next(iter(run["forgetting"].values())),
    "weights, M": lambda run: run["parameters"]["shared_weights"] / 1e6,
    "memory, kB": lambda run: run["bytes"]["memory"]["total"] / 1e3,
    "generator, kB": lambda run: run["bytes"]["memory"]["total"] / 1e3,  # Runs that counted nothing else.
    "gates of the last task that are re-used": lambda run: 100 * run["reused_by_the_last_task"],
}
IN_WORDS = {"data", "method", "variant", "keeps of old classes", "minutes", "minutes, one core", "runs"}


def runs_by_name() -> dict[str, list[Record]]:
    found = defaultdict(list)
    for run in read("runs"):
        found[f"{run['run'].rpartition('-')[0]}@{run['commit']}"].append(run)
    return found


def named_runs(names: str) -> list[Record]:
    """The runs of names with commas between them; each seed once."""
    found = [run for name in names.split(", ") for run in runs_by_name()[name]]
    assert len({run["seed"] for run in found}) == len(found) > 0, names
    return found


RUN_ROWS = [
    pytest.param(row, id=f"{page.stem} {row['runs']}")
    for page in (*(PAGES / f"{name}.md" for name in ("digits", "mnist", "cifar10")), NOTEBOOK)
    for row in rows_with(page, "runs")
    if row["runs"]
]


@pytest.mark.parametrize("row", RUN_ROWS)
def test_a_row_says_what_its_runs_reached(row):
    runs = named_runs(row["runs"])
    measured = {what: cell for what, cell in row.items() if what not in IN_WORDS and cell != "–"}
    assert "A_5" in measured and {"memory, kB", "generator, kB"} & set(measured) and set(measured) <= set(COLUMNS)
    for what, cell in measured.items():
        require_equal(cell, [COLUMNS[what](run) for run in runs], what)


VECTOR_ROWS = rows_with(ROOT / "docs" / "vectors.md", "run", "A_10")


@pytest.mark.parametrize("row", VECTOR_ROWS, ids=lambda row: f"{row['run']} {row['reading']}")
def test_a_row_on_vectors_says_what_its_run_reached(row):
    (record,) = [record for record in read("vectors") if record["run"] == row["run"]]
    for after in ("A_5", "A_10"):
        require_equal(row[after], [macro(after, row["reading"])(record)], after)
    require_equal(row["forgetting, points"], [100 * record["forgetting"][row["reading"]]], "forgetting")
    if row["kB"]:
        require_equal(row["kB"], [COLUMNS["memory, kB"](record)], "kB")


def test_noise_for_gaussians_was_chosen_on_held_out_vectors():
    text = " ".join((ROOT / "docs" / "vectors.md").read_text().split())
    said = re.search(r"held out: A_10 is ([\d.]+) % without noise, and ([\d.]+) % with that of DGM", text)
    assert said
    records = {record["run"]: record for record in read("vectors")}
    for cell, run, base in (
        (said[1], "gaussians-held-out", "consolidation_noise=0"),
        (said[2], "gaussians-noise-held-out", ""),
    ):
        assert (records[run]["evaluate_on"], records[run]["base"]) == ("training", base)
        require_equal(cell, [macro("A_10")(records[run])], run)


def test_the_page_on_vectors_has_rows():
    assert len({row["run"] for row in VECTOR_ROWS}) >= 5


def test_the_pages_name_runs():
    assert len(RUN_ROWS) > 20


def test_classes_of_very_different_size():
    page = (ROOT / "docs" / "own-images.md").read_text()
    said = re.search(r"85.7 % \(DGMa, seed 0\) .*?\(`joint`\) reaches ([\d.]+)", page, flags=re.DOTALL)
    assert said
    runs = {run["run"]: COLUMNS["A_10"](run) for run in read("runs") if run["run"].startswith("unequal-digits")}
    require_equal("85.7", [runs["unequal-digits-dgma-0"]], "dgma")
    require_equal(said[1], [runs["unequal-digits-joint-0"]], "joint")


def test_larger_images():
    runs = {run["run"]: run for run in read("runs") if run["run"].startswith("larger-images")}
    rows = rows_with(ROOT / "docs" / "own-images.md", "larger images", "run")
    assert {row["run"] for row in rows} == set(runs)
    for row in rows:
        run = runs[row["run"]]
        require_equal(row["A_3"], [100 * next(iter(run["A_3"].values()))["macro"]], row["run"])
        require_equal(row["memory, kB"], [run["bytes"]["memory"]["total"] / 1000], row["run"])
        require_equal(row["minutes"], [sum(run["seconds"].values()) / 60], row["run"])


def test_mnist_500_without_best():
    """Cells that also list each seed, and the minutes from least to most."""
    rows = rows_with(PAGES / "mnist.md", "A_10 auxiliary", "minutes")
    assert len(rows) == 4
    for row in rows:
        short, commit = ("-10-epochs", "d872ed1") if row["epochs"] == "10" else ("", "992d387")
        runs = named_runs(name := f"mnist-500{short}-{row['variant']}@{commit}")
        accuracy, _, each = row["A_10 consolidated (each seed)"].partition(" (")
        require_equal(accuracy, [COLUMNS["A_10 consolidated"](run) for run in runs], name)
        assert numbers(each) == [round(COLUMNS["A_10 consolidated"](run), 1) for run in runs]
        for what in ("A_5", "A_10 auxiliary", "forgetting, points"):
            require_equal(row[what], [COLUMNS[what](run) for run in runs], what)
        minutes = [float(part) for part in row["minutes"].split("–")]
        assert minutes == [round(limit(run["minutes"] for run in runs), 1) for limit in (min, max)]


# ---- studies ----


def seeds_in_percent() -> set[tuple[float, ...]]:
    """The accuracies of all rows of studies, each seed in %, by any classifier."""
    found = set()
    for name in ("tune", "consolidate", "streams", "ceiling"):
        for record in read(name):
            found |= {tuple(round(100 * value, 1) for value in values) for values in record["accuracy"].values()}
    return found


def cells_of_seeds(page: Path) -> Iterator[tuple[str, str]]:
    for table in tables(page):
        for row in table:
            yield from ((" ".join(row.values())[:60], cell) for what, cell in row.items() if "each" in what)


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, id=row) for row, cell in cells_of_seeds(NOTEBOOK) if numbers(cell)]
)
def test_the_notebook_lists_seeds_as_measured(cell):
    measured = seeds_in_percent()
    one_by_one = all((seed,) in measured for seed in numbers(cell))  # Each seed may have a record for itself.
    assert tuple(numbers(cell)) in measured or one_by_one


def test_the_notebook_states_means_of_its_seeds():
    rows = [row for row in rows_with(NOTEBOOK, "each seed") if numbers(row["each seed"])]
    assert len(rows) > 40
    for row in rows:
        (mean,) = (cell for what, cell in row.items() if what in ("A_10", "A_10 consolidated"))
        values = numbers(row["each seed"])  # Rounded: their mean may be off by as much as each.
        assert numbers(mean)[0] == pytest.approx(statistics.mean(values), abs=0.11), row


@pytest.mark.parametrize("page", [PAGES / "best.md", NOTEBOOK], ids=lambda page: page.name)
def test_accuracy_over_forty_classes(page):
    curves = [record["by_task"]["accuracy"][0] for record in read("streams") if record["classes"] == 40]
    measured = {tuple(round(100 * curve[classes - 1], 1) for classes in range(5, 41, 5)) for curve in curves}
    rows = rows_with(page, "accuracy after so many classes")
    assert {tuple(float(cell) for what, cell in row.items() if what.isdecimal()) for row in rows} == measured


def test_the_classifier():
    """The columns of the notebook's table of consolidation settings: each accuracy is that of a record."""
    measured = defaultdict(set)
    for record in read("consolidate"):
        values = [100 * value for value in record["accuracy"]["consolidated"]]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 2 else ""
        measured[record["data"], record["variant"]].add(f"{statistics.mean(values):.1f}{spread}")
    rows = rows_with(NOTEBOOK, "digits, dgma", "MNIST-500, dgma")
    assert len(rows) > 10
    for row in rows:
        for what, key in {
            "MNIST-500, dgmw": ("mnist", "dgmw"),
            "MNIST-500, dgma": ("mnist", "dgma"),
            "digits, dgmw": ("digits", "dgmw"),
            "digits, dgma": ("digits", "dgma"),
        }.items():
            assert row[what] == "–" or row[what] in measured[key], row


def test_settings_of_rivals():
    records = [record for record in read("tune") if record["table"] == "rivals"]
    for row, record in zip(rows_with(ROOT / "docs" / "baselines.md", "A_10, each seed"), records, strict=True):
        assert record["settings"]["method"] == row["method"].partition(",")[0]
        assert row["change to `best"] == (record["change"] or "none")
        first = next(iter(record["accuracy"].values()))
        assert numbers(row["A_10, each seed"]) == [round(100 * value, 1) for value in first]


def test_settings_of_cifar10():
    """The rows of tuning.md: step sizes and aux_G, on the first two tasks."""
    measured = [record for record in read("tune") if record["table"] == "tuning" and record["train_per_class"] == 1500]
    for row, record in zip(rows_with(PAGES / "tuning.md", "consolidated"), measured, strict=True):
        assert row["variant"].startswith(record["variant"])
        for reading in ("consolidated", "auxiliary"):
            require_equal(row[reading], [100 * value for value in record["accuracy"][reading]], str(row))
        require_equal(row["minutes"], [record["minutes"]], str(row))


def test_ceilings():
    """On each page: joint training for each number of steps that was tried; the row begins as the command."""
    measured = defaultdict(dict)
    for record in read("steps"):
        steps = int(re.search(r"consolidation_steps=(\d+)", record["change"])[1])
        smoothing = re.search(r"consolidation_smoothing=(\S+)", record["base"])
        name = f"{record['data']} --train-per-class {record['train_per_class']}"
        name += f", smoothing {smoothing[1]}" if smoothing else ""
        measured[name][f"{steps:,}"] = record["accuracy"]["classifier"]
    rows = [row for page in sorted(PAGES.glob("*.md")) for row in rows_with(page, "steps of joint training")]
    stated = {
        row.pop("steps of joint training"): {steps: cell for steps, cell in row.items() if cell != "–"} for row in rows
    }
    assert {name: set(row) for name, row in stated.items()} == {name: set(row) for name, row in measured.items()}
    for name, row in stated.items():
        for steps, cell in row.items():
            require_equal(cell, [100 * share for share in measured[name][steps]], f"{name} {steps}")


def test_whole_cifar10():
    """The classifiers that were consolidated anew from one memory, and what the combined reading gains."""
    whole = [record for record in read("colour") if record["table"] == "whole"]
    for row, record in zip(rows_with(NOTEBOOK, "steps", "both"), whole, strict=True):
        told = [record["change"]["steps"], record["change"]["samples"]]
        assert [int(row[what].strip("*").replace(",", "")) for what in ("steps", "images a class")] == told
        require_equal(row["accuracy"], [100 * record["accuracy"]], str(row))
        require_equal(row["both"], [100 * record["with_mirror_images"]], str(row))
    combined = [record for record in read("colour") if record["table"] == "combined"]
    for row, record in zip(rows_with(NOTEBOOK, "filters", "combined, temperature 1"), combined, strict=True):
        by_temperature = record["combined_by_temperature"]
        assert row["bytes"] == f"{record['analytic_bytes'] / 1000:,.0f} kB"
        cells = {"analytic": record["analytic"], "combined, temperature 1": by_temperature["1"]}
        for what, share in (cells | {t: by_temperature[t] for t in ("1.5", "2", "3")}).items():
            require_equal(row[what], [100 * share], str(row))


def test_the_shares_of_the_combined_reading():
    records = read("pool")
    for row, record in zip(rows_with(ROOT / "docs" / "method.md", "filters", "share 0.3"), records, strict=True):
        assert int(row["filters"]) == record["filters"]["analytic"]
        cells = {"network": "consolidated", "analytic": "analytic", "share 0.3": "combined, share 0.3"}
        for what, name in (cells | {s: f"combined, share {s}" for s in ("0.4", "0.5", "0.6", "0.7")}).items():
            require_equal(row[what], [100 * record["accuracy"][name]], str(row))


def test_the_classifier_of_all_of_mnist():
    records = [record for record in read("consolidate") if record.get("table") == "all of MNIST"]
    for row, record in zip(rows_with(NOTEBOOK, "steps", "accuracy, %"), records, strict=True):
        told = [record["change"]["steps"], record["change"]["samples"]]
        assert [int(row[what].strip("*").replace(",", "")) for what in ("steps", "images a class")] == told
        require_equal(row["accuracy, %"], [100 * value for value in record["accuracy"]["consolidated"]], str(row))


def test_calibration():
    """The newest record of each run."""
    newest = {record["run"]: record for record in read("temperature")}
    rows = rows_with(ROOT / "docs" / "confidence.md", "record", "drawn alone")
    assert len(rows) >= 6
    for row in rows:
        temperature, measured = (newest[row["record"]][part] for part in ("temperature", "measured"))
        for what, name in (("drawn alone", "drawn"), ("temperature", "run"), ("best", "best")):
            require_equal(row[what], [temperature[name]], str(row))
        errors = {"no temperature": "none", "drawn alone": "drawn", "ours": "run", "best": "best"}
        for what, name in errors.items():
            require_equal(row[f"error, {what}"], [100 * measured[name]["ece"]], str(row))
        for what, name in (("no temperature", "none"), ("ours", "run")):
            require_equal(row[f"log-likelihood, {what}"], [-measured[name]["nll"]], str(row))


def test_unknown_images():
    page = ROOT / "docs" / "confidence.md"
    for row in rows_with(page, "score", "OSCR, %"):
        records = [record for record in read("open_set") if record["data"] == row["data"]]
        for measure in ("auroc", "oscr"):
            require_equal(
                row[f"{measure.upper()}, %"], [100 * record[measure][row["score"]] for record in records], str(row)
            )
    rows = rows_with(page, "splits")
    assert [row["data"] for row in rows] == list(dict.fromkeys(record["data"] for record in read("open_set")))
    for row in rows:
        records = [record for record in read("open_set") if record["data"] == row["data"]]
        assert row["splits"] == str(len(records))
        accuracies = [100 * record["accuracy"]["consolidated"] for record in records]
        require_equal(row["accuracy on known classes, %"], accuracies, str(row))
        for which in ("known", "unknown"):
            accepted = [100 * record["accepted"][which] for record in records]
            require_equal(row[f"{which} images accepted, %"], accepted, str(row))


def test_more_images_of_known_classes():
    measured = [(record["data"], *one) for record in read("repetition") for one in record["accuracy"].items()]
    rows = rows_with(ROOT / "docs" / "own-images.md", "learnt", "turned")
    for row, (name, learnt, accuracy) in zip(rows, measured, strict=True):
        assert (row["data"], row["learnt"]) == (name, learnt)
        for images, share in accuracy.items():
            require_equal(row[images], [100 * share], str(row))


def test_where_accuracy_is_lost():
    (record,) = read("gap")
    rows = rows_with(NOTEBOOK, "learnt from", "network", "analytic")
    for row, accuracy in zip(rows, record["accuracy"].values(), strict=True):
        for reading in ("network", "analytic"):
            require_equal(row[reading], [100 * accuracy[reading]], str(row))


# ---- all methods, quick ----


def test_the_quick_table():
    rows = rows_with(PAGES / "quick" / "table.md", "A_half")
    for row, record in zip(rows, read("quick"), strict=True):
        assert (row["data"], row["method"], row["reading"]) == (record["data"], record["method"], record["reading"])
        for what, field in {"A_half": "A_half", "A_final": "A_final", "forgetting": "forgetting"}.items():
            require_equal(row[what], [100 * record[field]], str(row))
        require_equal(row["memory, kB"], [record["memory_bytes"] / 1e3], str(row))
        require_equal(row["minutes"], [record["minutes"]], str(row))
        assert (row["generated"] == "–") == ("generated_sample_accuracy" not in record)
        if row["generated"] != "–":
            require_equal(row["generated"], [100 * record["generated_sample_accuracy"]], str(row))
            require_equal(row["Frechet"], [record["frechet_distance"]], str(row))


def test_baselines_before_and_after_one_loop():
    measured = {(line["method"], line["commit"]): line["A_10"]["macro"] for line in read("one_loop")}
    stated = re.findall(r"^  - `(\w+)`: (.+), then (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert len(measured) == 2 * len(stated) > 8
    for method, *cells in stated:
        for commit, cell in zip(("c36b15c", "54bcc32"), cells, strict=True):
            require_equal(cell, [100 * share for share in measured[method, commit]], f"{method} {commit}")


# ---- robustness ----


def test_power_cut():
    (record,) = [record for record in read("power_cut") if "note" not in record]
    page = " ".join((ROOT / "docs" / "faq.md").read_text().split())
    found = re.search(r"([\d,]+) that differ were opened: .* (\d+) of them were run to the end, and (\d+) ended", page)
    assert found is not None
    counts = [int(number.replace(",", "")) for number in found.groups()]
    assert counts == [record["restored"], record["runs"], record["equal"]] and not record["wrong"]


def test_a_classifier_that_learnt_from_a_memory():
    shares = [100 * record["accuracy"] for record in read("batches")]
    assert len(shares) == 3
    assert f"recognises {min(shares):.0f} to {max(shares):.0f} % of the 360" in (ROOT / "docs" / "ship.md").read_text()


def test_mutants():
    modules = read("mutants")
    tried, noticed = (sum(record[name] for record in modules) for name in ("mutants", "killed"))
    equivalent = sum(len(record["equivalent"]) for record in modules)
    assert noticed + equivalent + sum(len(record["survived"]) for record in modules) == tried
    said = f"Of the {tried} changes of seed 0, tests noticed {noticed}, and the other {equivalent} were equivalent"
    assert said in (ROOT / "docs" / "benchmarks.md").read_text()


def test_kills():
    measured = {record["variant"]: record for record in read("kills") if "note" not in record}
    rows = rows_with(PAGES / "kills.md", "kills")
    assert {row["variant"] for row in rows} == set(measured)
    for row in rows:
        record = measured[row["variant"]]
        phases = dict(record["phases"])
        assert int(row["kills"]) == record["kills"] == sum(phases.values())
        assert int(row["in the midst of a write"]) == phases.pop("a checkpoint is written")
        assert int(row["at an epoch's end"]) == phases.pop("end of epoch")
        assert int(row["replay"]) == phases.pop("replay")
        assert int(row["consolidation"]) == phases.pop("consolidate")
        assert int(row["elsewhere"]) == sum(phases.values())
        assert (int(row["runs that ended"]), int(row["equal"])) == (record["runs"], record["equal"])
        assert numbers(row["flips"]) + numbers(row["unnoticed"]) == list(record["flips"].values())


# ---- other libraries ----


def test_the_page_of_other_libraries_says_what_their_code_reached():
    rows, records = rows_with(PAGES / "peers.md", "kept, MB"), read("peers")
    for row, record in zip(rows, records, strict=True):
        assert (row["what"], row["code and settings"]) == (record["what"], record["code"].strip("`"))
        for what in ("A_5", "A_10"):
            assert numbers(row[what])[0] == pytest.approx(100 * record[what]), record["what"]
        assert [float(row["CPU seconds"]), float(row["kept, MB"])] == [record["cpu_seconds"], record["kept_mb"]]
