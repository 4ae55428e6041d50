"""Rows of a results page are what the runs' own files say, and pages say what the rows say."""

import json
import re
import statistics
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


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} has no summary.json"):
        collect.main([str(tmp_path), "--out", str(tmp_path / "runs.json")])
    assert not list(tmp_path.iterdir())
