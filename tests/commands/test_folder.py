"""docs/own-images.md as it stands there: two days, and the first day's images deleted before the second."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import small_runs

from dgm_jax import load_memory
from dgm_jax.commands import learn
from dgm_jax.config import PRESETS
from dgm_jax.data import from_folder
from dgm_jax.system import checkpoint

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-images.md"


def write_images(folder: Path, labels: tuple[int, ...], names: dict[int, str], *, turned: int = 0) -> None:
    """Digits as files, turned by 90 degrees `turned` times."""
    digits = small_runs.digits(16, labels, 30)
    for label in labels:
        own = folder / names[label]
        own.mkdir(parents=True)
        for row, image in enumerate(digits.x_train[digits.y_train == label]):
            Image.fromarray(np.rot90(image[..., 0], turned)).resize((20, 20)).save(
                own / f"{row:04}.{'png' if row % 2 else 'bmp'}"
            )


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", "").splitlines()]


@pytest.fixture
def small_preset(monkeypatch):
    config = small_runs.small("dgma", image_size=8, headroom=2)
    monkeypatch.setitem(PRESETS, "folder", {"dgma": config})
    for name in ("keep_programs", "keep_no_programs"):  # Later tests have a cache of their own.
        monkeypatch.setattr(f"dgm_jax.system.compilation.{name}", lambda: None)


@pytest.mark.slow
def test_the_walk_through(tmp_path, monkeypatch, small_preset, capsys):
    monkeypatch.chdir(tmp_path)
    names = {0: "Ähren, reif", 1: "dog", 2: "日本", 3: "zebra's"}
    write_images(Path("monday"), (0, 1), names)
    write_images(Path("tuesday"), (2, 3), names)
    monday = from_folder("monday", size=8)
    first, remove, second, *_ = commands()
    assert remove == ["rm", "-r", "monday"]

    assert first[:3] == ["python", "-m", "experiments.folder"]
    assert learn.run("folder", first[3:]) == 0
    drawn = small_runs.draw_all(load_memory("runs/mine"))
    shutil.rmtree("monday")
    assert learn.run("folder", second[3:]) == 0
    assert "resuming" in capsys.readouterr().out
    memory = load_memory("runs/mine")
    assert memory.names == ("dog", names[0], "zebra's", "日本") and memory.labels == (0, 1, 2, 3)
    for label, images in drawn.items():
        assert images.tobytes() == small_runs.draw_all(memory)[label].tobytes()
    commands_run = Path("runs/mine/commands.txt").read_text().splitlines()
    assert [line.split()[6] for line in commands_run] == ["monday", "tuesday"]

    # No image that was given lies in any file of the run, neither plain nor among arrays or pictures.
    given = {image.tobytes() for image in monday.x_train}
    assert not given & set(images_in(Path("runs/mine")))
    assert len(given) == len(monday.x_train) > 40


def images_in(workdir: Path) -> Iterator[bytes]:
    """Everything of the images' size in the arrays of a run's folder, as uint8; and wherever a file says it plainly."""
    arrays = [array for path in workdir.rglob("*.npz") for array in np.load(path).values()]
    for description in workdir.glob("checkpoints/**/checkpoint.json"):
        arrays += jax.tree.leaves(checkpoint.read(description.parent).tree)
    for array in arrays:
        flat = np.asarray(array).ravel()
        if flat.dtype == np.uint8 and flat.size % 64 == 0:
            yield from (row.tobytes() for row in flat.reshape(-1, 64))
        elif flat.dtype == np.float32 and flat.size % 64 == 0:
            rounded = np.rint((np.clip(np.nan_to_num(flat), -1, 1) + 1) * 127.5).astype(np.uint8)
            yield from (row.tobytes() for row in rounded.reshape(-1, 64))


def test_images_that_are_kept_would_be_found(tmp_path):
    images = small_runs.digits(8).x_train[:5]
    checkpoint.save(tmp_path / "a" / "checkpoints" / "1", {"kept": images.astype(np.float32) / 127.5 - 1}, {})
    (tmp_path / "b").mkdir()
    np.savez_compressed(tmp_path / "b" / "kept.npz", images=images)
    for folder in ("a", "b"):
        assert {image.tobytes() for image in images} <= set(images_in(tmp_path / folder))


def test_a_class_of_an_earlier_day(tmp_path, monkeypatch, small_preset, capsys):
    monkeypatch.chdir(tmp_path)
    names = dict(enumerate(("cat", "dog", "owl")))
    write_images(Path("monday"), (0, 1), names)
    write_images(Path("tuesday"), (1, 2), names)
    run = ["--workdir", "runs/mine"]
    assert learn.run("folder", ["--data", "monday", *run]) == 0
    capsys.readouterr()
    assert learn.run("folder", ["--data", "tuesday", *run]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: runs/mine has learnt class dog before; a class belongs to one stage: "
        "leave its images out, or choose another --workdir, or, if these are more images of a class that it knows, "
        "pass --more-of-known\n"
    )


def test_more_images_of_a_class_as_the_page_says(tmp_path, monkeypatch, small_preset, capsys):
    monkeypatch.chdir(tmp_path)
    names = dict(enumerate(("cat", "dog")))
    write_images(Path("monday"), (0, 1), names)
    write_images(Path("thursday"), (1,), names, turned=1)
    first, *others = commands()
    (more,) = (words for words in others if words[-1] == "--more-of-known")
    assert more[:3] == ["python", "-m", "experiments.folder"]
    assert learn.run("folder", first[3:]) == 0
    drawn = small_runs.draw_all(load_memory("runs/mine"))
    assert learn.run("folder", more[3:-1]) == 2
    assert "these are more images of classes that it knows, pass --more-of-known" in capsys.readouterr().err
    assert learn.run("folder", more[3:]) == 0
    assert "new classes: 0) with more images of dog" in " ".join(capsys.readouterr().err.split())
    memory = load_memory("runs/mine")
    assert memory.names == ("cat", "dog") and len(memory.modes(1)) == 2
    for label, images in drawn.items():
        assert (
            images.tobytes() == np.asarray(memory.sample(label, len(images), jax.random.key(label), mode=0)).tobytes()
        )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist; expected a folder"),
        (lambda path: path.write_text("x"), "is a file; expected a folder"),
        (lambda path: path.mkdir(), "it is empty"),
        (lambda path: (path / "cat").mkdir(parents=True), "has no images"),
    ],
)
def test_no_folder_of_images(make, said, tmp_path, small_preset, capsys):
    make(tmp_path / "mine")
    assert learn.run("folder", ["--data", str(tmp_path / "mine")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_one_class_is_enough_to_begin_with(tmp_path, monkeypatch, small_preset):
    monkeypatch.chdir(tmp_path)
    write_images(Path("monday"), (0,), {0: "cat"})
    assert learn.run("folder", ["--data", "monday", "--workdir", "run"]) == 0
    assert load_memory("run").names == ("cat",)
