"""The benchmark of whole runs, on runs of seconds."""

import dataclasses
import json
import resource
import subprocess

import numpy as np
import pytest
from support import programs, small_runs

from benchmarks import machine, records, run

TINY = {
    "image_size": 8,
    "noise_dim": 8,
    "generator_width": 2,
    "discriminator_width": 2,
    "epochs": 1,
    "batch_size": 8,
    "train_per_class": 16,
    "consolidation_steps": 2,
    "consolidation_samples": 8,
}


@pytest.mark.slow
def test_a_run_cold_and_warm(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", programs.QUICK)
    file = run.write_npz(run.split_classes(small_runs.digits(8, (0, 1)), 3), tmp_path / "three.npz")
    options = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    runs = run.measure(["experiments.arrays", "--npz", str(file), *options])
    assert set(runs) == {"cold", "warm"}
    # Before it starts its program, a child process is as large as this one.
    us = machine.in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    for found in runs.values():
        assert len(found["task_seconds"]) == len(found["task_widths"]) == 3
        assert all(seconds > 0 for seconds in found["task_seconds"])
        assert sum(found["task_seconds"]) < found["seconds"]
        assert found["programs"] and found["task_widths"][0] == [2]
        assert found["ratio_seconds_to_width"] > 0
        assert 50e6 < found["peak_host_bytes"] < max(3e9, 1.1 * us)
    assert runs["cold"]["task_widths"] == runs["warm"]["task_widths"]
    assert "dgma, warm" in run.table("dgma", runs)
    together = run.measure_seeds(["experiments.arrays", "--npz", str(file), *options], "0,1", runs["cold"]["seconds"])
    assert together["ratio_to_one_seed"] == together["seconds"] / runs["cold"]["seconds"] > 0


def test_a_failing_run_raises():
    with pytest.raises(subprocess.CalledProcessError):
        run.measure(["experiments.digits", "--no-such-option"])


def test_another_checkout_is_compared_with_this_one(tmp_path, monkeypatch, capsys):
    """Each run is here in another environment and folder, and the second of a kind finds the programs of the first."""
    calls = []

    def child(command, environment, folder):
        calls.append((folder, environment["PYTHONPATH"], environment["JAX_COMPILATION_CACHE_DIR"], command[2:-2]))
        here = folder != tmp_path
        workdir = run.Path(command[-1])
        workdir.mkdir()
        summary = {"final": 1, "A_1": 0.5 + (len(calls) == 8), "seconds": {"train": 2.0 * here + len(calls)}}
        (workdir / "summary.json").write_text(json.dumps(summary))
        return run.Child(0.0, 3.0 if here else 4.0, 5.0 if here else 10.0, 1)

    monkeypatch.setattr(run, "run_child", child)
    run.main(against=tmp_path, command="mnist --preset 'best'", rounds=2, out=tmp_path / "run.jsonl")
    assert all(words == ["experiments.mnist", "--preset", "best"] for *_, words in calls)
    here, there = run.Path(run.__file__).parents[1], tmp_path
    assert [folder for folder, *_ in calls] == [here, there] * 4
    assert all(path == str(folder) for folder, path, *_ in calls)
    caches = [cache for *_, cache, _ in calls]
    assert caches[:2] == caches[2:4] and caches[4:6] == caches[6:] and len(set(caches)) == 4
    cold, warm = records.read(tmp_path / "run.jsonl")
    assert (cold["kind"], cold["ratio_seconds"], cold["ratio_cpu_seconds"], cold["same_accuracy"]) == (
        "cold",
        0.75,
        0.5,
        True,
    )
    assert warm["kind"] == "warm" and warm["rounds"] == 2 and not warm["same_accuracy"]
    assert (warm["phases_here"], warm["phases_against"]) == ({"train": 7.0}, {"train": 6.0})
    assert "warm: this checkout's share of the other's: seconds 0.75, cpu_seconds 0.50" in capsys.readouterr().out


def test_growth_compares_ends():
    seconds, widths = [9.0, 1.0, 1.0, 2.0, 3.0, 3.0], [[1, 1]] * 3 + [[2, 2]] * 3
    assert run.growth(seconds, widths) == {"ratio_seconds": 3.0, "ratio_width": 2.0, "ratio_seconds_to_width": 1.5}
    assert run.growth([1.0], [[1]])["ratio_seconds"] == 1


@pytest.mark.parametrize("n_classes", [2, 10, 13])
def test_classes_are_split(n_classes):
    whole = small_runs.digits(8, tuple(range(10)))
    made = run.split_classes(whole, n_classes)
    assert made.labels == tuple(range(n_classes))
    assert len(made.x_train) == sum(np.isin(whole.y_train, range(n_classes)))
    assert np.array_equal(np.unique(made.y_test), np.arange(n_classes))
    assert dataclasses.asdict(made)["name"] == "digits"


@pytest.mark.slow
def test_what_is_run_and_written(tmp_path, monkeypatch, capsys):
    commands = []
    one = {
        "seconds": 3.0,
        "phase_seconds": {"train": 2.0},
        "other_seconds": 1.0,
        "programs": [[2]],
        "task_seconds": [1.0],
        "task_widths": [[2, 3]],
        "peak_host_bytes": 10**9,
        **run.growth([1.0], [[5]]),
    }

    def measured(command, kinds):
        assert kinds == (["cold"] if "--npz" in command else ["cold", "warm"])
        commands.append(command)
        if "--npz" in command:
            with np.load(command[command.index("--npz") + 1]) as file:
                assert set(file["y_train"]) == set(range(12))
        return {"cold": one}

    monkeypatch.setattr(run, "measure", measured)
    digits = small_runs.digits(8, tuple(range(10)))
    monkeypatch.setattr(run.data, "load", lambda name, folder: digits)
    run.main(classes=12, out=tmp_path / "run.jsonl")
    run.main()
    assert commands[0][0] == commands[1][0] == "experiments.arrays" and commands[1][-1] == "dgmw"
    assert commands[2:] == [["experiments.digits", "--variant", variant] for variant in ("dgma", "dgmw")]
    _, written = records.read(tmp_path / "run.jsonl")
    assert (written["variant"], written["kind"], written["classes"]) == ("dgmw", "cold", 12)
    assert written["ratio_seconds_to_width"] == 1
    assert "dgmw, cold: 3.0 s (train 2.0, other 1.0); 1 shapes of programs; peak 1.00 GB" in capsys.readouterr().out
