"""Separate generators of one class each, beside DGM and joint; no test image is read."""

import dataclasses
import json

import helpers
import pytest
from helpers import compiled_once  # noqa: F401

from benchmarks import ceiling
from benchmarks.choosing import first_tasks
from dgm_jax import Learner, data
from dgm_jax.config import PRESETS
from dgm_jax.errors import UserError

CONFIG = helpers.small(image_size=8, epochs=1, warm_start=True)


def test_each_memory_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG})
    file = tmp_path / "ceiling.json"
    argv = ["digits", "--train-per-class", "40", "--tasks", "2", "--seeds", "0,1", "--longer", "2"]
    argv += ["--out", str(file)]
    ceiling.main(argv)
    results = json.loads(file.read_text())
    assert [entry["row"] for entry in results] == [
        *("joint", "separate", "separate, 2 x as long"),
        *("dgm, from noise", "dgm, warm start"),
    ]
    for entry in results:
        assert len(entry["accuracy"]) == 2 and all(0 <= value <= 1 for value in entry["accuracy"])
    before = file.read_text()
    monkeypatch.setattr(ceiling, "_measure", lambda *_: pytest.fail("measured again"))
    ceiling.main(argv)
    assert file.read_text() == before


def test_each_class_has_an_unprotected_generator_of_its_own(monkeypatch):
    learnt = []

    class Watched(Learner):
        def fit(self, stream, workdir, **options):
            learnt.append((self.config, stream.classes))
            return super().fit(stream, workdir, **options)

    monkeypatch.setattr(ceiling, "Learner", Watched)
    dataset = first_tasks(data.load("digits"), 40, tasks=3).resized(8)
    longer = CONFIG.with_changes(epochs=20, consolidation_steps=200, consolidation_samples=50, seed=1)
    assert ceiling.separate(longer, dataset) > 0.5  # Chance is a third.
    assert [classes for _, classes in learnt] == [(0,), (1,), (2,)]
    assert len({config.seed for config, _ in learnt}) == 3
    assert {(config.gates.masks, config.gates.warm_start, config.gan.epochs) for config, _ in learnt} == {("none", False, 20)}


@pytest.mark.parametrize("change", ["consolidation_real=0.5", "distillation_weight=1", "method=joint"])
def test_what_separate_generators_cannot_do_is_refused(change, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG})
    monkeypatch.setattr(ceiling, "_measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=f"{change.partition('=')[0]} must be"):
        ceiling.main(["digits", "--tasks", "2", "--try", change, "--out", str(tmp_path / "ceiling.json")])


def test_rows_differ_in_what_they_are_called_after():
    rows = {name: config for name, (config, _) in ceiling.rows(CONFIG, 3).items()}
    assert {name: config.method for name, config in rows.items()} == dict.fromkeys(rows, "dgm") | {"joint": "joint"}
    assert [name for name, config in rows.items() if config.gates.warm_start] == ["dgm, warm start"]
    assert rows["separate, 3 x as long"].epochs == 3 * rows["separate"].epochs == 3


def test_settings_of_gates_do_not_hinder_generators_without_any():
    dataset = first_tasks(data.load("digits"), 40, tasks=2).resized(8)
    product = CONFIG.with_changes(warm_start=False, gate_gradient="product")
    paced = dataclasses.replace(CONFIG, gate_learning_rate=0.1, gate_reach=3.0, scale_schedule="geometric")
    for config in (product, paced):
        assert 0 <= ceiling.separate(config, dataset) <= 1
