"""The classifier of a run whose method has no memory: it says what the run measured, too."""

import shutil

import numpy as np
import pytest
from PIL import Image
from support import small_runs
from support.stopping import interrupt

from dgm_jax import Classifier, load_classifier
from dgm_jax.commands.main import main
from dgm_jax.data import pictures
from dgm_jax.errors import NoMemory, UserError
from dgm_jax.memory import export
from dgm_jax.memory import file as memory_file
from dgm_jax.memory.classifier import NoThreshold

METHODS = ("joint", "er", "gdumb", "ewc", "finetune", "analytic")


def run_of(method):
    return small_runs.small(method=method, image_size=8)


@pytest.mark.parametrize("method", METHODS)
def test_it_predicts_as_it_was_measured(method):
    config = run_of(method)
    folder, stream = small_runs.finished(config).workdir, small_runs.stream(config)
    stream.begin(2)
    images, _ = stream.test(2)
    classifier = load_classifier(folder)
    assert isinstance(classifier, Classifier) is (method != "analytic")
    assert classifier.names == stream.class_names and classifier.labels == stream.classes
    labels, probabilities = classifier.predict(images)
    with np.load(folder / "predictions.npz") as measured:
        predicted = measured["analytic" if method == "analytic" else "classifier"]
    np.testing.assert_array_equal(labels, np.array(stream.classes)[predicted])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    drawn, _ = classifier.predict(images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_array_equal(drawn, labels)
    earlier = load_classifier(folder, after_task=1)
    assert earlier.labels == stream.classes[:2] and set(earlier.predict(images)[0]) <= set(earlier.labels)
    with pytest.raises(NoThreshold):
        classifier.is_unknown(images)
    assert "\n" not in repr(classifier) and len(repr(classifier)) < 100


@pytest.mark.parametrize("method", ["er", "analytic"])
def test_the_command_names_classes(method, tmp_path, capsys):
    config = run_of(method)
    folder, stream = small_runs.finished(config).workdir, small_runs.stream(config)
    stream.begin(2)
    images, _ = stream.test(2)
    pictures.write_png(tmp_path / "one.png", images[0])
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (8, 8)
    assert main(["predict", str(folder), str(tmp_path / "one.png")]) == 0
    label = load_classifier(folder).predict(images[:1])[0][0]
    assert capsys.readouterr().out.split("\t")[1] == str(label)
    assert main(["predict", str(folder), str(tmp_path / "one.png"), "--reading", "auxiliary"]) == 2
    assert f"is a run of '{method}', which has none; leave it out" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_loaded(tmp_path, capsys):
    er = small_runs.finished(run_of("er")).workdir
    short = small_runs.copied(er, tmp_path / "short")
    shutil.rmtree(sorted((short / "checkpoints").iterdir())[0])
    with pytest.raises(NoMemory, match="after_task=1: .* some methods keep the newest only"):
        load_classifier(short, after_task=1)
    with pytest.raises(UserError, match="reading='combined'"):
        load_classifier(er, reading="combined")
    with pytest.raises(NoMemory, match="is a run of 'icarl', whose classifier is more than a network"):
        load_classifier(small_runs.finished(run_of("icarl")).workdir)
    empty = small_runs.copied(er, tmp_path / "run")
    shutil.rmtree(empty / "checkpoints")
    with pytest.raises(NoMemory, match="no whole checkpoint of a finished task"):
        load_classifier(empty)
    analytic, out = small_runs.finished(run_of("analytic")).workdir, tmp_path / "c.safetensors"
    assert main(["export", str(analytic), str(out), "--what", "classifier"]) == 2 and not out.exists()
    assert "needs sums of features, and a file holds a network alone" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="needs sums of features"):
        export.to_stablehlo(load_classifier(analytic))
    for task in (-1, 3):
        with pytest.raises(NoMemory, match=f"after_task={task}, but .* has 3 finished tasks, from 0"):
            load_classifier(analytic, after_task=task)


@pytest.mark.parametrize("method", ["er", "analytic"])
def test_in_the_middle_of_the_second_task(method, tmp_path):
    """What is read is as it was after the first one."""
    config = run_of(method)
    interrupt(config, tmp_path, "epoch end", 1, 0)
    found = load_classifier(tmp_path)
    assert len(found.labels) == 1 and found.predict(np.zeros((2, 8, 8, 1), np.uint8))[1].shape == (2, 1)


def test_a_combined_reading_goes_into_no_file(tmp_path):
    beside = small_runs.small("dgma", image_size=8, combined=True, filters=4)
    combined = load_classifier(small_runs.finished(beside).workdir, reading="combined")
    with pytest.raises(UserError, match="needs sums of features"):
        memory_file.write(tmp_path / "c.safetensors", classifier=combined)
    assert not list(tmp_path.iterdir())


def test_the_classifier_of_er_goes_into_a_file(tmp_path):
    er, out = small_runs.finished(run_of("er")).workdir, tmp_path / "c.safetensors"
    assert main(["export", str(er), str(out), "--what", "classifier"]) == 0
    stream = small_runs.stream(run_of("er"))
    stream.begin(2)
    images, _ = stream.test(2)
    np.testing.assert_array_equal(load_classifier(out).predict(images)[1], load_classifier(er).predict(images)[1])
