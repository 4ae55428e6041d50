"""Vectors of a network that the study trains itself."""

import numpy as np

from dgm_jax import data
from studies import vectors


def test_it_writes_the_vectors_of_a_network_that_it_trained(tmp_path):
    out, run = tmp_path / "vectors.npz", tmp_path / "run"
    argv = [
        "digits",
        "--learnt-on",
        "digits",
        "--workdir",
        str(run),
        "--per-class",
        "5",
        "--steps",
        "2",
        "--width",
        "4",
    ]
    assert vectors.main([*argv, "--out", str(out)]) == 0
    dataset, digits = data.from_npz(out), data.load("digits", train_per_class=5)
    assert dataset.are_vectors and dataset.x_train.shape == (50, 1, 1, 8)
    np.testing.assert_array_equal(dataset.y_test, digits.y_test)
    assert dataset.class_names == digits.class_names

    options = vectors.Options(data="digits", learnt_on="digits", workdir=run, out=out, per_class=5, steps=2, width=4)
    stream = data.class_incremental(digits.resized(16), classes_per_task=10)
    classifier = vectors.classifier_of_all(stream, options)  # It is there already.
    images = digits.resized(16).x_test[:7]
    maps = classifier.features(images).reshape(7, 4, 4, 8)
    np.testing.assert_allclose(dataset.x_test[:7, 0, 0], maps.mean(axis=(1, 2)), rtol=1e-5)
    assert dataset.x_test.std(axis=0).max() > 0
