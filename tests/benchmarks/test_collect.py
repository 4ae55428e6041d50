"""Rows of a results page are what the runs' own files say, and pages say what the rows say."""

import json
import statistics
from collections import defaultdict
from pathlib import Path

import helpers
import pytest
from helpers import compiled_once  # noqa: F401

from benchmarks import collect
from dgm_jax.errors import UserError

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_a_run_is_collected_once(tmp_path):
    run = helpers.finished(helpers.small("dgma", image_size=8, headroom=2))
    file = tmp_path / "runs.json"
    file.write_text(json.dumps([{"run": "another", "commit": "abc"}]))
    for _ in range(2):
        collect.main([str(run.workdir), "--out", str(file)])
    other, row = json.loads(file.read_text())
    assert other == {"run": "another", "commit": "abc"}
    summary = json.loads((run.workdir / "summary.json").read_text())
    assert (row["run"], row["finished_tasks"]) == (run.workdir.name, 3)
    assert all(row[name] == summary[name] for name in ("seed", "protocol", "forgetting", "bytes", "config", "versions"))
    last = run.memories[-1]
    opened = [mask for mask in last.tasks[-1].masks]
    before = run.memories[-2].reserved
    again = sum(int((mask[: len(own)] & own).sum()) for mask, own in zip(opened, before, strict=True))
    assert row["reused_by_the_last_task"] == pytest.approx(again / sum(int(mask.sum()) for mask in opened))


# Header of a column -> decimals, and what a run's row says of it, in the column's unit.
COLUMNS = {
    "A_5": (1, lambda row: 100 * next(iter(row["A_5"].values()))["macro"]),
    "A_10": (1, lambda row: 100 * next(iter(row["A_10"].values()))["macro"]),
    "A_10 consolidated": (1, lambda row: 100 * row["A_10"]["consolidated"]["macro"]),
    "A_10 auxiliary": (1, lambda row: 100 * row["A_10"]["auxiliary"]["macro"]),
    "forgetting, points": (1, lambda row: 100 * next(iter(row["forgetting"].values()))),
    "weights, M": (2, lambda row: row["parameters"]["shared_weights"] / 1e6),
    "memory, kB": (0, lambda row: row["bytes"]["memory"]["total"] / 1e3),
    "gates of the last task that are re-used": (0, lambda row: 100 * row["reused_by_the_last_task"]),
}
PROSE = {"data", "method", "variant", "keeps of old classes", "minutes, one core", "runs"}
SPREADS = ("A_5", "A_10", "A_10 consolidated")  # Where a spread is told, if there are three seeds.


def _tables_of_runs():
    """The rows of the page's tables that name their runs, in a column "runs": name to cells by header."""
    rows, header = {}, []
    for line in (RESULTS / "beyond.md").read_text().splitlines():
        cells = [cell.strip(" *`%") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        header = [] if not cells else header or cells
        named = dict(zip(header, cells))
        if "@" in named.get("runs", ""):
            rows[named["runs"]] = named
    return rows


def _measured():
    """Name and commit to runs, of the file behind it."""
    runs = defaultdict(list)
    for row in json.loads((RESULTS / "beyond" / "runs.json").read_text()):
        runs[f"{row['run'].rpartition('-')[0]}@{row['commit']}"].append(row)
    return runs


@pytest.mark.parametrize("name", _tables_of_runs())
def test_the_page_says_what_the_runs_came_to(name):
    named = name.replace("`", "").split(", ")
    runs = [row for one in named for row in _measured()[one]]
    assert len({row["seed"] for row in runs}) == len(runs) > 0
    cells = {what: cell for what, cell in _tables_of_runs()[name].items() if what not in PROSE}
    assert {"A_5", "forgetting, points", "memory, kB"} <= set(cells) <= set(COLUMNS)
    for what, cell in cells.items():
        digits, of = COLUMNS[what]
        values = [of(row) for row in runs]
        mean, _, deviation = (part.strip(" *") for part in cell.replace(",", "").partition("±"))
        half = 0.5 * 10**-digits + 1e-9
        assert float(mean) == pytest.approx(statistics.mean(values), abs=half), what
        assert bool(deviation) == (len(values) > 2 and what in SPREADS), what
        if deviation:
            assert float(deviation) == pytest.approx(statistics.stdev(values), abs=half), what


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} has no summary.json"):
        collect.main([str(tmp_path), "--out", str(tmp_path / "runs.json")])
    assert not list(tmp_path.iterdir())
