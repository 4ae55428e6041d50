"""Measures of calibration against cases worked out by hand."""

import numpy as np
import pytest

from dgm_jax import metrics


def logs(rows):
    return np.log(np.asarray(rows, float))


def test_log_probabilities_by_hand():
    """Probabilities 1/4, 3/4; with temperature 2 they go as the square roots, 1 : 3 of logits log 1 and log 9."""
    np.testing.assert_allclose(np.exp(metrics.log_probabilities(logs([[1, 3]]))), [[1 / 4, 3 / 4]])
    np.testing.assert_allclose(np.exp(metrics.log_probabilities(logs([[1, 9]]), 2.0)), [[1 / 4, 3 / 4]])
    far = metrics.log_probabilities(np.float32([[0, -2000]]))
    assert far.dtype == np.float64 and far.tolist() == [[0, -2000]]  # The probability itself would be 0.


def test_log_likelihood_by_hand():
    found = metrics.negative_log_likelihood(logs([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 0]))
    assert found == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_calibration_error_by_hand():
    """Two bins: (0, 1/2] with three images, of which one is right, and (1/2, 1] with one, which is wrong."""
    predicted = logs([[0.4, 0.3, 0.3], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.05, 0.05, 0.9]])
    error = metrics.expected_calibration_error(predicted, np.array([0, 1, 1, 0]), bins=2)
    assert error == pytest.approx(3 / 4 * abs(1 / 3 - 1.3 / 3) + 1 / 4 * 0.9)
    # In one bin, all differences are within the same mean.
    error = metrics.expected_calibration_error(predicted, np.array([0, 1, 1, 0]), bins=1)
    assert error == pytest.approx(abs(1 / 4 - 2.2 / 4))


def test_calibration_error_at_the_ends():
    sure = np.array([[0.0, -np.inf], [0.0, -np.inf]])  # Probability 1 is in the last bin.
    assert metrics.expected_calibration_error(sure, np.array([0, 1])) == 0.5
    assert metrics.expected_calibration_error(sure, np.array([0, 0])) == 0
    one_class = metrics.log_probabilities(np.zeros((3, 1)))
    assert metrics.expected_calibration_error(one_class, np.zeros(3, int)) == 0
    assert metrics.negative_log_likelihood(one_class, np.zeros(3, int)) == 0
