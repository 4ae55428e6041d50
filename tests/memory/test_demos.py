"""The memories that come with the package: they draw what they say, are small, and say where they come from."""

import json
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
from PIL import Image

import dgm_jax
from dgm_jax import data
from dgm_jax.commands.main import main
from dgm_jax.data import pictures
from dgm_jax.errors import NoMemory
from dgm_jax.memory import demos

ROOT = Path(__file__).resolve().parents[2]
TEXT = Path(demos.__file__).with_name("demos.txt").read_text()
CLASSES = tuple(range(10))
# Real digits at this size in the middle of the demo's images, and the share of them that its classifier must recognise:
# to that of MNIST, these come from other people, in other pixels.
REAL = {"demo:digits": (16, 0.97), "demo:mnist": (20, 0.7)}


@pytest.mark.parametrize("name", REAL)
def test_a_demo_draws_its_classes(name: str) -> None:
    """Its classifier recognises real digits, and so it may judge the drawn ones."""
    memory, classifier = dgm_jax.load_memory(name), dgm_jax.load_classifier(name)
    assert memory.labels == classifier.labels == CLASSES and memory.names == tuple(map(str, CLASSES))
    side, least = REAL[name]
    real = data.load("digits").resized(side)
    before = (memory.image_size - side) // 2
    margins = (before, memory.image_size - side - before)
    images = np.pad(real.x_test, ((0, 0), margins, margins, (0, 0)))
    assert (classifier.predict(images)[0] == real.y_test).mean() >= least

    drawn = [np.asarray(memory.sample(label, 128, jax.random.key(0))) for label in CLASSES]
    recognised = [(classifier.predict(images)[0] == label).mean() for label, images in zip(CLASSES, drawn)]
    assert min(recognised) >= 0.85 and np.mean(recognised) >= 0.95
    # The memory knows many images of each class, not one.
    assert min(images.std(axis=0).mean() for images in drawn) >= 0.05
    right_after = dgm_jax.load_memory(name, after_task=0)
    assert right_after.labels == (0,) and np.array_equal(right_after.sample(0, 128, jax.random.key(0)), drawn[0])


def test_they_are_small_and_say_where_they_come_from(tmp_path: Path) -> None:
    assert demos.names() == list(REAL)
    assert sum(demos.located(name).stat().st_size for name in REAL) < 1_000_000
    notes = {part.partition(".")[0]: " ".join(part.split()) for part in TEXT.split("\n\n")[1:]}
    assert [f"demo:{name}" for name in notes] == list(REAL)
    for name, note in notes.items():
        file = demos.located(f"demo:{name}")
        with safetensors.safe_open(file, framework="np") as opened:
            header = json.loads(opened.metadata()["dgm_jax"])
        assert header["sections"]["note"]["text"] == note and "Licence of these images and of this file" in note
        out = tmp_path / f"{name}.safetensors"
        assert main(["export", f"demo:{name}", str(out), "--what", "both", "--note", note]) == 0
        assert out.read_bytes() == file.read_bytes()  # It is what `export` writes.


def test_a_name_that_is_no_demo(tmp_path: Path, capsys) -> None:
    expected = "demo:cifar: there is no such demo; choose one of demo:digits, demo:mnist"
    for load in (dgm_jax.load_memory, dgm_jax.load_classifier):
        with pytest.raises(NoMemory, match=f"^{expected}$"):
            load("demo:cifar")
    assert main(["sample", "demo:cifar", "--classes", "3", "--out", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err == f"error: {expected}\n"
    for odd in ("demo:", "demo:../demos/digits"):
        with pytest.raises(NoMemory, match="there is no such demo"):
            dgm_jax.load_memory(odd)


def test_the_picture_of_the_page_is_what_its_command_draws(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(
        r"^python -m dgm_jax (.* --out mnist\.png)$", (ROOT / "docs/start.md").read_text(), re.MULTILINE
    )
    assert f"*`python -m dgm_jax {command}` draws it" in (ROOT / "README.md").read_text()
    assert main(shlex.split(command)) == 0
    drawn, shown = (
        np.asarray(Image.open(path), np.int16) for path in ("mnist.png", ROOT / "docs/results/demo_mnist.png")
    )
    assert drawn.shape == shown.shape and np.abs(drawn - shown).mean() < 1  # Other processors round otherwise.


def test_predict_and_a_note_that_has_no_place(tmp_path: Path, capsys) -> None:
    real = data.load("digits")
    pictures.write_png(tmp_path / "three.png", real.x_test[real.y_test == 3][0])
    assert main(["predict", "demo:digits", str(tmp_path / "three.png")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'three.png'}\t3\t3\t")
    assert main(["export", "demo:digits", str(tmp_path / "a.npz"), "--to", "npz", "--note", "mine"]) == 2
    assert "--note: a file --to npz has no place for it" in capsys.readouterr().err
