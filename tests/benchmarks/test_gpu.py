"""The benchmark for GPUs, on the CPU, at a tiny size, with only JAX and its libraries installed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import small_runs

from benchmarks import gpu, records
from benchmarks.run import write_npz
from dgm_jax.runs.events import EpochEnd, TaskEnd, TaskStart

# What a bare machine with a GPU may lack. Blocked before anything is imported.
SCRIPT = """
import dataclasses, sys
for name in ("PIL", "tensorflow", "tensorflow_datasets", "array_record", "tyro", "sklearn", "matplotlib"):
    sys.modules[name] = None
from benchmarks import gpu
from benchmarks.points import Point
from dgm_jax.config import Config

def tiny(variant):
    return Config().with_changes(
        variant=variant, image_size=8, noise_dim=8, generator_width=2, discriminator_width=2, epochs=2, batch_size=8,
        consolidation_steps=2, consolidation_samples=8, held_out=0.15,
    )

gpu.settings = tiny
gpu.preset = lambda name, variant: tiny(variant)
gpu.POINTS = (Point("dgma", 0, (3,)),)
gpu.step.SECONDS, gpu.machine.LARGE = 0.01, 64
sys.exit(gpu.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    file = write_npz(small_runs.digits(8, (0, 1), 24), folder / "two.npz")
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"}
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
            "--variants",
            "dgmw",
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ | quick,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout, records.read(folder / "gpu.jsonl")


@pytest.mark.slow
def test_checks_times_and_runs(called):
    printed, (checked, point, run) = called
    assert checked["agreement"]["agrees"]
    assert checked["agreement"]["highest"]["critic"] == 0  # The device is the CPU itself.
    assert point["point"] == "dgma-0" and point["parts"]["iteration"]["ratio"] > 0
    assert run["run"] == "dgmw" and run["finished_tasks"] == run["of_tasks"] == 2
    assert [line["epochs"] for line in run["tasks"]] == [2, 2]
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
    run = gpu.learn(small_runs.small(image_size=8), small_runs.digits(8), deadline=time.perf_counter() - late)
    (line,) = run["tasks"]
    assert (line["epochs"], "seconds" in line) == (epochs, finishes)
    assert line["iteration_seconds"] == pytest.approx(0.1)
    assert (run["finished_tasks"], run["of_tasks"]) == (0, 3)  # No summary was written.


def test_images_must_come_from_somewhere(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--out", "gpu.jsonl"])
    assert "--npz" in capsys.readouterr().err
