"""The command line of ImageNet-50: class folders, TensorFlow Datasets' directories, and which classes."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dgm_jax.data
from dgm_jax.commands import learn, parsing
from dgm_jax.commands.experiments import find
from dgm_jax.data import TaskStream, from_arrays, load
from dgm_jax.data.prepare import write_array_record


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Real digits as class folders "c00" ... "c51", five images each, one of "c01" in colour."""
    images = load("digits").x_train[..., 0]
    for row in range(52 * 5):
        folder = tmp_path / "images" / f"c{row // 5:02}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[row]).save(folder / f"{row % 5}.png")
    Image.fromarray(np.repeat(images[5][..., None], 3, axis=-1)).save(folder.parent / "c01" / "0.png")
    return folder.parent


def run_imagenet(*argv: str) -> int:
    return learn.run("imagenet50", argv)


def imagenet_stream(*argv: str) -> TaskStream:
    options = parsing.parse(find("imagenet50"), argv)
    return learn.make_streams("imagenet50", options, [0], options.output)[0]


def test_imagenet50_is_five_tasks_of_ten_classes(folders: Path, capsys) -> None:
    stream = imagenet_stream("--data", str(folders), "--classes", "first:50")
    assert [len(task) for task in stream.tasks] == [10] * 5
    assert stream.class_names == tuple(f"c{i:02}" for i in range(50))
    assert stream.image_shape == (32, 32, 3)
    said = capsys.readouterr()
    reading, found = said.out.splitlines()
    assert reading == f"reading images from {folders}, which takes minutes if they are many"
    assert found == f"found images: 200 training and 50 test images, 32x32x3, 50 classes, from {folders}"
    assert re.fullmatch(r"note: grey images converted to colour: 249, c00/\S+, .*, \.\.\. \(249\)\n", said.err)


def test_imagenet50_without_a_choice_is_all_if_they_are_50(folders: Path, capsys) -> None:
    assert run_imagenet("--data", str(folders)) == 2
    error = f"error: {folders} has 52 classes, expected 50; choose, e.g. --classes first:50\n"
    assert capsys.readouterr().err == error
    for name in ("c03", "c07"):
        shutil.rmtree(folders / name)
    stream = imagenet_stream("--data", str(folders), "--image-size", "8")
    assert stream.n_classes == 50 and "c03" not in stream.class_names and stream.image_shape == (8, 8, 3)
    shutil.rmtree(folders / "c11")
    assert run_imagenet("--data", str(folders)) == 2
    assert capsys.readouterr().err.endswith("has 49 classes, expected 50; choose, e.g. --classes first:49\n")


def test_imagenet50_takes_any_number_of_chosen_classes(folders: Path, tmp_path: Path, learner, monkeypatch) -> None:
    streams = []
    monkeypatch.setattr(learner, "fit", lambda self, stream, workdir, **how: streams.append(stream))
    (tmp_path / "mine").write_text("c09\nc01  # in colour\nc30\nc02\n")
    data = ["--data", str(folders), "--classes-per-task", "2", "--image-size", "8"]
    assert run_imagenet(*data, "--classes", f"@{tmp_path / 'mine'}") == 0
    assert run_imagenet(*data, "--classes", "c09,c30", "--class-order", "1,0", "--evaluate-on", "training") == 0
    held_out = ["--protocol", "paper", "--held-out", "0.25"]
    assert run_imagenet(*data, "--classes", "first:2", *held_out) == 0
    four, judged, paper = streams
    assert four.class_names == ("c09", "c01", "c30", "c02") and four.tasks == ((0, 1), (2, 3))
    assert judged.class_names == ("c30", "c09") and judged.image_shape == (8, 8, 1), "grey, as all chosen are"
    assert judged.train_counts(0) == (3, 3)
    assert (paper.protocol, paper.train_counts(0)) == ("paper", (3, 3))


def test_imagenet50_of_tensorflow_datasets(tmp_path: Path, capsys) -> None:
    digits = load("digits")
    tinted = [np.stack([x[..., 0], 255 - x[..., 0], x[..., 0] // 2], axis=-1) for x in (digits.x_train, digits.x_test)]
    names = dict(enumerate(f"n{9 - label}" for label in range(10)))
    dataset = from_arrays(tinted[0], digits.y_train, tinted[1], digits.y_test, class_names=names).resized(32)
    write_array_record(dataset, tmp_path, "imagenet_resized/32x32", "0.1.0", test_split="validation")
    where = ["--data-dir", str(tmp_path)]
    stream = imagenet_stream(*where, "--classes", "first:4", "--classes-per-task", "2")
    assert stream.class_names == ("n0", "n1", "n2", "n3"), "by name; they are stored as 9, 8, 7, 6"
    stream.begin(0)
    images, indices = stream.train(0)
    for index, label in enumerate([9, 8]):
        np.testing.assert_array_equal(images[indices == index], dataset.x_train[digits.y_train == label])
    assert "classes, from " + str(tmp_path) in capsys.readouterr().out
    assert run_imagenet(*where) == 2
    assert "has 10 classes, expected 50; choose, e.g. --classes first:10\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--classes", "first:50", "--data-dir", "x"], "--data and --data-dir are two places to read from; give one"),
        (["--classes", "first:53"], "there are 52 classes; expected first:N with N from 1 to 52"),
        (
            ["--classes", "c1,c02"],
            "c1 is not among the 52 available classes (c00, c01, c02, c03, c04, ... (52)); c1 is",
        ),
        (["--classes", "first:7"], "7 classes do not split into tasks of 10"),
        (["--classes", "first:50", "--class-order", "50,1"], "class_order names class 50"),
        (["--classes", "first:50", "--classes-per-task", "two"], "classes per task 'two'"),
        (["--classes", "first:50", "--grey", "refuse"], "249 of 250 images in"),
    ],
)
def test_imagenet50_mistakes(argv: list[str], expected: str, folders: Path, monkeypatch, capsys) -> None:
    if "--grey" not in argv:  # All others are told before minutes of reading.
        monkeypatch.setattr(dgm_jax.data, "from_folder", None)
    assert run_imagenet("--data", str(folders), *argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error


def test_imagenet50_skips_unreadable_files_if_told(folders: Path, capsys) -> None:
    (folders / "c00" / "1.png").write_bytes(b"")
    choice = ["--data", str(folders), "--classes", "c00,c02", "--classes-per-task", "1"]
    assert run_imagenet(*choice) == 2
    assert "1 of 10 files in " in capsys.readouterr().err
    assert imagenet_stream(*choice, "--unreadable", "skip").train_counts(0) == (3,)
    note = "note: files skipped because they cannot be read: 1, c00/1.png (empty)\n"
    assert capsys.readouterr().err.endswith(note)


def test_options_about_files_need_files(tmp_path: Path, capsys) -> None:
    for option in (["--grey", "refuse"], ["--unreadable", "skip"]):
        assert run_imagenet("--data-dir", str(tmp_path), *option) == 2
        assert capsys.readouterr().err.endswith(
            "--grey, --unreadable and --parts are about files of images; they need --data\n"
        )
