"""The method that keeps sums of features, and DGM that keeps them beside its memory."""

import json

import jax
import numpy as np
import pytest
from support import checks, small_runs
from support.stopping import Log, interrupt

from dgm_jax import Learner, load_classifier
from dgm_jax.errors import ConfigError, NoMemory
from dgm_jax.loading import load_method
from dgm_jax.memory.classifier import NoThreshold
from dgm_jax.methods import analytic
from dgm_jax.methods.combined import combined_logits
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.models.patch_filters import learn_filters

FILTERS = 6
SMALL = small_runs.small(method="analytic", image_size=8, filters=FILTERS)
GRAM = 48 * 49 // 2  # Entries of a half, with the diagonal: a filter gives eight features.
BYTES = {"filters": 4 * FILTERS * (6 * 6 + 1), "gram": 4 * GRAM, "class_sums": 4 * 3 * 48, "counts": 4 * 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the summary of a run of three tasks of 24 images, in three blocks each."""
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analytic, "IMAGES_PER_BLOCK", 10)
        return workdir, small_runs.fit(SMALL, workdir)


def test_what_it_learns_and_keeps(whole):
    """Of 72 images of 8x8, filters of the first task's and sums: no array has a row for each image."""
    workdir, summary = whole
    assert list(summary["A_3"]) == ["analytic", "slda", "ncm"] and summary["A_3"]["analytic"]["macro"] > 0.9
    assert summary["bytes"]["memory"] == {**BYTES, "total": sum(BYTES.values())}
    tree = small_runs.newest(workdir).tree
    assert {name: sum(leaf.nbytes for leaf in jax.tree.leaves(part)) for name, part in tree.items()} == BYTES
    stream = small_runs.stream(SMALL)
    stream.begin(0)
    filters = learn_filters(derive_key(jax.random.key(0), Purpose.FILTERS), stream.train(0)[0], FILTERS)
    np.testing.assert_array_equal(tree["filters"]["kernel"], filters.kernel)


@pytest.mark.parametrize("place", [("train", 2, 0), ("epoch end", 1, 1)], ids=["begin", "epoch-end"])
def test_interrupted_is_uninterrupted(place, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(analytic, "IMAGES_PER_BLOCK", 10)
    monkeypatch.setattr("dgm_jax.training.feature_sums.AT_ONCE", 8)  # Progress within a block.
    interrupt(SMALL, tmp_path, *place)
    log = Log()
    resumed = small_runs.fit(SMALL, tmp_path, log)
    assert log.heard("on_run_start")[0].resumed_from == (place[1], 1 if place[0] == "epoch end" else 0)
    assert resumed["confusion"] == whole[1]["confusion"]


def test_resumed_is_equal_bit_for_bit(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(analytic, "IMAGES_PER_BLOCK", 10)
    interrupt(SMALL, tmp_path, "epoch end", 1, 1)
    small_runs.fit(SMALL, tmp_path)
    checks.assert_equal_trees(small_runs.newest(tmp_path).tree, small_runs.newest(whole[0]).tree)
    assert (tmp_path / "metrics.jsonl").read_text() == (whole[0] / "metrics.jsonl").read_text()


def test_what_is_loaded_classifies_as_the_run_did_and_continues(whole, tmp_path):
    workdir = small_runs.copied(whole[0], tmp_path / "run")
    stream = small_runs.stream(SMALL)
    method, state = load_method(SMALL, stream, workdir)
    stream.begin(2)
    images, labels = stream.test(2)
    for reading, classifier in analytic.classifiers(state, 3, analytic._SOLUTIONS).items():
        confusion = np.zeros((3, 3), int)
        np.add.at(confusion, (labels, classifier.logits(images).argmax(axis=1)), 1)
        assert confusion.tolist() == whole[1]["confusion"][reading]
    summary = small_runs.fit(SMALL, workdir, labels=(3, 4, 5), names=(7, 8, 9))
    assert summary["finished"] and len(summary["tasks"]) == 6
    grown, before = small_runs.newest(workdir).tree, small_runs.newest(whole[0]).tree
    assert grown["counts"].tolist() == [24] * 6
    np.testing.assert_array_equal(grown["class_sums"][:3], before["class_sums"])
    checks.assert_equal_trees(grown["filters"], before["filters"])


def test_two_seeds_have_filters_of_their_own(whole, tmp_path):
    streams = [small_runs.stream(SMALL) for _ in range(2)]
    Learner(SMALL, devices=1).fit_seeds((0, 5), streams, tmp_path)
    alone, first, second = (small_runs.newest(f).tree for f in (whole[0], tmp_path / "seed0", tmp_path / "seed5"))
    checks.assert_equal_trees(first["filters"], alone["filters"])
    np.testing.assert_allclose(first["gram"], alone["gram"], rtol=1e-6)
    assert np.all(second["filters"]["kernel"] != alone["filters"]["kernel"])


@pytest.mark.parametrize("change", [{"batch_size": 7}, {"consolidation_steps": 7}, {"precision": "float32"}])
def test_settings_of_training_are_refused(change):
    (setting,) = change
    with pytest.raises(ConfigError, match=f"^{setting}=.* has no effect for method 'analytic'"):
        Learner(SMALL.with_changes(**change), devices=1)


# ---- beside DGM's memory ----

BESIDE = small_runs.small("dgma", image_size=8, combined=True, filters=FILTERS)


@pytest.mark.parametrize("method", ["dgm", "separate"])
def test_the_combined_reading_predicts_as_it_was_measured(method):
    """From the folder of the run, for images as the data set has them and as a memory draws them."""
    beside = small_runs.small("dgma", method, image_size=8, combined=True, filters=FILTERS)
    run, stream = small_runs.finished(beside).workdir, small_runs.stream(beside)
    stream.begin(2)
    images, _ = stream.test(2)
    classifier = load_classifier(run, reading="combined")
    labels, probabilities = classifier.predict(images)
    with np.load(run / "predictions.npz") as measured:
        np.testing.assert_array_equal(labels, measured["combined"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    drawn, _ = classifier.predict(images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_array_equal(drawn, labels)
    earlier = load_classifier(run, reading="combined", after_task=1)
    assert len(earlier.labels) == 2 and set(earlier.predict(images)[0]) <= set(earlier.labels)
    with pytest.raises(NoThreshold):
        classifier.is_unknown(images)
    with pytest.raises(NoMemory, match="the combined one needs a run with --combined"):
        load_classifier(small_runs.finished(beside.with_changes(combined=False)).workdir, reading="combined")


def test_combined_by_hand():
    """Probabilities 1/4, 3/4 and 2/3, 1/3: their geometric mean, as 2 to 3."""
    consolidated, analytic = 5 + np.log(np.float32([[1, 3]])), np.log(np.float64([[4, 2]]))
    found = np.exp(combined_logits(consolidated, analytic))
    np.testing.assert_allclose(found, [[(1 / 4 * 2 / 3) ** 0.5, (3 / 4 * 1 / 3) ** 0.5]], rtol=1e-6)


def test_the_network_is_softened_by_its_temperature():
    run = small_runs.finished(BESIDE).workdir
    network, combined = load_classifier(run), load_classifier(run, reading="combined")
    assert network.temperature != 1
    stream = small_runs.stream(BESIDE)
    stream.begin(2)
    images, _ = stream.test(2)
    expected = combined_logits(network.logits(images) / network.temperature, combined.analytic.logits(images))
    np.testing.assert_allclose(combined.logits(images), expected, rtol=1e-6)


def test_dgm_keeps_the_sums_of_analytic_beside_a_memory_that_stays_the_same(whole, tmp_path):
    """Interrupted within the second task, and resumed."""
    interrupt(BESIDE, tmp_path, "epoch end", 1, 1)
    summary = small_runs.fit(BESIDE, tmp_path)
    plain = small_runs.finished(BESIDE.with_changes(combined=False, filters=100)).workdir
    without = json.loads((plain / "summary.json").read_text())
    assert list(summary["A_3"]) == ["consolidated", "auxiliary", "analytic", "combined"]
    assert summary["confusion"]["analytic"] == whole[1]["confusion"]["analytic"]
    assert {name: summary["confusion"][name] for name in without["confusion"]} == without["confusion"]
    sizes = without["bytes"]["memory"]
    total = sizes["total"] + sum(BYTES.values())
    assert summary["bytes"]["memory"] == {**sizes, **BYTES, "total": total}
    tree, other = small_runs.newest(tmp_path).tree, small_runs.newest(plain).tree
    features = tree.pop("features")
    checks.assert_equal_trees(tree, other)
    alone = small_runs.newest(whole[0]).tree
    checks.assert_equal_trees(features["filters"], alone["filters"])
    np.testing.assert_allclose(features["gram"], alone["gram"], rtol=1e-6)
    again = small_runs.fit(BESIDE, tmp_path, labels=(3, 4), names=(7, 8))  # New classes.
    assert again["finished"] and list(again["A_5"]) == list(summary["A_3"])


@pytest.mark.slow
def test_seeds_of_dgm_side_by_side_have_sums_of_their_own(tmp_path):
    streams = [small_runs.stream(BESIDE) for _ in range(2)]
    Learner(BESIDE, devices=1).fit_seeds((0, 5), streams, tmp_path)
    first, second = (small_runs.newest(tmp_path / f"seed{seed}").tree["features"] for seed in (0, 5))
    assert np.all(first["filters"]["kernel"] != second["filters"]["kernel"])
    np.testing.assert_array_equal(first["counts"], second["counts"])
