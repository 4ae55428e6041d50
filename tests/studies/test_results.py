"""A record names its settings as differences from a preset, and they can be restored from it."""

import json
from pathlib import Path

import pytest
from support import presets, small_runs

from benchmarks import records
from dgm_jax.config import preset
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


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.jsonl")), ids=lambda file: file.name)
def test_the_records_at_hand_are_complete(file):
    """Each says what was measured on; all files together stay small enough to read."""
    for record in records.read(file):
        assert {"machine", "device", "versions"} & set(record)
        assert len(str(record)) < 6500
    assert sum(len(each.read_text().splitlines()) for each in RESULTS.glob("*.jsonl")) <= 1500
