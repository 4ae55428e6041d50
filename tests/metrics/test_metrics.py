"""Measures against cases worked out by hand."""

import numpy as np
import pytest
import scipy.spatial.distance

from dgm_jax import metrics
from dgm_jax.metrics import distributions

LABELS = np.array([0, 0, 0, 0, 2, 2, 1, 1])
PREDICTIONS = np.array([0, 0, 0, 1, 2, 0, 1, 1])


def test_per_class_accuracy():
    np.testing.assert_array_equal(metrics.per_class_accuracy(PREDICTIONS, LABELS, 3), [0.75, 1.0, 0.5])


def test_a_class_without_images_is_nan_and_not_counted():
    accuracy = metrics.per_class_accuracy(PREDICTIONS, LABELS, 4)
    np.testing.assert_array_equal(accuracy, [0.75, 1.0, 0.5, np.nan])
    assert metrics.macro_accuracy(accuracy) == 0.75


def test_macro_and_micro_accuracy_differ_where_classes_do():
    accuracy = metrics.per_class_accuracy(PREDICTIONS, LABELS, 3)
    assert metrics.macro_accuracy(accuracy) == 0.75
    assert metrics.micro_accuracy(PREDICTIONS, LABELS) == 6 / 8
    assert metrics.micro_accuracy(PREDICTIONS[:4], LABELS[:4]) == 0.75
    uneven = metrics.per_class_accuracy(np.zeros(4, int), np.array([0, 0, 0, 1]), 2)
    assert metrics.macro_accuracy(uneven) == 0.5
    assert metrics.micro_accuracy(np.zeros(4, int), np.array([0, 0, 0, 1])) == 0.75


def test_confusion_matrix():
    expected = [[3, 1, 0], [0, 2, 0], [1, 0, 1]]
    matrix = metrics.confusion_matrix(PREDICTIONS, LABELS, 3)
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(np.diag(matrix) / matrix.sum(axis=1), [0.75, 1.0, 0.5])


NAN = np.nan
MATRIX = np.array(
    [
        [1.0, NAN, NAN, NAN],
        [0.7, 0.9, 0.8, NAN],
        [0.6, 1.0, 0.5, 0.9],
    ]
)


@pytest.mark.parametrize(
    "n_tasks, expected",
    [
        (1, 0.0),
        (2, 1.0 - 0.7),
        # Best before: 1.0, 0.9, 0.8; now 0.6, 1.0 (better than ever: negative), 0.5.
        (3, ((1.0 - 0.6) + (0.9 - 1.0) + (0.8 - 0.5)) / 3),
    ],
)
def test_forgetting(n_tasks, expected):
    tasks = [(0,), (1, 2), (3,)]
    assert metrics.forgetting(MATRIX[:n_tasks], tasks) == pytest.approx(expected, abs=1e-12)


def test_forgetting_counts_the_best_of_all_earlier_tasks():
    matrix = np.array([[0.5, NAN, NAN], [0.9, 0.4, NAN], [0.2, 0.4, 1.0]])
    assert metrics.forgetting(matrix, [(0,), (1,), (2,)]) == pytest.approx(((0.9 - 0.2) + 0.0) / 2)


def test_forgetting_by_class():
    tasks = [(0,), (1, 2), (3,)]
    np.testing.assert_allclose(metrics.forgetting_by_class(MATRIX, tasks), [0.4, -0.1, 0.3, NAN])
    assert np.isnan(metrics.forgetting_by_class(MATRIX[:1], tasks)).all()
    untested = np.array([[NAN, NAN, NAN], [NAN, 0.75, NAN], [NAN, 0.5, 1.0]])  # Class 0 has no test images.
    np.testing.assert_array_equal(metrics.forgetting_by_class(untested, [(0,), (1,), (2,)]), [NAN, 0.25, NAN])


def test_average_incremental_accuracy():
    assert metrics.average_incremental_accuracy([1.0, 0.75, 0.5]) == 0.75
    assert metrics.average_incremental_accuracy([0.75, 0.5]) == 0.625
    assert np.isnan(metrics.average_incremental_accuracy([1.0, None, 0.5]))  # Not a mean over some of the tasks.
    assert np.isnan(metrics.average_incremental_accuracy([]))


def test_share_of_joint():
    assert metrics.share_of_joint(0.6, 0.8) == pytest.approx(0.75)


SCORES = np.array(  # Classes 0 and 1 are a task, 2 is one, and 3, 4 and 5 are one.
    [
        [3.0, 1, 9, 9, 9, 9],  # Class 0: right if the task is known.
        [1.0, 3, 0, 0, 0, 0],  # Class 0: wrong in any case.
        [1.0, 3, 0, 0, 0, 0],  # Class 1
        [9.0, 9, 0, 9, 9, 9],  # Class 2, which is alone
        [9.0, 9, 9, 1, 2, 3],  # Class 5
        [9.0, 9, 9, 3, 2, 1],  # Class 5: wrong
        [9.0, 9, 9, 3, 2, 1],  # Class 5: wrong
        [9.0, 9, 9, 3, 2, 1],  # Class 5: wrong
    ]
)


def test_accuracy_with_the_task_known():
    tasks, labels = [(0, 1), (2,), (3, 4, 5)], np.array([0, 0, 1, 2, 5, 5, 5, 5])
    accuracy = metrics.accuracy_with_task_known(SCORES, labels, tasks)
    np.testing.assert_array_equal(accuracy, [0.5, 1, NAN, NAN, NAN, 0.25])  # Classes 3 and 4 have no images.
    np.testing.assert_array_equal(metrics.accuracy_with_task_known(SCORES[:3], labels[:3], tasks[:1]), [0.5, 1])


def test_forward_transfer():
    """Of the classes after the first task that both have measured: 2 and 3."""
    tasks = [(0, 1), (2, 3), (4, 5)]
    mine, joint = [0.5, 0.5, 1.0, 0.75, None, 0.5], [1.0, 1.0, 0.75, 0.75, 0.5, None]
    assert metrics.forward_transfer(mine, joint, tasks) == 0.125
    assert np.isnan(metrics.forward_transfer(mine[:2], joint[:2], tasks[:1]))
    assert metrics.forward_transfer(mine[:4], joint, tasks) == 0.125  # A run that is not finished.


def test_capacity_of_units():
    row, second = metrics.capacity(
        binary=[np.array([True, True, False, False]), np.array([True, False])],
        reserved_before=[np.array([True, False, True, False]), np.array([False, False])],
        widths=[4, 2],
        weights=[16 * 7 * 4, 16 * 4 * 2],
    )
    assert row == {
        "layer": 1,
        "width": 4,
        "gates": 4,
        "used": 2,
        "newly_reserved": 1,
        "reused": 1,
        "free": 1,
        "weights": 16 * 7 * 4,
    }
    assert (second["layer"], second["newly_reserved"], second["reused"], second["free"]) == (2, 1, 0, 1)


def test_capacity_of_weights():
    shape = (2, 2, 3, 5)
    binary, before = np.zeros(shape, bool), np.zeros(shape, bool)
    binary[0], before[:, 0] = True, True
    (row,) = metrics.capacity([binary], [before], [5], [60])
    assert row["gates"] == row["weights"] == 60 and row["width"] == 5
    assert (row["used"], row["newly_reserved"], row["reused"], row["free"]) == (30, 15, 15, 15)
    assert all(type(value) is int for value in row.values())


def test_backward_transfer_by_hand():
    nan = np.nan
    matrix = np.array([[0.9, nan, nan, nan], [0.7, 0.8, 0.6, nan], [0.8, 0.5, 0.7, 1.0]])
    tasks = [(0,), (1, 2), (3,)]
    assert metrics.backward_transfer(matrix, tasks) == pytest.approx(((0.8 - 0.9) + (0.5 - 0.8) + (0.7 - 0.6)) / 3)
    assert metrics.backward_transfer(matrix[:1], tasks) == 0


def test_frechet_distance_by_hand():
    # One feature: (mean - mean')^2 + (sd - sd')^2.
    a, b = np.array([[0.0], [2.0]]), np.array([[5.0], [11.0]])
    assert metrics.frechet_distance(a, b) == pytest.approx((1 - 8) ** 2 + (1 - 3) ** 2)
    # Two uncorrelated features: the sum over both.
    a = np.array([[-1.0, -2], [-1, 2], [1, -2], [1, 2]])
    b = np.array([[-3.0, -2], [-3, 2], [3, -2], [3, 2]]) + np.array([0, 1])
    assert metrics.frechet_distance(a, b) == pytest.approx((1 - 3) ** 2 + 1)


def test_frechet_distance_of_any_two_clouds():
    """Against the formula with a general matrix square root."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(30, 5)) + 0.3
    c, d = np.cov(a, rowvar=False, bias=True), np.cov(b, rowvar=False, bias=True)
    root = np.sqrt(np.linalg.eigvals(c @ d).astype(complex)).sum().real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(c) + np.trace(d) - 2 * root
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a))


def test_frechet_distance_where_features_depend_on_each_other():
    """The covariances are singular; turning both clouds changes nothing, and leaves one feature in use."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(2, 3, size=(50, 1)), rng.normal(-1, 1, size=(40, 1))
    turn = np.full((1, 4), 0.5)
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert metrics.frechet_distance(a @ turn, b @ turn) == pytest.approx(expected, rel=1e-12)
    few = a[:3] @ turn  # Fewer images than features.
    assert metrics.frechet_distance(few, few) == pytest.approx(0, abs=1e-12)


def test_distances_are_computed_block_by_block(monkeypatch):
    rng = np.random.default_rng(0)
    points, members = rng.normal(size=(23, 4)), rng.normal(size=(10, 4))
    expected = np.sqrt(((points[:, None] - members[None]) ** 2).sum(axis=2)).min(axis=1)
    whole = metrics.precision_and_recall(points, members)
    monkeypatch.setattr(distributions, "_DISTANCES_AT_ONCE", 30)
    np.testing.assert_allclose(metrics.nearest(points, members), expected, rtol=1e-14)
    assert metrics.precision_and_recall(points, members) == whole


@pytest.mark.parametrize("at_once, rows", [(30, [3] * 7 + [2]), (29, [2] * 11 + [1]), (9, [1] * 23), (1000, [23])])
def test_a_block_has_as_many_rows_as_distances_are_computed_at_once(monkeypatch, at_once, rows):
    """And one row at least, however many members there are."""
    sizes, whole = [], scipy.spatial.distance.cdist
    monkeypatch.setattr(scipy.spatial.distance, "cdist", lambda a, b: sizes.append(len(a)) or whole(a, b))
    monkeypatch.setattr(distributions, "_DISTANCES_AT_ONCE", at_once)
    metrics.nearest(np.zeros((23, 4)), np.zeros((10, 4)))
    assert sorted(sizes) == sorted(rows)


def test_precision_and_recall_by_hand():
    real = np.array([[0.0], [1], [2], [3]])  # Distances to the nearest other one: 1 each.
    generated = np.array([[0.5], [1.5], [10], [10.25]])  # 1, 1, 0.25, 0.25.
    precision, recall = metrics.precision_and_recall(real, generated, neighbours=1)
    assert precision == 0.5  # The last two are far from all real ones.
    assert recall == 0.75  # 0, 1 and 2 lie within 1 of 0.5 or 1.5; 3 does not.
    assert metrics.precision_and_recall(real, real, neighbours=1) == (1, 1)


def test_backward_transfer_compares_with_the_task_that_taught_the_class():
    """Not with the first accuracy, the best, the last but one or any other; a class without images does not count."""
    tasks = [(0,), (1, 2), (3,), (4, 5)]
    matrix = np.array(
        [
            [0.5, NAN, NAN, NAN, NAN, NAN],
            [0.9, 0.3, NAN, NAN, NAN, NAN],
            [0.8, 0.7, NAN, 1.0, NAN, NAN],
            [0.7, 0.6, NAN, 0.2, 0.4, 0.8],
        ]
    )
    changes = [0.7 - 0.5, 0.6 - 0.3, 0.2 - 1.0]  # 0.2, 0.3, -0.8
    assert metrics.backward_transfer(matrix, tasks) == pytest.approx(sum(changes) / 3)
    assert metrics.backward_transfer(matrix[:3], tasks) == pytest.approx(((0.8 - 0.5) + (0.7 - 0.3)) / 2)
    assert metrics.backward_transfer(matrix[:2], tasks) == pytest.approx(0.9 - 0.5)
