"""Batches of any classes become data sets of classes that have enough images."""

import numpy as np
import pytest

from dgm_jax import data


def test_each_class_is_handed_out_once_with_all_its_images_so_far(digits):
    few = digits.of_classes([0, 3, 7]).first_per_class(60)
    gathering = data.Gathering(50, class_names={3: "three"}, name="mine")
    handed, so_far = [], {label: [] for label in few.labels}
    for start in range(0, len(few.y_train), 8):
        x, y = few.x_train[start : start + 8], few.y_train[start : start + 8]
        dataset = gathering.add(x, y)
        for image, label in zip(x, y, strict=True):
            so_far[label].append(image)
        if dataset is None:
            continue
        assert dataset.name == "mine" and gathering.known == {*dataset.labels, *(of for of, _ in handed)}
        for label in dataset.labels:
            n = len(so_far[label])
            assert 50 <= n < 58 and n - 8 < 50, "no batch was waited for in vain"
            own = [x[y == label] for x, y in ((dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test))]
            np.testing.assert_array_equal(np.concatenate(own), so_far[label], err_msg="in the order they came")
            assert len(own[1]) == n // 5
            handed.append((label, dataset.class_names[label]))
    assert sorted(handed) == [(0, "0"), (3, "three"), (7, "7")] and not gathering.waiting


def test_classes_that_have_enough_at_the_same_time_are_one_task(digits):
    gathering = data.Gathering(2, known=[5])
    rows = np.isin(digits.y_train, [1, 2, 5])
    dataset = gathering.add(digits.x_train[rows], digits.y_train[rows])
    assert dataset.labels == (1, 2) and gathering.add(digits.x_train[rows], digits.y_train[rows]) is None
    assert data.class_incremental(dataset, classes_per_task=2).n_tasks == 1


def test_what_cannot_be_gathered_is_refused_and_not_kept(digits):
    with pytest.raises(data.DataError, match="enough=1: expected at least 2 images of a class"):
        data.Gathering(1)
    gathering = data.Gathering(30)
    gathering.add(digits.x_train[:4], digits.y_train[:4])
    before = {label: len(own) for label, own in gathering.waiting.items()}
    for images, message in (
        (digits.resized(16).x_train[:4], r"batches have images of shapes \[\(8, 8, 1\), \(16, 16, 1\)\]"),
        (digits.x_train[:4] / 255, "stream: x_train is float64; expected uint8"),
        (digits.x_train[:3], r"stream: y_train has shape \(4,\); expected \(3,\)"),
    ):
        with pytest.raises(data.DataError, match=message):
            gathering.add(images, digits.y_train[:4])
    assert {label: len(own) for label, own in gathering.waiting.items()} == before


def test_vectors_are_gathered_too_and_those_that_wait_can_be_given_back(digits):
    vectors = digits.x_train[:40].reshape(40, -1).astype(np.float32)
    labels = np.repeat([0, 1], [25, 15])
    gathering = data.Gathering(20)
    dataset = gathering.add(vectors, labels)
    assert dataset.are_vectors and dataset.labels == (0,)
    np.testing.assert_array_equal(np.concatenate([dataset.x_train, dataset.x_test])[:, 0, 0], vectors[:25])
    restarted = data.Gathering(20, known=[0])
    for label, waiting in gathering.waiting.items():
        assert restarted.add(waiting, np.full(len(waiting), label)) is None
    np.testing.assert_array_equal(restarted.waiting[1], vectors[25:])
    with pytest.raises(data.DataError, match=r"batches have images of shapes \[\(8, 8, 1\), \(64,\)\]"):
        restarted.add(digits.x_train[:1], digits.y_train[:1])


def test_no_image_is_lost_if_classes_cannot_be_handed_out(digits):
    """Label 1 has no name of its own, so that it is called 1, like label 0."""
    rows = np.isin(digits.y_train, [0, 1])
    gathering = data.Gathering(20, class_names={0: "1"})
    early, late = np.flatnonzero(rows)[:12], np.flatnonzero(rows)[12:80]
    assert gathering.add(digits.x_train[early], digits.y_train[early]) is None
    with pytest.raises(data.DataError, match="has the name '1' for 2 classes"):
        gathering.add(digits.x_train[late], digits.y_train[late])
    assert not gathering.known and sum(map(len, gathering.waiting.values())) == 12
    gathering.class_names = {0: "zero"}
    dataset = gathering.add(digits.x_train[late], digits.y_train[late])
    assert dataset.class_names == {0: "zero", 1: "1"} and len(dataset.y_train) + len(dataset.y_test) == 80
