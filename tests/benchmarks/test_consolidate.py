"""The classifier is consolidated anew from memories that are learnt once; no test image is read."""

import json

import helpers
from helpers import compiled_once  # noqa: F401

from benchmarks import consolidate
from dgm_jax.config import PRESETS

CONFIG = helpers.small(image_size=8, epochs=1)


def test_memories_are_learnt_once_and_each_change_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG})
    file, runs = tmp_path / "consolidate.json", tmp_path / "runs"
    argv = ["digits", "--train-per-class", "40", "--tasks", "2", "--seeds", "0,1", "--runs", str(runs)]
    argv += ["--out", str(file), "--try", "consolidation_steps=3", "--try", "consolidation_average=0.5"]
    consolidate.main(argv)
    results = json.loads(file.read_text())
    assert [entry["change"] for entry in results] == ["", "consolidation_steps=3", "consolidation_average=0.5"]
    for entry in results:
        assert len(entry["accuracy"]) == 2 and all(0 <= value <= 1 for value in entry["accuracy"])
    assert sorted(path.name for path in runs.iterdir()) == ["seed0", "seed1"]
    before = file.read_text()
    monkeypatch.setattr(consolidate, "consolidated", None)  # Would be called.
    consolidate.main(argv)
    assert file.read_text() == before
