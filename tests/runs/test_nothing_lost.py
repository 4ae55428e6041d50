"""What happens to folders in the world: full disks, moved folders, clocks set back, files of earlier formats.

Kills at random moments are in `benchmarks/kills.py`; runs interrupted at each of their steps, in `test_resume.py`.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from support import checks, children, small_runs
from support.marks import slow_but

from dgm_jax import load_classifier, load_memory
from dgm_jax.runs.events import Callback
from dgm_jax.system import checkpoint

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format-1"


class _StopAfter(Callback):
    def __init__(self, task: int) -> None:
        self.task = task

    def on_task_end(self, event) -> None:
        if event.task == self.task:
            raise KeyboardInterrupt


@pytest.fixture
def undisturbed():
    return small_runs.finished(small_runs.small("dgma"))


def mount(folder: Path, *options: str) -> None:
    """A file system of its own, or none here."""
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", *options, "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small file system")


RUN = """
import sys
from support import small_runs
from pathlib import Path
from dgm_jax.errors import exit_status
sys.exit(exit_status(lambda: small_runs.fit(small_runs.small("dgma"), Path(sys.argv[1])) and None))
"""


@pytest.mark.parametrize("kilobytes", slow_but([450, 560, 700], 560))
def test_a_full_disk_in_the_middle_of_a_run(kilobytes, tmp_path, undisturbed):
    """In a process of its own: Orbax's threads have their say when it ends."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, f"size={kilobytes}k")
    try:
        child = children.start(f"import sys; sys.argv[1:] = [{str(disk / 'run')!r}]\n{RUN}")
        _, error = child.communicate(timeout=300)
        assert child.returncode == 2 and "Traceback" not in error, error
        assert "No space left on device" in error and "free some space, then run the same command to resume" in error
        mount(disk, "remount,size=50m")
        small_runs.fit(small_runs.small("dgma"), disk / "run")
        checks.assert_equal_trees(small_runs.newest(disk / "run").tree, small_runs.newest(undisturbed.workdir).tree)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_as_orbax_tells_it(tmp_path, monkeypatch):
    said = "RESOURCE_EXHAUSTED: Failed writing: No space left on device [os_error_code='28']"

    def full(*_, **__):
        raise ValueError(said)

    monkeypatch.setattr(checkpoint.ocp, "save", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        checkpoint.save(tmp_path / "run" / "0", {"a": np.ones(3)}, {})
    assert caught.value.errno == 28 and not os.listdir(tmp_path / "run")
    said = "something else"
    with pytest.raises(ValueError, match="something else"):
        checkpoint.save(tmp_path / "run" / "0", {"a": np.ones(3)}, {})


def test_moved_elsewhere_and_with_any_times(tmp_path, undisturbed):
    """Neither paths nor times of files mean anything: copies by other programs, and clocks set back, do no harm."""
    config = small_runs.small("dgma")
    with pytest.raises(KeyboardInterrupt):
        small_runs.fit(config, tmp_path / "here", _StopAfter(1))
    moved = tmp_path / "an other place" / "ünd name"
    moved.parent.mkdir()
    shutil.move(tmp_path / "here", moved)
    for number, path in enumerate(sorted(moved.rglob("*"))):
        stamp = 4e9 - 1e7 * number  # In the future, and the later the path, the earlier.
        os.utime(path, (stamp, stamp))
    small_runs.fit(config, moved)
    checks.assert_equal_trees(small_runs.newest(moved).tree, small_runs.newest(undisturbed.workdir).tree)
    checks.assert_equal_trees(small_runs.draw_all(load_memory(moved)), undisturbed.drawn[-1])


@pytest.fixture(scope="module")
def drawn():
    with np.load(FIXTURE / "drawn.npz") as arrays:
        return {int(label): arrays[label] for label in arrays}


class TestFormat1:
    """The fixture was written when the format was fixed, by tests/fixtures/make.py; it is never written again."""

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
        dataset = small_runs.digits(8)
        labels, _ = load_classifier(FIXTURE / "run").predict(dataset.x_test)
        summary = json.loads((FIXTURE / "run" / "summary.json").read_text())
        assert np.mean(labels == dataset.y_test) == pytest.approx(summary["A_3"]["consolidated"]["micro"], abs=0.02)

    def test_it_goes_on(self, tmp_path, drawn):
        """Its last task is learnt again from the checkpoint before it."""
        config = small_runs.small("dgma", image_size=8, headroom=2, checkpoint_seconds=60.0)
        folder = small_runs.copied(FIXTURE / "run", tmp_path / "run")
        newest = sorted((folder / "checkpoints").iterdir())[-1]
        shutil.rmtree(newest)
        (folder / "summary.json").unlink()
        summary = small_runs.fit(config, folder)
        assert summary["finished"] and summary["finished_tasks"] == 3
        self.assert_draws(load_memory(folder).as_of(2), {label: drawn[label] for label in (0, 1)})

    def test_it_grows(self, tmp_path, drawn):
        config = small_runs.small("dgma", image_size=8, headroom=2, checkpoint_seconds=60.0)
        folder = small_runs.copied(FIXTURE / "run", tmp_path / "run")
        small_runs.fit(config, folder, labels=(3, 4))
        memory = load_memory(folder)
        assert memory.labels == (0, 1, 2, 3, 4)
        self.assert_draws(memory.as_of(3), drawn)
