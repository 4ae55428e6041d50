"""The classifier that a run leaves behind says what the run measured."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support import checks, small_runs

from dgm_jax import load_classifier
from dgm_jax.commands.main import main
from dgm_jax.data.dataset import resize
from dgm_jax.errors import NoMemory, UserError
from dgm_jax.memory.classifier import BadImages


@pytest.fixture(scope="module")
def run():
    return small_runs.unequal()


@pytest.mark.parametrize("reading", ["consolidated", "auxiliary"])
def test_it_is_right_as_often_as_the_run_said(run, reading):
    summary = json.loads((run.workdir / "summary.json").read_text())
    dataset = small_runs.digits(8, small_runs.SIX, 24, (70, -3, 12, 5, 900, 41))
    classifier = load_classifier(run.workdir, reading=reading)
    labels, probabilities = classifier.predict(dataset.x_test)
    assert np.mean(labels == dataset.y_test) == pytest.approx(summary["A_6"][reading]["micro"])
    assert probabilities.shape == (len(dataset.x_test), 6) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(np.asarray(classifier.labels)[probabilities.argmax(axis=1)], labels)


def test_it_is_printed_in_a_line(run):
    said = repr(load_classifier(run.workdir))
    assert said == "Classifier(labels=[12, 900, -3, 70, 5, 41], images=8x8x1, network='dcgan')"


def test_a_network_of_its_own():
    """Of another kind than the discriminator; it decides what the next task begins as, too."""
    config = small_runs.beyond("dgmw", consolidation_network="resnet")
    run = small_runs.finished(config, labels=small_runs.SIX, classes_per_task=2)
    summary = json.loads((run.workdir / "summary.json").read_text())
    test = small_runs.digits(8, small_runs.SIX)
    classifiers = [load_classifier(run.workdir, reading=reading) for reading in ("consolidated", "auxiliary")]
    assert [own.network for own in classifiers] == ["resnet", "dcgan"]
    for reading, classifier in zip(("consolidated", "auxiliary"), classifiers, strict=True):
        labels, _ = classifier.predict(test.x_test)
        assert np.mean(labels == test.y_test) == pytest.approx(summary["A_6"][reading]["micro"])


def test_after_a_part_of_the_tasks(run, tmp_path):
    """While a task is in progress, the classifier is that of the tasks before it."""
    folder = small_runs.copied(run.workdir, tmp_path / "run")
    shutil.rmtree(sorted((folder / "checkpoints").iterdir())[-1])
    classifier = load_classifier(folder)
    assert classifier.labels == (12, 900, -3, 70, 5)
    labels, probabilities = classifier.predict(np.zeros((2, 8, 8), np.uint8))
    assert probabilities.shape == (2, 5) and set(labels) <= set(classifier.labels)


def test_a_damaged_checkpoint_is_passed_over(run, tmp_path):
    folder = small_runs.copied(run.workdir, tmp_path / "run")
    checks.flip_a_byte(folder)
    with pytest.warns(UserWarning, match="is damaged.*/checkpoints/1 is used instead"):
        assert load_classifier(folder).labels == (12, 900, -3, 70, 5)


def test_no_images(run):
    labels, probabilities = load_classifier(run.workdir).predict(np.zeros((0, 8, 8, 1), np.uint8))
    assert labels.shape == (0,) and probabilities.shape == (0, 6)


def test_images_of_another_size_are_scaled(run):
    small = small_runs.digits(8, small_runs.SIX).x_test
    large = small.repeat(4, axis=1).repeat(4, axis=2)
    classifier = load_classifier(run.workdir)
    logits = classifier.predict(large)[1]
    assert np.array_equal(logits, classifier.predict(resize(large, 8))[1])
    assert np.any(logits != classifier.predict(small)[1])  # Scaling back averages over neighbours.


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 1)), np.zeros((8, 8), np.uint8), np.zeros((1, 0, 8), "u1")],
)
def test_refuses_images(run, images):
    with pytest.raises(BadImages, match=r"expected uint8 \[n, height, width, 1\]"):
        load_classifier(run.workdir).predict(images)


def test_refuses_folders(run, tmp_path):
    with pytest.raises(NoMemory, match="is not a folder"):
        load_classifier(tmp_path / "none")
    with pytest.raises(NoMemory, match="has no classifier"):
        load_classifier(tmp_path)
    with pytest.raises(UserError, match="reading='best' is unknown; choose one of consolidated, auxiliary"):
        load_classifier(run.workdir, reading="best")


def test_the_command(run, tmp_path, capsys):
    images = small_runs.digits(8, small_runs.SIX).x_test[:3, ..., 0]
    paths = [tmp_path / f"grüße {i}.png" for i in range(3)]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    colour = tmp_path / "colour.png"
    Image.fromarray(np.repeat(images[0][..., None], 3, axis=2)).save(colour)
    assert main(["predict", str(run.workdir), *map(str, paths), str(colour)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    labels, probabilities = load_classifier(run.workdir).predict(images)
    assert [row[0] for row in rows] == [*map(str, paths), str(colour)]
    assert [int(row[1]) for row in rows[:3]] == labels.tolist() and rows[3][1:] == rows[0][1:]
    assert float(rows[0][3]) == pytest.approx(probabilities[0].max(), abs=1e-3)

    (tmp_path / "torn.png").write_bytes(paths[0].read_bytes()[:60])
    assert main(["predict", str(run.workdir), str(paths[0]), str(tmp_path / "torn.png")]) == 2
    assert "1 of 2 files cannot be read as images" in capsys.readouterr().err
    assert main(["predict", str(run.workdir), str(tmp_path / "none.png")]) == 2
    assert capsys.readouterr().err.endswith("none.png: no such file; expected image files\n")
    assert main(["predict", str(run.workdir), str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: is a folder; expected image files\n"
    assert main(["predict", str(paths[0]), str(paths[0])]) == 2
    assert "is a file; expected the --workdir of a run" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "none"), str(paths[0])]) == 2
    assert "expected the --workdir of a run" in capsys.readouterr().err
