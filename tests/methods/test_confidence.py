"""The temperature of a consolidated classifier: by hand, and in a run."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support import small_runs

from dgm_jax import load_classifier, load_memory, metrics
from dgm_jax.methods.confidence import best_temperature, calibrated, known_quotient, real_to_drawn
from dgm_jax.methods.keys import Purpose, derive_key


def test_the_best_temperature_by_hand():
    """Of two classes, with margin m and accuracy a, it is m / log(a / (1 - a)); one image more matters little."""
    n, margin = 10_000, 3.0
    logits = np.tile(np.float32([[margin, 0]]), (n, 1))
    labels = (np.arange(n) >= 0.8 * n).astype(int)
    assert best_temperature(logits, labels) == pytest.approx(margin / np.log(4), rel=0.03)
    assert best_temperature(logits / 10, labels) == pytest.approx(margin / 10 / np.log(4), rel=0.03)


def test_where_all_images_are_right_the_temperature_stays_above_zero():
    """One image more has half of its likelihood on the wrong class: 1 / 2 in n + 1 images."""
    n = 199
    found = best_temperature(np.tile(np.float32([[5, 0]]), (n, 1)), np.zeros(n, int))
    assert found == pytest.approx(5 / np.log((n + 0.5) / 0.5), rel=0.03)


def test_the_quotient_by_hand():
    """A classifier that has 99 % of drawn images right, and 80 % of real ones, with the same margin."""

    def images(index, n, key, mode=None):  # The last one in a hundred looks like the other class.
        return np.where(np.arange(n) % 100 == 99, 1 - index, index).astype(np.uint8)[:, None, None, None]

    classifier = SimpleNamespace(logits=lambda own: 3 * np.eye(2, dtype=np.float32)[own[:, 0, 0, 0]])
    memory = SimpleNamespace(n_classes=2, images=images, modes_of=lambda index: [None])
    real = (np.arange(500) % 5 == 0).astype(np.uint8)[:, None, None, None]  # Of class 0.
    found = real_to_drawn(classifier, memory, jax.random.key(0), real, np.zeros(500, int))
    wrong = (1 / 128, 26 / 128)  # Of the 128 that count.
    drawn, lower = (3 / np.log((1 - share) / share) for share in wrong)
    assert found == pytest.approx(lower / drawn, rel=0.15)  # One image more matters where one is wrong.
    other = real_to_drawn(classifier, memory, jax.random.key(0), images(1, 128, None), np.ones(128, int))
    assert other == 1


def test_real_images_are_compared_with_the_mode_that_stands_for_them():
    """Of a class with two modes, the classifier knows the first by heart, and the newest as well as real images."""

    def images(index, n, key, mode=None):
        return np.where((mode == 1) & (np.arange(n) % 5 == 0), 1 - index, index).astype(np.uint8)[:, None, None, None]

    classifier = SimpleNamespace(logits=lambda own: 3 * np.eye(2, dtype=np.float32)[own[:, 0, 0, 0]])
    memory = SimpleNamespace(n_classes=2, images=images, modes_of=lambda index: [None, None])
    real = images(0, 128, None, mode=1)
    assert real_to_drawn(classifier, memory, jax.random.key(0), real, np.zeros(128, int)) == 1


def test_a_run_measures_what_its_classifiers_say():
    """After each task; only the consolidated classifier has a temperature, and none while it knows one class."""
    config = small_runs.small("dgma")
    run = small_runs.finished(config)
    summary = json.loads((run.workdir / "summary.json").read_text())
    assert set(summary["calibration"]) == {"consolidated", "auxiliary"}
    for reading, measured in summary["calibration"].items():
        stream = small_runs.stream(config)
        for task, row in enumerate(measured):
            stream.begin(task)
            images, labels = stream.test(task)
            classifier = load_classifier(run.workdir, after_task=task, reading=reading)
            _, probabilities = classifier.predict(images)
            assert row["temperature"] == classifier.temperature
            assert (row["temperature"] == 1) == (reading == "auxiliary" or task == 0)
            logits = classifier.logits(images)[:, : task + 1]
            for name, logs in (("", np.log(probabilities)), ("_before", metrics.log_probabilities(logits))):
                nll = metrics.negative_log_likelihood(logs, labels)
                assert row[f"nll{name}"] == pytest.approx(nll, rel=1e-4, abs=1e-6)
                ece = metrics.expected_calibration_error(logs, labels)
                assert row[f"ece{name}"] == pytest.approx(ece, rel=1e-4, abs=1e-6)


def test_a_classifier_can_be_calibrated_again_from_its_memory():
    run = small_runs.finished(small_runs.small("dgma"))
    classifier, memory = load_classifier(run.workdir), load_memory(run.workdir)
    key = derive_key(jax.random.key(0), Purpose.CALIBRATE, 2)
    stream = small_runs.stream(small_runs.small("dgma"))
    stream.begin(2)
    quotient = real_to_drawn(classifier, memory, key, *stream.train(2))
    again = calibrated(classifier, memory, key, quotient)
    assert again.temperature == classifier.temperature > 0 and again.labels == classifier.labels
    assert known_quotient(classifier, memory, key) == pytest.approx(quotient)
    drawn = np.concatenate([memory.images(i, 128, jax.random.key(100 + i)) for i in range(3)])
    best = best_temperature(classifier.logits(drawn)[:, :3], np.repeat(np.arange(3), 128))
    assert again.temperature == pytest.approx(quotient * best, rel=0.2)  # Of other images.
    assert again.threshold == classifier.threshold
    best = classifier.logits(drawn)[:, :3].max(axis=1)
    assert 0.97 < np.mean(best >= again.threshold) <= 1
    first = calibrated(load_classifier(run.workdir, after_task=0), memory.as_of(1), jax.random.key(0), 2.0)
    assert first.temperature == 1 and first.threshold is not None
