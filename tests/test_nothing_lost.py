"""What happens to folders in the world: full disks, moved folders, clocks set back, files of earlier formats.

Kills at random moments are in `benchmarks/kills.py`; runs interrupted at each of their steps, in `test_learner.py`.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import helpers
import jax
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401

from dgm_jax import load_classifier, load_memory
from dgm_jax.callbacks import Callback

FIXTURE = Path(__file__).parent / "fixtures" / "format-1"


class _StopAfter(Callback):
    def __init__(self, task: int) -> None:
        self.task = task

    def on_task_end(self, event) -> None:
        if event.task == self.task:
            raise KeyboardInterrupt


@pytest.fixture
def undisturbed():
    return helpers.finished(helpers.small("dgma"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("left", [0, 20_000, 60_000])
def test_a_full_disk_in_the_middle_of_a_run(left, small_disk, undisturbed):
    config, workdir = helpers.small("dgma"), small_disk / "run"
    with pytest.raises(KeyboardInterrupt):
        helpers.fit(config, workdir, _StopAfter(0))
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"\1" * (free.f_bavail * free.f_frsize - left))
    before = helpers.newest(workdir)
    with pytest.raises(OSError, match="No space left on device"):
        helpers.fit(config, workdir)
    after = helpers.newest(workdir)
    assert after.step >= before.step
    if after.step == before.step:
        helpers.assert_equal_trees(after.tree, before.tree)
    (small_disk / "ballast").unlink()
    helpers.fit(config, workdir)
    helpers.assert_equal_trees(helpers.newest(workdir).tree, helpers.newest(undisturbed.workdir).tree)


def test_moved_elsewhere_and_with_any_times(tmp_path, undisturbed):
    """Neither paths nor times of files mean anything: copies by other programs, and clocks set back, do no harm."""
    config = helpers.small("dgma")
    with pytest.raises(KeyboardInterrupt):
        helpers.fit(config, tmp_path / "here", _StopAfter(1))
    moved = tmp_path / "an other place" / "ünd name"
    moved.parent.mkdir()
    shutil.move(tmp_path / "here", moved)
    for number, path in enumerate(sorted(moved.rglob("*"))):
        stamp = 4e9 - 1e7 * number  # In the future, and the later the path, the earlier.
        os.utime(path, (stamp, stamp))
    helpers.fit(config, moved)
    helpers.assert_equal_trees(helpers.newest(moved).tree, helpers.newest(undisturbed.workdir).tree)
    helpers.assert_equal_trees(helpers.draw_all(load_memory(moved)), undisturbed.drawn[-1])


class TestFormat1:
    """The fixture was written when the format was fixed, by tests/fixtures/make.py; it is never written again."""

    @pytest.fixture(scope="class")
    def drawn(self):
        with np.load(FIXTURE / "drawn.npz") as arrays:
            return {int(label): arrays[label] for label in arrays}

    def assert_draws(self, memory, drawn) -> None:
        assert memory.labels[: memory.n_classes] == tuple(drawn)
        for label, images in drawn.items():
            # Other processors round otherwise.
            np.testing.assert_allclose(np.asarray(memory.sample(label, 3, jax.random.key(label))), images, atol=1e-4)

    def test_a_run(self, drawn):
        self.assert_draws(load_memory(FIXTURE / "run"), drawn)

    def test_an_exported_memory(self, drawn):
        self.assert_draws(load_memory(FIXTURE / "memory.dgm"), drawn)

    def test_its_classifier(self):
        dataset = helpers.digits(8)
        labels, _ = load_classifier(FIXTURE / "run").predict(dataset.x_test)
        summary = json.loads((FIXTURE / "run" / "summary.json").read_text())
        assert np.mean(labels == dataset.y_test) == pytest.approx(summary["A_3"]["consolidated"]["micro"], abs=0.02)

    def test_it_goes_on(self, tmp_path):
        """Its last task is learnt again from the checkpoint before it."""
        config = helpers.small("dgma", image_size=8, headroom=2)
        folder = helpers.copied(FIXTURE / "run", tmp_path / "run")
        newest = sorted((folder / "checkpoints").iterdir())[-1]
        shutil.rmtree(newest)
        (folder / "summary.json").unlink()
        summary = helpers.fit(config, folder)
        assert summary["finished"] and summary["finished_tasks"] == 3

    def test_it_grows(self, tmp_path, drawn):
        config = helpers.small("dgma", image_size=8, headroom=2)
        folder = helpers.copied(FIXTURE / "run", tmp_path / "run")
        helpers.fit(config, folder, labels=(3, 4))
        memory = load_memory(folder)
        assert memory.labels == (0, 1, 2, 3, 4)
        self.assert_draws(memory.as_of(3), drawn)
