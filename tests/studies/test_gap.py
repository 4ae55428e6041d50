"""Real and drawn images are judged alike, by what held-out real images say of the classifiers that learn from them."""

import numpy as np
import pytest
from support import small_runs

from benchmarks import records
from dgm_jax import Learner, data
from studies import finished, gap


@pytest.mark.slow
def test_each_source_of_images_is_judged(tmp_path, monkeypatch):
    whole = small_runs.digits(8)
    monkeypatch.setattr(finished.data, "load", lambda *_: whole)
    changes = {"image_size": 8, "combined": True, "filters": 4, "consolidation_steps": 60}
    for method in ("dgm", "separate"):
        config = small_runs.small(method=method, **changes)
        Learner(config, devices=1).fit(data.class_incremental(whole.for_choosing()), tmp_path / method)
    file = tmp_path / "gap.jsonl"
    assert gap.main(["digits", "--runs", str(tmp_path / "dgm"), str(tmp_path / "separate"), "--out", str(file)]) == 0
    ((accuracy,),) = ([record["accuracy"]] for record in records.read(file))
    assert list(accuracy) == ["real", "dgm", "dgm, moved", "separate", "separate, moved"]
    assert all(0 <= share <= 1 for readings in accuracy.values() for share in readings.values())
    assert accuracy["real"]["analytic"] > 0.9  # Real images say how real images look; two epochs' drawn ones do not.
    assert accuracy["real"]["network"] > accuracy["dgm"]["network"]


def test_real_images_are_the_first_of_each_class():
    config, stream = (
        small_runs.small(image_size=8, consolidation_samples=5),
        small_runs.stream(small_runs.small(image_size=8)),
    )
    run = finished.Finished(config, lambda: small_runs.stream(config), None, None, None, None)
    real = gap.real_images(run)
    assert real.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 and real.count == 15
    stream.begin(1)
    images, _ = stream.train(1)
    np.testing.assert_array_equal(real.images[5:10], images[:5])
