"""Six classes are learnt and four are not: what scores say of both, against scikit-learn and the classifier itself."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from support import small_runs

from benchmarks import records
from dgm_jax import load_classifier
from dgm_jax.errors import UserError
from studies import open_set


def test_a_split_is_its_number():
    known, unknown = open_set.split(range(10), 3)
    assert len(known) == 6 and sorted(known + unknown) == list(range(10))
    assert open_set.split(range(10), 3) == (known, unknown) != open_set.split(range(10), 4)
    with pytest.raises(UserError, match="6 classes; expected more than 6, of which 6 are learnt"):
        open_set.split(range(6), 0)


def test_scores_of_known_and_unknown_classes():
    run = small_runs.unequal()
    known = small_runs.digits(8, small_runs.SIX, 24, (70, -3, 12, 5, 900, 41))
    unknown = small_runs.digits(8, (6, 7, 8, 9))
    classifier = load_classifier(run.workdir)
    found = open_set.judged(classifier, known, unknown)
    summary = json.loads((run.workdir / "summary.json").read_text())
    assert found["accuracy"]["consolidated"] == pytest.approx(summary["A_6"]["consolidated"]["micro"])
    truth = np.repeat([1, 0], [len(known.x_test), len(unknown.x_test)])
    images = np.concatenate([known.x_test, unknown.x_test])
    logits, probabilities = classifier.logits(images)[:, :6], classifier.predict(images)[1]
    for score, of in (("maximum logit", logits), ("maximum calibrated probability", probabilities)):
        assert found["auroc"][score] == pytest.approx(roc_auc_score(truth, of.max(axis=1)), abs=1e-4)
        assert found["oscr"][score] <= min(found["auroc"][score], found["accuracy"]["consolidated"])
    for name, dataset in (("known", known), ("unknown", unknown)):
        best = classifier.logits(dataset.x_test)[:, :6].max(axis=1)
        assert found["accepted"][name] == pytest.approx(np.mean(best >= classifier.threshold))


def test_each_split_is_a_record_and_none_is_measured_twice(tmp_path, monkeypatch, capsys):
    learnt = []

    def learn(config, dataset, known, unknown):
        learnt.append((config.seed, len(dataset.x_train), len(dataset.x_test), known, unknown))
        areas = {"maximum logit": 0.75}
        accepted = {"known": 0.9, "unknown": 0.25}
        return {"accuracy": {"consolidated": 0.5}, "auroc": areas, "oscr": areas, "accepted": accepted}

    monkeypatch.setattr(open_set, "learn", learn)
    monkeypatch.setattr(open_set, "keep_programs", lambda: None)
    file = tmp_path / "open_set.jsonl"
    argv = ["digits", "--splits", "0,1", "--evaluate-on", "training", "--train-per-class", "40", "--out", str(file)]
    for _ in range(2):
        assert open_set.main(argv) == 0
    assert learnt == [(number, 300, 100, *open_set.split(range(10), number)) for number in (0, 1)]
    assert [record["split"] for record in records.read(file)] == [0, 1] and "commit" in records.read(file)[0]
    said = capsys.readouterr().out
    assert "AUROC 75.0 +- 0.0 %, OSCR 75.0 +- 0.0 %" in said
    assert "accepts 90.0 % of the known and 25.0 % of the unknown images" in said


@pytest.mark.slow
def test_the_known_classes_are_learnt_and_no_other(monkeypatch):
    whole, fitted = small_runs.digits(8, (0, 1, 2, 3)), []
    fit = open_set.Learner.fit

    def spy(learner, stream, workdir):
        fitted.append(stream.classes)
        return fit(learner, stream, workdir)

    monkeypatch.setattr(open_set.Learner, "fit", spy)
    found = open_set.learn(small_runs.small(image_size=8), whole, [2, 0, 1], [3])
    assert fitted == [(2, 0, 1)] and 0 <= found["auroc"]["maximum logit"] <= 1
