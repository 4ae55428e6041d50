"""The second half of each class, turned: learnt later as more images of known classes, or at once with the first."""

import jax
import numpy as np
from support import small_runs

from benchmarks import records
from dgm_jax import data, load_memory
from dgm_jax.data.dataset import rows_of
from studies import repetition


def test_halves_share_no_image_and_the_second_is_turned():
    whole = small_runs.digits(8, per_class=9)
    upright, turned = repetition.halves(whole)
    for label, rows in rows_of(whole.y_train).items():
        assert np.array_equal(upright.x_train[upright.y_train == label], whole.x_train[rows[:4]])
        expected = [np.rot90(image) for image in whole.x_train[rows[4:]]]
        assert np.array_equal(turned.x_train[turned.y_train == label], expected)
    assert np.array_equal(upright.x_test, whole.x_test)
    assert np.array_equal(turned.x_test[3], np.rot90(whole.x_test[3]))
    joined = repetition.both(upright, turned)
    assert len(joined.x_train) == len(whole.x_train) and len(joined.x_test) == 2 * len(whole.x_test)


def test_three_ways_are_measured(tmp_path, monkeypatch):
    few = small_runs.digits(8, (0, 1), 24)
    monkeypatch.setattr(data, "load", lambda name, folder: few)
    monkeypatch.setattr(repetition, "best", lambda variant, **_: small_runs.small(variant, image_size=8, headroom=2))
    monkeypatch.setattr(repetition, "keep_programs", lambda: None)
    runs, file = tmp_path / "runs", tmp_path / "out.jsonl"
    assert repetition.main(["digits", "--runs", str(runs), "--base", "epochs=2", "--out", str(file)]) == 0
    (record,) = records.read(file)
    assert list(record["accuracy"]) == ["first halves", "then second halves", "both at once"]
    assert all(0 <= share <= 1 for of in record["accuracy"].values() for share in of.values())
    memory, first = load_memory(runs / "in_turn"), load_memory(runs / "first")
    assert memory.modes(0) == (12, 12) and load_memory(runs / "at_once").modes(0) == (24,)
    key = jax.random.key(4)
    assert np.array_equal(memory.sample_index(1, 5, key, mode=0), first.sample_index(1, 5, key))
