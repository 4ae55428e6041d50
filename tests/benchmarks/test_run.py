"""The benchmark of whole runs, on runs of seconds."""

import json
import resource
import subprocess

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
    file = run.write_npz(small_runs.digits(8, (0, 1, 2)), tmp_path / "three.npz")
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
        assert [n_tasks for n_tasks, _ in found["accuracy"]] == [n_tasks for n_tasks, _ in found["oldest_classes"]]
        assert found["accuracy"][0] == found["oldest_classes"][0] and found["accuracy"][-1][0] == 3
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


def test_what_is_remembered(tmp_path):
    """Read after the second task and after the third: all classes, and those of the first reading."""
    lines = ["protocol,reading,after_task,4,7,8", "strict,consolidated,0,,,", "strict,consolidated,1,0.75,0.25,"]
    lines += ["strict,consolidated,2,0.5,0,1", "strict,auxiliary,2,1,1,1"]
    (tmp_path / "accuracy_matrix.csv").write_text("\n".join(lines))
    assert run.remembered(tmp_path) == {"accuracy": [(2, 0.5), (3, 0.5)], "oldest_classes": [(2, 0.5), (3, 0.25)]}


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
        "accuracy": [(1, 1.0), (2, 0.5)],
        "oldest_classes": [(1, 1.0), (2, 0.25)],
        **run.growth([1.0], [[5]]),
    }

    def measured(command, kinds):
        commands.append((command, kinds))
        return {kind: one for kind in kinds}

    monkeypatch.setattr(run, "measure", measured)
    run.main()
    run.main("joined --of 'digits,mnist'", variants=("dgmw",), warm=False, out=tmp_path / "run.jsonl")
    assert commands == [
        (["experiments.digits", "--variant", "dgma"], ["cold", "warm"]),
        (["experiments.digits", "--variant", "dgmw"], ["cold", "warm"]),
        (["experiments.joined", "--of", "digits,mnist", "--variant", "dgmw"], ["cold"]),
    ]
    (written,) = records.read(tmp_path / "run.jsonl")
    assert (written["variant"], written["kind"]) == ("dgmw", "cold")
    assert written["command"] == "joined --of 'digits,mnist'" and written["ratio_seconds_to_width"] == 1
    printed = capsys.readouterr().out
    assert "dgmw, cold: 3.0 s (train 2.0, other 1.0); 1 shapes of programs; peak 1.00 GB" in printed
    assert "accuracy of the classes of the first reading: 1: 100.0 100.0, 2: 50.0 25.0" in printed
