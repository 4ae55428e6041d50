"""Areas under the curves of open-set recognition: by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dgm_jax import metrics


def test_auroc_by_hand():
    """Of the six pairs of a known and an unknown score, four are in order, and one is a tie."""
    known, unknown = np.array([3.0, 2.0, 0.0]), np.array([2.0, -1.0])
    assert metrics.auroc(known, unknown) == pytest.approx((2 + 1.5 + 1) / 6)
    assert metrics.auroc(unknown, known) == pytest.approx(1 - 4.5 / 6)
    assert metrics.auroc(known, known) == 0.5


def test_auroc_as_scikit_learn_computes_it():
    rng = np.random.default_rng(0)
    for decimals in (0, 1, 9):  # With many ties, some, and none.
        known, unknown = rng.normal(0.8, 1, 300).round(decimals), rng.normal(size=170).round(decimals)
        truth = np.r_[np.ones(300), np.zeros(170)]
        assert metrics.auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.r_[known, unknown]), rel=1e-12)


def test_oscr_by_hand():
    """As above, but the second known image is classified as another class: its pairs do not count."""
    known, unknown = np.array([3.0, 2.0, 0.0]), np.array([2.0, -1.0])
    assert metrics.oscr(known, np.array([True, False, True]), unknown) == pytest.approx((2 + 1) / 6)
    assert metrics.oscr(known, np.zeros(3, bool), unknown) == 0
    assert metrics.oscr(known, np.ones(3, bool), unknown) == metrics.auroc(known, unknown)


def test_oscr_is_the_area_under_its_curve():
    """The curve, drawn point by point: correct among the known over accepted among the unknown, without ties."""
    rng = np.random.default_rng(1)
    known, unknown, is_correct = rng.normal(1, 1, 200), rng.normal(size=100), rng.random(200) < 0.8
    thresholds = np.sort(np.r_[known, unknown, np.inf])[::-1]
    correct = [np.mean(is_correct & (known >= threshold)) for threshold in thresholds]
    accepted = [np.mean(unknown >= threshold) for threshold in thresholds]
    area = np.trapezoid(correct, accepted)
    assert metrics.oscr(known, is_correct, unknown) == pytest.approx(area, rel=1e-12)
