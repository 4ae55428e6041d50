"""The benchmark for GPUs, on the CPU, at a tiny size, with only JAX and its libraries installed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import programs, small_runs

from benchmarks import gpu, records
from benchmarks.run import write_npz
from dgm_jax.runs.events import EpochEnd, TaskEnd, TaskStart

# What a bare machine with a GPU may lack. Blocked before anything is imported.
SCRIPT = """
import sys
for name in ("PIL", "tensorflow", "tensorflow_datasets", "array_record", "tyro", "sklearn", "matplotlib", "jinja2",
             "safetensors", "flatbuffers"):
    sys.modules[name] = None
from benchmarks import gpu
from benchmarks.points import Point
from dgm_jax.config import Config

def tiny(variant):
    return Config().with_changes(
        variant=variant, image_size=8, noise_dim=8, generator_width=2, discriminator_width=2, epochs=2, batch_size=8,
        consolidation_steps=2, consolidation_samples=8, held_out=0.15,
    )

agreement = gpu.agreement  # With the settings that the reference was made with.
def at_full_size(precision):
    gpu.settings = settings
    found = agreement(precision)
    gpu.settings = tiny
    return found

settings, gpu.settings, gpu.agreement = gpu.settings, tiny, at_full_size
gpu.preset = lambda name, variant: tiny(variant)
gpu.POINTS = (Point("dgma", 0, (3,)),)
gpu.machine.LARGE = 64
class Here:  # In place of a process of its own.
    TimeoutExpired, run = TimeoutError, staticmethod(lambda command, env, timeout: gpu.main(command[3:]))

gpu.subprocess = Here
sys.exit(gpu.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    file = write_npz(small_runs.digits(8, (0, 1), 24), folder / "two.npz")
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            "--npz",
            str(file),
            "--out",
            str(folder / "gpu.jsonl"),
            "--points",
            "dgma-0",
            "--precisions",
            "float32",
            "--variants",
            "dgmw",
            "--minutes",
            "20",
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": programs.QUICK},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout, records.read(folder / "gpu.jsonl")


@pytest.mark.slow
def test_checks_times_and_runs(called):
    printed, (checked, *points, first, second, run) = called
    assert max(checked["agreement"].values()) < 1e-3  # The device is a CPU, but rounds as it likes.
    assert set(checked["agreement"]) == {"images", "classifier", "critic", "generator"}
    assert [point["point"] for point in points] == ["dgma-0"] * 3  # The second and third are those with other flags.
    assert all(point["iteration_seconds"] > 0 and point["precision"] == "float32" for point in points)
    assert [(line["task"], line["epochs"]) for line in (first, second)] == [(0, 2), (1, 2)]
    assert run["precision"] == "float32"  # That of the device, not "auto".
    assert run["run"] == "dgmw" and run["finished_tasks"] == run["of_tasks"] == 2
    assert run["average"]["consolidated"]["macro"] >= 0
    assert run["peak_host_bytes"] > 0 and run["machine"]["cores"] > 0
    assert "dgmw: 2 of 2 tasks" in printed and "peak memory" in printed


@pytest.mark.parametrize("late, epochs, finishes", [(-60, 3, True), (1, 1, False)])
def test_a_run_stops_when_its_time_is_up(monkeypatch, late, epochs, finishes):
    """Before the deadline nothing stops; after it only the epoch is finished."""

    class Scripted:
        def __init__(self, config, *, devices, callbacks):
            (self.watch,) = callbacks

        def fit(self, stream, workdir):
            self.watch.on_task_start(TaskStart(0, ("0",), 3, 0, 4, 8, (3,), (6,)))
            for epoch in range(3):
                self.watch.on_epoch_end(EpochEnd(0, epoch, {}, 0.4))
            self.watch.on_task_end(TaskEnd(0, 0, {}, {}, {}, ("0",), [], (3,), 1.5, "strict"))

    monkeypatch.setattr(gpu, "Learner", Scripted)
    lines = []

    def keep(**line):
        lines.append(line)

    run = gpu.learn(small_runs.small(image_size=8), small_runs.digits(8), time.perf_counter() - late, keep)
    (line,) = lines
    assert (line["epochs"], line["seconds"] is not None) == (epochs, finishes)
    assert line["iteration_seconds"] == pytest.approx(0.1)
    assert (run["finished_tasks"], run["of_tasks"]) == (0, 3)  # No summary was written.


def test_results_that_differ_are_told(monkeypatch):
    with np.load(gpu.REFERENCE) as reference:
        wrong = dict(reference)
    monkeypatch.setattr(gpu, "small_case", lambda precision: dict(wrong))
    assert set(gpu.agreement("float32").values()) == {0}
    largest = max((name for name in wrong if name.startswith("critic/")), key=lambda name: abs(wrong[name]).max())
    wrong[largest] = wrong[largest] * 1.01
    found = gpu.agreement("float32")
    assert found.pop("critic") == pytest.approx(0.01, rel=1e-3) and set(found.values()) == {0}


def test_the_call_ends_whatever_is_under_way(tmp_path):
    """As if something were compiled for ever."""
    file = write_npz(small_runs.digits(8, (0, 1), 24), tmp_path / "two.npz")
    code = "import sys, time; from benchmarks import gpu; gpu._measure = lambda *_: time.sleep(300); "
    code += "sys.exit(gpu.main(sys.argv[1:]))"
    arguments = ["--npz", str(file), "--out", str(tmp_path / "gpu.jsonl"), "--minutes", "0.01"]
    process = subprocess.run([sys.executable, "-c", code, *arguments], cwd=Path(__file__).parents[2], timeout=200)
    assert process.returncode == 3


def test_images_must_come_from_somewhere(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--out", "gpu.jsonl"])
    assert "--npz" in capsys.readouterr().err
