"""Lines of collected runs repeat what the runs' files say."""

import dataclasses
import json

import pytest
from support import small_runs
from support.programs import compiled_once  # noqa: F401

from benchmarks import records
from dgm_jax.config import PRESETS, Config
from dgm_jax.errors import UserError
from studies import collect


def test_a_run_is_collected_once(tmp_path):
    run = small_runs.finished(small_runs.small("dgma", image_size=8, headroom=2))
    file = tmp_path / "runs.jsonl"
    records.append(file, {"run": "another", "commit": "abc"})
    for _ in range(2):
        collect.main([str(run.workdir), "--out", str(file)])
    other, row = records.read(file)
    assert other == {"run": "another", "commit": "abc"}
    summary = json.loads((run.workdir / "summary.json").read_text())
    assert (row["run"], row["finished_tasks"]) == (run.workdir.name, 3)
    assert all(row[name] == summary[name] for name in ("seed", "protocol", "forgetting", "bytes", "versions"))
    preset = PRESETS[row["preset"]][row["variant"]]
    restored = dataclasses.replace(preset, seed=row["seed"], **row["settings"])
    assert restored == Config().with_changes(**summary["config"])
    last = run.memories[-1]
    before = run.memories[-2].reserved
    reused = 0
    opened = 0
    for mask, reserved in zip(last.tasks[-1].masks, before, strict=True):
        reused += int((mask[: len(reserved)] & reserved).sum())
        opened += int(mask.sum())
    assert row["reused_by_the_last_task"] == pytest.approx(reused / opened)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} has no summary.json"):
        collect.main([str(tmp_path), "--out", str(tmp_path / "runs.jsonl")])
    assert not list(tmp_path.iterdir())
