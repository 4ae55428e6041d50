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


def _table_of_runs():
    """The rows of the page's first table that name their runs: name to cells."""
    lines = (RESULTS / "beyond.md").read_text().splitlines()
    rows = [[cell.strip(" *`%") for cell in line.strip("|").split("|")] for line in lines if line.endswith("` |")]
    return {row[-1]: row[2:-2] for row in rows if "@" in row[-1]}


def _measured():
    """Name and commit to runs, of the file behind it."""
    runs = defaultdict(list)
    for row in json.loads((RESULTS / "beyond" / "runs.json").read_text()):
        runs[f"{row['run'].rpartition('-')[0]}@{row['commit']}"].append(row)
    return runs


@pytest.mark.parametrize("name", _table_of_runs())
def test_the_page_says_what_the_runs_came_to(name):
    runs = _measured()[name]
    assert len({row["seed"] for row in runs}) == len(runs) > 0
    a_5, a_10 = ([100 * row[of]["consolidated"]["macro"] for row in runs] for of in ("A_5", "A_10"))
    expected = {
        **{"A_5": (a_5, 1), "A_10": (a_10, 1)},
        "auxiliary": ([100 * row["A_10"]["auxiliary"]["macro"] for row in runs], 1),
        "forgetting": ([100 * row["forgetting"]["consolidated"] for row in runs], 1),
        "weights": ([row["parameters"]["shared_weights"] / 1e6 for row in runs], 2),
        "memory": ([row["bytes"]["memory"]["total"] / 1e3 for row in runs], 0),
        "re-used": ([100 * row["reused_by_the_last_task"] for row in runs], 0),
    }
    for (what, (values, digits)), cell in zip(expected.items(), _table_of_runs()[name], strict=True):
        mean, _, deviation = cell.replace(",", "").strip("* ").partition(" ± ")
        half = 0.5 * 10**-digits + 1e-9
        assert float(mean.strip("*")) == pytest.approx(statistics.mean(values), abs=half), what
        assert bool(deviation) == (len(values) > 2 and what in ("A_5", "A_10")), what
        if deviation:
            assert float(deviation.strip("*")) == pytest.approx(statistics.stdev(values), abs=half), what


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} has no summary.json"):
        collect.main([str(tmp_path), "--out", str(tmp_path / "runs.json")])
    assert not list(tmp_path.iterdir())
