"""Runs as jobs of a real Slurm of one node: lost ones, and one run over two processes whose time is up three times."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from support import slurm, small_runs

from dgm_jax.commands import table, table_runs
from dgm_jax.commands.table_runs import TableRun

pytestmark = [pytest.mark.slow, slurm.needs_slurm]

ROOT = Path(__file__).parents[2]
STREAM = ("--classes-per-task", "5", "--train-per-class", "24", "--batch-size", "24", "--discriminator-width", "4")
SHORT = (*STREAM, "--consolidation-steps", "300")
TINY = (*STREAM, "--epochs", "12", "--noise-dim", "12", "--generator-width", "3", "--checkpoint-seconds", "1e9")
TINY = (*TINY, "--consolidation-steps", "20", "--consolidation-samples", "16")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with slurm.one_node():
        yield


def test_a_table_has_the_rows_of_this_machine_though_a_job_is_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(table_runs.DATA, "digits", replace(table_runs.DATA["digits"], arguments=SHORT))
    argv = ["--data", "digits", "--methods", "joint", "finetune", "er", "--seeds", "0,1"]
    here, there = tmp_path / "here", tmp_path / "there"
    assert table.run([*argv, "--jobs", "2", "--runs", str(here)]) == 0

    lost = TableRun("digits", "er", 1, there)

    def kill():
        while not (lost.workdir / "config.json").exists():  # It has begun to learn.
            time.sleep(0.1)
        os.kill(json.loads((lost.workdir / ".lock").read_text())["pid"], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    of_cluster = [*argv, "--launcher", "slurm", "--runs", str(there)]
    assert table.run(of_cluster) == 1
    assert f"{lost.name}: its process was killed" in capsys.readouterr().out
    assert "no result: seed 1: its process was killed" in (there / "table.md").read_text()
    assert table.run(of_cluster) == 0
    assert "5 of 6 runs are finished already" in capsys.readouterr().out
    assert _rows(here) == _rows(there)


def _rows(folder):
    rows = json.loads((folder / "table.json").read_text())["rows"]
    assert len(rows) == 3 and all(row.pop("minutes") for row in rows)
    return rows


def test_a_run_of_two_processes_whose_time_is_up_three_times(tmp_path):
    """Each time Slurm's signal comes, both save and end, and the job goes back to the queue."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _submit(whole)
    _wait(lambda: not slurm.queue())
    number = _submit(parts)
    for stops in (1, 2, 3):
        done = _epochs(parts)
        _wait(lambda done=done: _epochs(parts) > done)
        slurm.send(number, "TERM")
        _wait(lambda stops=stops: _log(parts).count("stopped by SIGTERM") >= stops)
    _wait(lambda: not slurm.queue())
    assert "stopped" not in _log(whole)
    one, other = (small_runs.newest(folder) for folder in (whole, parts))
    jax.tree.map(np.testing.assert_array_equal, one.tree, other.tree)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, parts)]
    assert all(summary.pop("seconds") for summary in summaries) and summaries[0] == summaries[1]


def _submit(workdir):
    """Puts the run into the queue as docs/cluster.md says; both processes are on this node."""
    options = ["--parsable", "--nodes=1", "--ntasks-per-node=2", f"--output={workdir}.log"]
    words = ["digits", *TINY, "--workdir", str(workdir)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sbatch", *options, str(ROOT / "examples" / "slurm" / "one_run.sh"), *words],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _wait(until):
    deadline = time.monotonic() + 900
    while not until():
        assert time.monotonic() < deadline, slurm.queue()
        time.sleep(0.1)


def _epochs(workdir):
    file = workdir / "metrics.jsonl"
    return file.read_text().count('"kind": "epoch"') if file.exists() else 0


def _log(workdir):
    return Path(f"{workdir}.log").read_text()
