"""Folds: each image is a test image once, with equal shares of each class."""

import numpy as np
import pytest

from dgm_jax import data


def test_every_image_is_a_test_image_once(digits):
    folds = [data.fold(digits, number, 5) for number in range(1, 6)]
    everything = np.concatenate([digits.x_train, digits.x_test])
    tested = np.concatenate([fold.x_test for fold in folds])
    assert len(everything) == len(tested) == 1797
    assert _sorted(tested) == _sorted(everything)
    for fold in folds:
        assert _sorted(np.concatenate([fold.x_train, fold.x_test])) == _sorted(everything)
        of_class, in_all = np.bincount(fold.y_test), np.bincount(np.concatenate([digits.y_train, digits.y_test]))
        assert np.all(np.abs(of_class - in_all / 5) < 1)
    assert [fold.name for fold in folds][:2] == ["digits, fold 1 of 5", "digits, fold 2 of 5"]
    again = data.fold(digits, 2, 5)
    np.testing.assert_array_equal(again.x_test, folds[1].x_test)


def test_labels_stay_with_their_images():
    x = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    y = np.array([7, 7, 7, 7, 3, 3, 3, 3, 7, 7, 3, 3])
    fold = data.fold(data.Dataset("toy", x[:8], y[:8], x[8:], y[8:], {3: "3", 7: "7"}), 2, 3)
    assert fold.x_test[:, 0, 0, 0].tolist() == [1, 5, 8, 10] and fold.y_test.tolist() == [7, 3, 7, 3]
    assert fold.x_train[:, 0, 0, 0].tolist() == [0, 2, 3, 4, 6, 7, 9, 11]
    np.testing.assert_array_equal(fold.y_train, y[[0, 2, 3, 4, 6, 7, 9, 11]])


@pytest.mark.parametrize(
    ("number", "n", "message"),
    [
        (0, 5, "fold 0 of 5: expected a number from 1 to that of all folds"),
        (6, 5, "fold 6 of 5"),
        (1, 1, "fold 1 of 1"),
        (1, 200, "200 folds of the 178 images of class 0: make fewer folds"),
    ],
)
def test_what_is_no_fold(digits, number, n, message):
    with pytest.raises(data.DataError, match=f"^{message}"):
        data.fold(digits, number, n)


def test_parse_fold():
    assert data.parse_fold("2/5") == (2, 5)
    for text in ("2", "2/", "/5", "a/5", "-1/5", "2/5/6"):
        with pytest.raises(data.DataError, match=f"^fold '{text}': expected its number and how many folds there are"):
            data.parse_fold(text)


def _sorted(images):
    return sorted(image.tobytes() for image in images)
