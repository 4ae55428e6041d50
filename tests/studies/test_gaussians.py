"""One Gaussian a class in place of a memory: what is kept and drawn, and what a classifier learns from it."""

import numpy as np
import pytest
from support import small_runs

from benchmarks import records
from studies import gaussians


def test_what_is_drawn_has_the_mean_and_the_covariance_of_the_class():
    random = np.random.default_rng(0)
    vectors = (3 + random.normal(size=(500, 2)) @ [[2.0, 1.0], [0.0, 0.5]]).astype(np.float32)
    vectors = np.column_stack([vectors, np.full(500, 7, np.float32)])  # One number never varies.
    drawn = gaussians.Gaussian.of(vectors).draw(200_000, np.random.default_rng(1))
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.mean(axis=0), vectors.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), np.cov(vectors, rowvar=False), atol=0.06)


def test_a_record_has_accuracies_and_bytes(tmp_path, monkeypatch):
    config = small_runs.vectors(consolidation_steps=400, discriminator_width=32, batch_size=32)
    monkeypatch.setattr(gaussians, "preset", lambda name: config)
    monkeypatch.setattr(gaussians, "keep_programs", lambda: None)
    dataset, npz, out = small_runs.digits(1), tmp_path / "features.npz", tmp_path / "out.jsonl"
    parts = {"x_train": dataset.x_train[:, 0, 0], "x_test": dataset.x_test[:, 0, 0]}
    np.savez(npz, y_train=dataset.y_train, y_test=dataset.y_test, **parts)
    assert gaussians.main([str(npz), "--base", "consolidation_samples=200", "--out", str(out)]) == 0
    (record,) = records.read(out)
    assert (record["run"], record["dataset"]) == ("gaussians", "features")
    assert record["A_1"]["classifier"]["macro"] == 1 and record["A_3"]["classifier"]["macro"] > 0.8
    d, covariance = 64, 64 * 65 // 2
    assert record["bytes"]["memory"] == {
        "means": 4 * 3 * d,
        "covariances": 4 * 3 * covariance,
        "total": 4 * 3 * (d + covariance),
    }
    assert 0 <= record["forgetting"]["classifier"] == pytest.approx(1 - record["A_3"]["classifier"]["macro"], abs=0.3)
