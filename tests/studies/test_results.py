"""A record names its settings as differences from a preset, and they can be restored from it."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import presets, small_runs, tables

from benchmarks import records
from dgm_jax.config import preset
from dgm_jax.metrics.intervals import Answers
from dgm_jax.reporting import table
from studies import results

RESULTS = Path(__file__).parents[2] / "results"


def test_differences_restore_the_settings():
    best = presets.config("best-digits", "dgmw")
    config = best.with_changes(epochs=7, seed=3)
    assert results.differences(config, best) == {"epochs": 7}
    for name in ("digits", "mnist"):
        base = preset(name, "dgmw")
        assert base.with_changes(**results.differences(config, base), seed=3) == config


def test_a_fingerprint_tells_settings_apart_but_not_seeds():
    config = preset("digits", "dgma")
    assert results.fingerprint(config) == results.fingerprint(config.with_changes(seed=4))
    assert results.fingerprint(config) != results.fingerprint(config.with_changes(epochs=4))


def test_a_record_of_a_run_says_what_its_summary_says(tmp_path):
    run = small_runs.finished(small_runs.small("dgma", image_size=8, headroom=2))
    file = tmp_path / "runs.jsonl"
    results.add_run(run.workdir, file)
    (row,) = records.read(file)
    summary = json.loads((run.workdir / "summary.json").read_text())
    assert row["run"] == run.workdir.name
    assert all(row[name] == summary[name] for name in ("seed", "config", "protocol", "forgetting", "bytes", "versions"))
    last, before = run.memories[-1].tasks[-1].masks, run.memories[-2].reserved
    reused = sum(int((mask[: len(reserved)] & reserved).sum()) for mask, reserved in zip(last, before, strict=True))
    assert row["reused_by_the_last_task"] == pytest.approx(reused / sum(int(mask.sum()) for mask in last))


def test_records_of_a_table_say_what_the_table_says(tmp_path):
    runs = [
        tables.result(method, seed, summary=tables.summary(seed, right / 10), answers={"consolidated": answers(right)})
        for method, right in (("dgma", 9), ("dgmw", 7))
        for seed in (0, 1, 2)
    ]
    table.write(runs, tmp_path, command="")
    file = tmp_path / "table.jsonl"
    results.add_table(tmp_path, file, tmp_path)  # No checkout: git knows no commit.
    *rows, pair = records.read(file)
    assert [(row["method"], row["reading"], row["commit"]) for row in rows][::2] == [
        ("dgma", "consolidated", None),
        ("dgmw", "consolidated", None),
    ]
    assert rows[0]["A_final"] == 0.9 and rows[0]["memory_bytes"] == 50_000 and "frechet_distance" not in rows[0]
    assert pair["difference"] == pytest.approx(0.2) and not pair["different"]


def answers(right):
    return Answers("mnist", {0: (np.arange(10) < right).astype(np.uint8)})


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.jsonl")), ids=lambda file: file.name)
def test_the_records_at_hand_are_complete(file):
    """Each says what was measured on; all files together stay small enough to read."""
    for record in records.read(file):
        assert {"machine", "device", "versions"} & set(record)
        assert len(str(record)) < 8000
    assert sum(len(each.read_text().splitlines()) for each in RESULTS.glob("*.jsonl")) <= 1500
