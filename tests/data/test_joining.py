"""Several data sets as one."""

import numpy as np
import pytest

from dgm_jax import data
from dgm_jax.data import DataError


def _tiny(name, labels, size, channels, names=None):
    rng = np.random.default_rng(len(labels))
    y = np.repeat(labels, 3)
    x = rng.integers(0, 256, (len(y), size, size, channels), np.uint8)
    return data.from_arrays(x, y, x[::-1], y[::-1], name=name, class_names=names)


def test_classes_follow_each_other_and_keep_their_images():
    first, second = _tiny("a", [7, -2], 8, 1), _tiny("b", [0, 5, 9], 16, 3, {5: "cat"})
    joined = data.join([first, second], 8)
    assert joined.name == "a+b" and joined.labels == (0, 1, 2, 3, 4)
    assert list(joined.class_names.values()) == ["a -2", "a 7", "b 0", "b cat", "b 9"]
    assert joined.x_train.shape == (15, 8, 8, 3) and joined.x_train.dtype == np.uint8
    for label, own in ((0, -2), (1, 7)):  # Grey images are the same in all channels.
        expected = np.repeat(first.x_test[first.y_test == own], 3, axis=-1)
        np.testing.assert_array_equal(joined.x_test[joined.y_test == label], expected)
    halved = second.resized(8)
    np.testing.assert_array_equal(joined.x_train[joined.y_train == 3], halved.x_train[second.y_train == 5])


def test_grey_stays_grey():
    assert data.join([_tiny("a", [0, 1], 8, 1), _tiny("b", [0, 1], 8, 1)], 8).x_train.shape[-1] == 1


@pytest.mark.parametrize("names", [["a"], ["a", "a"], []])
def test_fewer_than_two_are_refused(names):
    with pytest.raises(DataError, match="expected two or more different data sets to join"):
        data.join([_tiny(name, [0, 1], 8, 1) for name in names], 8)
