"""The readings of a finished run are compared on held-out training images."""

import numpy as np
import pytest
from support import small_runs

from benchmarks import records
from dgm_jax import Learner, data
from dgm_jax.errors import UserError
from dgm_jax.methods.feature_memory import FeatureMemory, bytes_of_filters, filters_for
from dgm_jax.models.closed_form import Sums
from dgm_jax.models.patch_filters import PatchFilters, n_features
from studies import combined, finished


def test_bytes_are_those_that_a_run_counts():
    filters = PatchFilters(np.zeros((6, 6, 3, 7), np.float32), np.zeros(7, np.float32))
    counted = FeatureMemory(Sums.of_nothing(5, n_features(7)), filters).bytes()
    assert bytes_of_filters(7, 3, 5) == sum(counted.values())
    assert filters_for(bytes_of_filters(7, 3, 5), 3, 5) == 7
    assert filters_for(bytes_of_filters(7, 3, 5) - 1, 3, 5) == 6


@pytest.mark.slow
def test_each_reading_of_a_run_is_judged(tmp_path, monkeypatch, capsys):
    config, whole = small_runs.small(image_size=8, combined=True, filters=4), small_runs.digits(8)
    monkeypatch.setattr(finished.data, "load", lambda *_: whole)
    file, run = tmp_path / "combined.jsonl", tmp_path / "run"
    argv = ["digits", "--run", str(run), "--filters", "4", "--shares", "0.5", "--out", str(file)]
    summary = Learner(config, devices=1).fit(data.class_incremental(whole.for_choosing()), run)
    assert combined.main(argv) == 0
    (record,) = records.read(file)
    accuracy, size = record["accuracy"], record["bytes"]
    for reading, name in (("combined", "combined, share 0.5"), ("analytic",) * 2, ("consolidated",) * 2):
        assert accuracy[name] == pytest.approx(summary["A_3"][reading]["macro"], abs=1e-6)
    assert size["combined"] == summary["bytes"]["memory"]["total"]
    assert 0.8 * size["combined"] < size["two analytic"] <= size["combined"]
    assert size["analytic"] < size["larger analytic"] <= size["combined"]
    assert "two analytic" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_judged_on_test_images_is_refused(tmp_path, monkeypatch):
    run = small_runs.finished(small_runs.small(image_size=8)).workdir
    monkeypatch.setattr(finished.data, "load", lambda *_: small_runs.digits(8))
    argv = ["digits", "--run", str(run), "--out", str(tmp_path / "combined.jsonl")]
    with pytest.raises(UserError, match="make one with --evaluate-on training$"):
        combined.main(argv)
    assert not list(tmp_path.iterdir())
