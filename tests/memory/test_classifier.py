"""The classifier that a run leaves behind says what the run measured."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import checks, small_runs

from dgm_jax import load_classifier, load_memory
from dgm_jax.commands.main import main
from dgm_jax.data import pictures
from dgm_jax.data.dataset import resize
from dgm_jax.errors import NoMemory, UserError
from dgm_jax.memory import file as memory_file
from dgm_jax.memory.classifier import BadImages, NoThreshold


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
    assert said == "Classifier(labels=[12, 900, -3, 70, 5, 41], images=8x8x1)"


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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, "bfloat16"])
def test_float_images_are_those_that_the_memory_draws(run, dtype):
    """uint8 and float32 mean the same, whatever array holds them; narrower types are rounded, not scaled otherwise."""
    pixels = small_runs.digits(8, small_runs.SIX).x_test[:40]
    classifier = load_classifier(run.workdir)
    floats = (pixels / 127.5 - 1).astype(jax.numpy.dtype(dtype))
    labels, probabilities = classifier.predict(floats)
    expected = classifier.predict(pixels)
    np.testing.assert_allclose(probabilities, expected[1], atol=0.02 if floats.dtype.itemsize == 2 else 1e-6)
    assert np.mean(labels == expected[0]) > 0.9
    assert classifier.predict(np.zeros((0, 8, 8), np.float32))[1].shape == (0, 6)
    np.testing.assert_allclose(classifier.predict(floats[..., 0])[1], probabilities)


def test_float_images_of_another_size_are_rounded_and_scaled(run):
    large = small_runs.digits(8, small_runs.SIX).x_test[:5].repeat(4, axis=1).repeat(4, axis=2)
    classifier = load_classifier(run.workdir)
    assert np.array_equal(classifier.predict(large / 127.5 - 1)[1], classifier.predict(large)[1])


def test_what_a_memory_draws_is_not_rounded(run):
    memory, classifier = load_memory(run.workdir), load_classifier(run.workdir)
    drawn = memory.sample(12, 9, jax.random.key(0))
    exact = classifier.logits(np.asarray(drawn))[:, :6]
    odds = np.exp((exact - exact.max(axis=1, keepdims=True)) / np.float32(classifier.temperature))
    np.testing.assert_allclose(classifier.predict(drawn)[1], odds / odds.sum(axis=1, keepdims=True), rtol=1e-6)
    assert np.any(classifier.predict(drawn)[1] != classifier.predict(pictures.to_uint8(drawn))[1])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 1), np.int32),
        np.zeros((2, 8, 8, 1), bool),
        np.zeros((2, 8, 8, 1), np.complex64),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 1), np.uint8),  # One image without the axis of a batch.
        np.zeros((1, 0, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.float32),
        np.array("text"),
    ],
)
def test_refuses_images(run, images):
    expected = r"expected \[n, height, width, 1\], uint8 in 0\.\.255 or floats in \[-1, 1\]"
    with pytest.raises(BadImages, match=expected):
        load_classifier(run.workdir).predict(images)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.0, 255.0, r"floats in 0\.\.255; expected floats in \[-1, 1\], or uint8. If they are in 0..255: np.round"),
        (-1.5, 1.0, r"floats in -1\.5\.\.1; expected floats in \[-1, 1\], or uint8\.$"),
        (0.0, 1.0, r"floats in 0\.\.1; .* If black is 0 here: 2 \* x - 1"),
        (-1.0, np.nan, "not all finite"),
        (-1.0, np.inf, "not all finite"),
    ],
)
def test_refuses_floats_of_another_range(run, low, high, said):
    images = np.linspace(low, high, 128).reshape(2, 8, 8) if np.isfinite(high) else np.full((2, 8, 8), high)
    with pytest.raises(BadImages, match=said):
        load_classifier(run.workdir).predict(images)


@pytest.mark.parametrize("reading", ["consolidated", "auxiliary"])
def test_as_it_was_after_each_task(run, reading):
    """As often right on the classes of its time as the run said then."""
    summary = json.loads((run.workdir / "summary.json").read_text())
    test = small_runs.digits(8, small_runs.SIX, 24, (70, -3, 12, 5, 900, 41))
    for task, n_classes in enumerate((3, 5, 6)):
        classifier = load_classifier(run.workdir, after_task=task, reading=reading)
        assert classifier.labels == load_memory(run.workdir, after_task=task).labels
        of_classes = np.isin(test.y_test, classifier.labels)
        labels, probabilities = classifier.predict(test.x_test[of_classes])
        measured = summary[f"A_{n_classes}"][reading]["micro"]
        assert np.mean(labels == test.y_test[of_classes]) == pytest.approx(measured)
        assert probabilities.shape[1] == n_classes
    newest = load_classifier(run.workdir, reading=reading)
    pixels = test.x_test
    assert classifier.logits(pixels).tobytes() == newest.logits(pixels).tobytes()
    for task in (-1, 3):
        with pytest.raises(NoMemory, match=f"after_task={task}, but .* has 3 finished tasks, from 0"):
            load_classifier(run.workdir, after_task=task)


def test_after_a_task_whose_checkpoint_is_not_there(run, tmp_path):
    folder = small_runs.copied(run.workdir, tmp_path / "run")
    shutil.rmtree(sorted((folder / "checkpoints").iterdir())[0])
    with pytest.raises(NoMemory, match="after_task=0: .* has no whole checkpoint with the classifier of that time"):
        load_classifier(folder, after_task=0)


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
    assert capsys.readouterr().err.endswith(
        "none.png: no such file; expected image files, or .npy or .npz files of vectors\n"
    )
    assert main(["predict", str(run.workdir), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: is a folder; expected image files")
    assert main(["predict", str(paths[0]), str(paths[0])]) == 2
    assert "is no whole exported file: it does not begin as a file that" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "none"), str(paths[0])]) == 2
    assert "expected the --workdir of a run" in capsys.readouterr().err


def test_unknown_images(run, tmp_path, capsys):
    """Those whose highest logit is below the threshold of the consolidated classifier."""
    pixels = small_runs.digits(8, small_runs.SIX).x_test
    classifier = load_classifier(run.workdir)
    assert classifier.threshold is not None
    best = classifier.logits(pixels)[:, :6].max(axis=1)
    halfway = dataclasses.replace(classifier, threshold=float(np.median(best)))
    unknown = halfway.is_unknown(pixels)
    assert np.array_equal(unknown, best < np.median(best)) and 0.4 < unknown.mean() <= 0.5
    assert halfway.is_unknown(pixels[:0]).shape == (0,)
    with pytest.raises(BadImages):
        halfway.is_unknown(pixels[0])

    paths = [tmp_path / "low.png", tmp_path / "high.png"]
    for path, index in zip(paths, (best.argmin(), best.argmax()), strict=True):
        Image.fromarray(pixels[index, ..., 0]).save(path)
    exported = tmp_path / "classifier.safetensors"
    memory_file.write(exported, classifier=halfway)
    printed = []
    for words in ([], ["--unknown"]):
        assert main(["predict", str(exported), *map(str, paths), *words]) == 0
        printed.append([line.split("\t") for line in capsys.readouterr().out.splitlines()])
    (low, high), asked = printed
    assert asked == [[low[0], "-", "unknown", low[3]], high] and int(low[1]) in classifier.labels

    for words in ([str(run.workdir), "--reading", "auxiliary"], [str(tmp_path / "none.safetensors")]):
        memory_file.write(tmp_path / "none.safetensors", classifier=dataclasses.replace(classifier, threshold=None))
        assert main(["predict", words[0], str(paths[0]), "--unknown", *words[1:]]) == 2
        assert "has no threshold below which an image is unknown" in capsys.readouterr().err


def test_runs_of_earlier_versions_have_neither_temperature_nor_threshold(tmp_path):
    run = Path(__file__).parents[1] / "fixtures" / "format-1" / "run"
    classifier = load_classifier(small_runs.copied(run, tmp_path / "run"))
    assert classifier.temperature == 1 and classifier.threshold is None
    with pytest.raises(NoThreshold, match="expected the consolidated one of a run of dgm or separate"):
        classifier.is_unknown(np.zeros((1, *classifier.image_shape), np.uint8))
