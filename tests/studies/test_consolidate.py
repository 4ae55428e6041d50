"""The classifier is consolidated anew from memories that are learnt once; no test image is read."""

import pytest
from support import small_runs

from benchmarks import records
from dgm_jax.config import PRESETS
from dgm_jax.errors import UserError
from dgm_jax.loading import load_method
from studies import consolidate

CONFIG = small_runs.small(image_size=8, epochs=1)


@pytest.mark.slow
def test_memories_are_learnt_once_and_each_change_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG})
    consolidated = []

    def watched(config, *args):
        consolidated.append(config)
        return load_method(config, *args)

    monkeypatch.setattr(consolidate, "load_method", watched)
    file, runs = tmp_path / "consolidate.jsonl", tmp_path / "runs"
    argv = ["digits", "--train-per-class", "40", "--tasks", "2", "--seeds", "0,1", "--runs", str(runs)]
    argv += ["--out", str(file), "--try", "consolidation_steps=3", "--try", "consolidation_smoothing=0.5"]
    consolidate.main(argv)
    results = records.read(file)
    assert [entry["change"] for entry in results] == ["", "consolidation_steps=3", "consolidation_smoothing=0.5"]
    for entry in results:
        accuracy = entry["accuracy"]["consolidated"]
        assert len(accuracy) == 2 and all(0 <= value <= 1 for value in accuracy)
    asked = [
        (config.seed, config.consolidation.consolidation_steps, config.consolidation.consolidation_smoothing)
        for config in consolidated
    ]
    steps = CONFIG.consolidation.consolidation_steps
    assert asked == [(0, steps, 0.0), (1, steps, 0.0), (0, 3, 0.0), (1, 3, 0.0), (0, steps, 0.5), (1, steps, 0.5)]
    assert sorted(path.name for path in runs.iterdir()) == ["seed0", "seed1"]
    before = file.read_text()
    monkeypatch.setattr(consolidate, "consolidated", None)  # Would be called.
    consolidate.main(argv)
    assert file.read_text() == before


@pytest.mark.parametrize("change", ["warm_start=true", "epochs=3", "consolidation_means=true"])
def test_a_change_of_the_memory_is_refused(change, tmp_path):
    argv = ["digits", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "c.jsonl"), "--try", change]
    with pytest.raises(UserError, match=f"^--try {change}: .* try {change.partition('=')[0]} with studies.tune$"):
        consolidate.main(argv)
    assert not list(tmp_path.iterdir())
