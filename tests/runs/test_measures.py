"""What a run leaves of its measures: against its own classifiers and predictions, and of earlier versions."""

import json

import numpy as np
import pytest
from support import small_runs

from dgm_jax import load_classifier
from dgm_jax.reporting import page
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import NoRun, read, read_answers, read_summary
from dgm_jax.runs.record import Record
from dgm_jax.runs.summary import Summary

NAMES, ORDER = (70, -3, 12, 5, 900, 41), (12, 900, -3, 70, 5, 41)  # As in `small_runs.unequal`.
TASKS = ([0, 1, 2], [3, 4], [5])


@pytest.fixture(scope="module")
def run():
    return small_runs.unequal().workdir


@pytest.fixture(scope="module")
def test_images(run):
    config = small_runs.small("dgma", image_size=8, headroom=2)
    options = {"labels": small_runs.SIX, "names": NAMES, "class_order": ORDER, "classes_per_task": (3, 2, 1)}
    stream = small_runs.stream(config, **options)
    stream.begin(2)
    return stream.test(2)


def test_with_the_task_known_a_class_is_chosen_within_its_task(run, test_images):
    """The third task has one class, which is no choice."""
    images, labels = test_images
    summary = json.loads((run / "summary.json").read_text())
    for reading in ("consolidated", "auxiliary"):
        known, expected = summary["task_known"][reading], []
        for task, learnt in ((0, [0, 1, 2]), (1, [3, 4])):
            scores = load_classifier(run, after_task=task, reading=reading).logits(images)
            for c in learnt:
                expected.append(_share(scores[labels == c][:, learnt], learnt.index(c)))
        assert known["just_learnt"] == [*expected, None]
        assert known["A_t"][0] == pytest.approx(np.mean(expected[:3])) and len(known["A_t"]) == 3
        last = load_classifier(run, reading=reading).logits(images)
        now = [_share(last[labels == c][:, task], task.index(c)) for task in TASKS[:2] for c in task]
        assert known["A_t"][2] == pytest.approx(np.mean(now))


def _share(scores, best):
    """The share of images that have their highest score in one column."""
    return float(np.mean(np.argmax(scores, axis=1) == best))


def test_predictions_are_those_of_the_confusion_matrix(run, test_images):
    summary, (_, labels) = read_summary(Workdir(run)), test_images
    with np.load(run / "predictions.npz") as arrays:
        assert arrays["class"].dtype == np.uint16 and arrays["class"].tolist() == labels.tolist()
        for reading in summary.readings:
            matrix = np.zeros((6, 6), int)
            np.add.at(matrix, (arrays["class"], arrays[reading]), 1)
            assert matrix.tolist() == summary.confusion[reading]
    answers = read_answers(Workdir(run), summary)
    assert answers["consolidated"].test_set == "digits" and set(answers["consolidated"].values) == set(NAMES)
    right = [answers["auxiliary"].values[label].sum() for label in ORDER]
    assert right == np.diag(summary.confusion["auxiliary"]).tolist()


def test_averages_and_forgetting_of_each_class(run):
    summary = read_summary(Workdir(run))
    curve = [summary.averages[n]["consolidated"]["macro"] for n in (3, 5, 6)]
    assert summary.average_incremental["consolidated"] == pytest.approx(
        {"from_1": np.mean(curve), "from_2": np.mean(curve[1:])}
    )
    falls = summary.forgetting_by_class["consolidated"]
    assert len(falls) == 6 and falls[5] is None
    assert summary.forgetting["consolidated"] == pytest.approx(np.mean(falls[:5]))
    text = page.page(read(run))
    assert "average incremental accuracy, consolidated" in text and "with the task known, auxiliary" in text
    assert "How far each class fell from its best, points" in text and "calibration error, consolidated" in text


def test_runs_of_earlier_versions_are_read(run, tmp_path):
    """They lack these measures, which are then missing; a run that resumes goes on without those of earlier tasks."""
    old = small_runs.copied(run, tmp_path / "old")
    content = json.loads((old / "summary.json").read_text())
    new = ("task_known", "forgetting_by_class", "average_incremental", "calibration")
    (old / "summary.json").write_text(json.dumps({k: v for k, v in content.items() if k not in new}))
    (old / "predictions.npz").unlink()
    summary = read_summary(Workdir(old))
    assert summary.task_known == {} and read_answers(Workdir(old), summary) == {}
    text = page.page(read(old))
    assert (
        "calibration error" not in text
        and "average incremental" not in text
        and "task known" not in text
        and "fell from its best" not in text
    )

    metadata = small_runs.newest(run).metadata["record"]
    later = ("task_known", "calibration")
    record = Record.from_json({name: value for name, value in metadata.items() if name not in later})
    assert record.task_known == {"consolidated": [[], [], []], "auxiliary": [[], [], []]}
    assert record.calibration == {"consolidated": [None] * 3, "auxiliary": [None] * 3}
    record.evaluate("auxiliary", np.eye(6), np.arange(6), TASKS)
    assert record.task_known["auxiliary"][3] == [1.0] * 5 + [None]


def test_damaged_predictions_are_named(run, tmp_path):
    folder = Workdir(small_runs.copied(run, tmp_path / "run"))
    summary = read_summary(folder)
    with np.load(folder.predictions) as arrays:
        folder.write_predictions(arrays["class"], {"auxiliary": (arrays["class"] + 1) % 6})  # All are wrong.
    with pytest.raises(NoRun, match="cannot be read .its predictions are not those of summary.json.; move it away"):
        read_answers(folder, summary)
    folder.predictions.write_bytes(b"PK")
    with pytest.raises(NoRun, match="predictions.npz cannot be read"):
        read_answers(folder, summary)


def test_a_summary_is_what_it_was_written_from(run):
    content = json.loads((run / "summary.json").read_text())
    assert Summary.from_json(content).to_json() == content
