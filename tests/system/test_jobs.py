"""Jobs as processes: which cores each gets, how each ends, and what Ctrl-C and SIGTERM do."""

import fcntl
import functools
import os
import pickle
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import job_functions

from dgm_jax.errors import Terminated, UserError
from dgm_jax.system import engines, jobs
from dgm_jax.system.jobs import Job, Launcher

CORES = engines.usable_cores()
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="this machine has one core")


class Log:
    def __init__(self):
        self.events = []

    def on_start(self, job):
        self.events.append(("start", job.name))

    def on_end(self, job, failure):
        self.events.append(("end", job.name, failure))

    def on_stop(self, running):
        self.events.append(("stop", running))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The processes import the functions of tests."""
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), str(tests.parent)]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def job(folder, name, function, *arguments):
    return Job(name, functools.partial(function, *arguments), folder / f"{name}.log")


@needs_two_cores
def test_two_at_once_each_on_cores_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-6")
    names = ["first", "second", "third"]
    log = Log()
    plan = [job(tmp_path, name, job_functions.report, tmp_path, name) for name in names]
    assert jobs.run(plan, Launcher(at_once=2), tmp_path, log) == {}
    assert os.sched_getaffinity(0) == set(CORES)
    found = {name: (tmp_path / name).read_text().split() for name in names}
    assert {found["first"][0], found["second"][0]} == {
        ",".join(map(str, engines.share(CORES, slot, 2))) for slot in (0, 1)
    }
    assert {found["first"][3], found["second"][3]} == {"4", "GPU-6"}
    others_end = min(float(found[name][2]) for name in names[:2])
    assert float(found["third"][1]) > others_end, "three ran at once"
    assert (tmp_path / "first.log").read_text() == "first has reported\n"
    assert sorted(event[0] for event in log.events) == ["end"] * 3 + ["start"] * 3
    assert not list(tmp_path.glob(".jobs-*"))


def test_how_jobs_end(tmp_path):
    log = Log()
    functions = {
        "refused": job_functions.refuse,
        "crashed": job_functions.crash,
        "killed": job_functions.be_killed,
        "stopped": job_functions.be_stopped,
    }
    plan = [job(tmp_path, name, function) for name, function in functions.items()]
    plan.append(job(tmp_path, "good", job_functions.report, tmp_path, "good"))
    failed = jobs.run(plan, Launcher(), tmp_path, log)
    said = {failing.name: failure for failing, failure in failed.items()}
    assert said == {
        "refused": f"this cannot work (status 2; the full output is in {tmp_path}/refused.log)",
        "crashed": f"RuntimeError: a mistake in the program (status 1; the full output is in {tmp_path}/crashed.log)",
        "killed": "its process was killed; run the same command to start it again "
        f"(its output is in {tmp_path}/killed.log)",
        "stopped": f"stopped by SIGTERM (status 143; the full output is in {tmp_path}/stopped.log)",
    }
    assert [event[1] for event in log.events if event[0] == "end"] == [*functions, "good"]
    assert "Traceback" in (tmp_path / "crashed.log").read_text()


def test_a_job_that_cannot_begin(tmp_path, monkeypatch):
    """Its process does not find the function; the log of an earlier command is not its own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    plan = [job(tmp_path, "a", job_functions.refuse)]
    plan[0].log.write_text("error: of yesterday")
    assert list(jobs.run(plan, Launcher(), tmp_path, Log()).values()) == [
        "ModuleNotFoundError: No module named 'support' (the job could not begin)"
    ]


def test_the_log_of_a_job_that_slurm_does_not_take_back_is_named(tmp_path):
    stuck, result = job(tmp_path, "a", job_functions.refuse), tmp_path / "result"
    trace = "Traceback (most recent call last):\n  ...\nCalledProcessError: Command 'scontrol' returned 1\n"
    result.write_bytes(pickle.dumps(("error", trace)))
    stuck.log.write_text("stopped by SIGTERM")
    handle = SimpleNamespace(paths=SimpleNamespace(result_pickle=result))
    assert jobs._failure(stuck, handle, 0) == (
        f"CalledProcessError: Command 'scontrol' returned 1 (its output is in {tmp_path}/a.log)"
    )


def test_a_job_sees_no_gpu_where_all_are_hidden(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    jobs.run([job(tmp_path, "a", job_functions.report, tmp_path, "a")], Launcher(), tmp_path, Log())
    assert (tmp_path / "a").read_text().endswith(" ")


def send(number, *files, times=1, pause=1.5):
    """Sends this process a signal, once all files are there; and again, after a pause."""

    def wait():
        while not all(file.exists() for file in files):
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(pause)

    threading.Thread(target=wait, daemon=True).start()


@needs_two_cores
@pytest.mark.parametrize("number, raised", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_ctrl_c_and_sigterm_reach_all_and_all_save(number, raised, tmp_path):
    log, names = Log(), ["a", "b", "never"]
    plan = [job(tmp_path, name, job_functions.wait_for_the_end, tmp_path / name) for name in names]
    before = signal.getsignal(signal.SIGTERM)
    send(number, tmp_path / "a.begun", tmp_path / "b.begun")
    with pytest.raises(raised):
        jobs.run(plan, Launcher(at_once=2), tmp_path, log)
    assert [(tmp_path / name).exists() for name in names] == [True, True, False]
    assert log.events[-1] == ("stop", 2) and signal.getsignal(signal.SIGTERM) is before
    assert not list(tmp_path.glob(".jobs-*"))


@pytest.mark.parametrize("number, raised", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_second_signal_ends_jobs_at_once(number, raised, tmp_path):
    """Even one that does not hear SIGTERM, as within a long call of XLA."""
    log = Log()
    send(number, tmp_path / "a.begun", times=2)
    with pytest.raises(raised):
        jobs.run([job(tmp_path, "a", job_functions.do_not_hear, tmp_path / "a")], Launcher(), tmp_path, log)
    with (tmp_path / "a.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # It waits for the end of the process that holds it.
    assert not (tmp_path / "a").exists() and log.events[-1] == ("stop", 1)


def test_a_sigterm_that_a_parent_passes_on_is_not_a_second_one(tmp_path):
    (tmp_path / "a.slow").touch()
    send(signal.SIGTERM, tmp_path / "a.begun", times=2, pause=0.3)
    with pytest.raises(Terminated):
        jobs.run([job(tmp_path, "a", job_functions.wait_for_the_end, tmp_path / "a")], Launcher(), tmp_path, Log())
    assert (tmp_path / "a").read_text() == "saved"


def test_more_jobs_than_cores_are_refused(tmp_path):
    most, asked = len(CORES), len(CORES) + 1
    with pytest.raises(UserError) as error:
        jobs.run([job(tmp_path, "a", job_functions.refuse)], Launcher(at_once=asked), tmp_path, Log())
    assert str(error.value) == (
        f"--jobs {asked}: this machine has {most} usable cores; a job needs one, so use --jobs {most} or fewer"
    )


def test_without_slurm_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="^--launcher slurm: srun is not here; start this where jobs are submitted$"):
        jobs.run([job(tmp_path, "a", job_functions.refuse)], Launcher("slurm"), tmp_path, Log())


def commands_of_slurm(folder, monkeypatch, **bodies):
    """Scripts in the place of Slurm's commands."""
    folder.mkdir()
    for name, body in ({"srun": "", "sbatch": "", "squeue": "", "scancel": ""} | bodies).items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_what_slurm_is_told_and_a_job_that_is_lost(tmp_path, monkeypatch):
    commands_of_slurm(tmp_path / "bin", monkeypatch, sbatch=f'cp "$1" {tmp_path}/script; echo Submitted batch job 17')
    monkeypatch.setattr(engines.Slurm, "pause", 0.01)
    monkeypatch.setattr(engines.Slurm, "patience", 0)
    options = {"partition": "night", "time": "30", "exclusive": True, "cpus_per_task": "4"}
    plan = [job(tmp_path, "a", job_functions.refuse)]
    failed = jobs.run(plan, Launcher("slurm", slurm=options), tmp_path, Log())
    script = (tmp_path / "script").read_text().splitlines()
    for line in (
        "#SBATCH --partition=night",
        "#SBATCH --time=30",
        "#SBATCH --exclusive",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --job-name='dgm_jax a'",
    ):
        assert line in script
    assert any(line.startswith("srun ") and " --cpus-per-task=4 " in line for line in script)
    assert "its process was killed; run the same command" in failed[plan[0]]


def test_what_slurm_refuses_is_said(tmp_path, monkeypatch):
    commands_of_slurm(tmp_path / "bin", monkeypatch, sbatch="echo 'sbatch: error: invalid partition' >&2; exit 1")
    with pytest.raises(UserError, match="^--launcher slurm: sbatch: error: invalid partition; see --slurm$"):
        jobs.run([job(tmp_path, "a", job_functions.refuse)], Launcher("slurm"), tmp_path, Log())


def test_what_slurm_refuses_while_another_job_runs_is_submitted_again(tmp_path, monkeypatch):
    """Slurm takes one job at a time here; the first one ends once the second one was refused."""
    refused, queue, count, cancelled = (tmp_path / name for name in ("refused", "queue", "count", "cancelled"))
    commands_of_slurm(
        tmp_path / "bin",
        monkeypatch,
        sbatch=f"""
            if [ -e {queue} ]; then touch {refused}; echo 'sbatch: error: job submit limit' >&2; exit 1; fi
            echo x >> {count}; wc -l < {count} > {queue}; echo Submitted batch job $(cat {queue})""",
        squeue=f"if [ -e {refused} ]; then rm -f {queue}; else cat {queue}; fi",
        scancel=f"touch {cancelled}",
    )
    monkeypatch.setattr(engines.Slurm, "pause", 0.01)
    monkeypatch.setattr(engines.Slurm, "patience", 0)
    plan, log = [job(tmp_path, name, job_functions.refuse) for name in "ab"], Log()
    failed = jobs.run(plan, Launcher("slurm"), tmp_path, log)
    assert [event[:2] for event in log.events] == [("start", "a"), ("end", "a"), ("start", "b"), ("end", "b")]
    assert list(failed) == plan and all("its process was killed" in failure for failure in failed.values())
    assert not cancelled.exists()


def test_a_second_ctrl_c_does_not_wait_for_slurm(tmp_path, monkeypatch):
    """As when a node does not answer: the job stays in the queue, although it was cancelled."""
    commands_of_slurm(
        tmp_path / "bin",
        monkeypatch,
        sbatch=f"touch {tmp_path}/queued; echo Submitted batch job 17",
        squeue=f"[ $(grep -c 17 {tmp_path}/cancelled) = 2 ] || echo 17",
        scancel=f"echo $1 >> {tmp_path}/cancelled",
    )
    monkeypatch.setattr(engines.Slurm, "pause", 0.01)
    send(signal.SIGINT, tmp_path / "queued", times=2)
    with pytest.raises(KeyboardInterrupt):
        jobs.run([job(tmp_path, "a", job_functions.refuse)], Launcher("slurm"), tmp_path, Log())
    assert (tmp_path / "cancelled").read_text() == "17\n"


def test_ctrl_c_takes_jobs_out_of_the_queue(tmp_path, monkeypatch):
    commands_of_slurm(
        tmp_path / "bin",
        monkeypatch,
        sbatch=f"touch {tmp_path}/queued; echo Submitted batch job 17",
        squeue=f"[ ! -e {tmp_path}/queued ] || echo 17",
        scancel=f"rm {tmp_path}/queued; echo $1 > {tmp_path}/cancelled",
    )
    monkeypatch.setattr(engines.Slurm, "pause", 0.01)
    monkeypatch.setattr(engines.Slurm, "patience", 0)
    send(signal.SIGINT, tmp_path / "queued")
    with pytest.raises(KeyboardInterrupt):
        jobs.run([job(tmp_path, "a", job_functions.refuse)], Launcher("slurm"), tmp_path, Log())
    assert (tmp_path / "cancelled").read_text() == "17\n"


def announce(folder, times):
    """Tells this many starts that their time is nearly up, as Slurm does: by a signal to the process itself."""

    def wait():
        for number in range(times):
            while not (begun := folder / f"start{number}").exists() or not begun.read_text():
                time.sleep(0.05)
            os.kill(int(begun.read_text()), signal.SIGUSR2)

    threading.Thread(target=wait, daemon=True).start()


def test_a_job_whose_time_is_up_saves_and_is_started_again(tmp_path):
    announce(tmp_path, 4)
    saved = functools.partial(job_functions.starts, tmp_path)
    plan = [replace(job(tmp_path, "long", job_functions.end_when_told, tmp_path, 4), saved=saved)]
    assert jobs.run(plan, Launcher(), tmp_path, Log()) == {}
    assert len(saved()) == 4 and (tmp_path / "patience").read_text() == "inf"  # For as long as Slurm gives it.


def test_a_job_that_never_saves_is_not_started_for_ever(tmp_path):
    announce(tmp_path, 3)
    plan = [job(tmp_path, "long", job_functions.end_when_told, tmp_path, 4)]
    assert list(jobs.run(plan, Launcher(), tmp_path, Log()).values()) == [
        "its time was up 3 times in a row, and nothing more was saved; give it more time, e.g. --slurm time=240 "
        f"(status 143; the full output is in {tmp_path}/long.log)"
    ]
    assert len(job_functions.starts(tmp_path)) == 3


def test_a_job_whose_time_is_up_before_it_listens_is_started_again(tmp_path):
    announce(tmp_path, 1)
    plan = [job(tmp_path, "long", job_functions.end_when_told, tmp_path, 1, False)]
    assert jobs.run(plan, Launcher(), tmp_path, Log()) == {}
