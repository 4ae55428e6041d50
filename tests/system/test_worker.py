"""The thread that compiles ahead: its order, its errors, its end, and where there is none."""

import os
import signal
import subprocess
import sys
import threading

import jax
import pytest

from dgm_jax.system import worker
from dgm_jax.system.compilation import BuildClock
from dgm_jax.system.worker import Worker


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(worker, "usable_cores", lambda: 2)


def test_jobs_are_done_in_order_once_and_in_another_thread():
    done = []
    with Worker(jax.devices()) as ahead:
        for name in "abca":
            ahead.prepare(name, lambda name=name: done.append((name, threading.get_ident())))
        ahead.wait("c")
        assert [name for name, _ in done] == list("abc")
    assert threading.get_ident() not in {thread for _, thread in done}


def test_a_failure_is_told_once_and_stops_nothing():
    done = []
    with Worker(jax.devices()) as ahead:
        ahead.prepare("bad", lambda: 1 / 0)
        ahead.prepare("good", lambda: done.append(1))
        with pytest.warns(RuntimeWarning, match=r"ZeroDivisionError: division by zero.* when it is needed"):
            ahead.wait("bad")
        ahead.wait("bad")
        ahead.wait("good")
        ahead.wait("unknown")
    assert done == [1]


@pytest.mark.parametrize("where", ["one core", "several processes", "a GPU", "outside its block"])
def test_where_it_would_not_help_it_does_nothing(monkeypatch, where):
    class Gpu:
        platform = "gpu"

    if where == "one core":
        monkeypatch.setattr(worker, "usable_cores", lambda: 1)
    if where == "several processes":
        monkeypatch.setattr(jax, "process_count", lambda: 2)
    before = set(threading.enumerate())
    ahead = Worker([Gpu()] if where == "a GPU" else jax.devices())
    if where != "outside its block":
        ahead.__enter__()
    ahead.prepare("job", lambda: pytest.fail("it was done"))
    ahead.wait("job")
    assert not ahead.works
    assert not any("dgm_jax_worker" in thread.name for thread in set(threading.enumerate()) - before)
    ahead.__exit__()


def test_an_error_in_the_block_waits_for_the_job_and_drops_the_next():
    begun, done = threading.Event(), []
    with pytest.raises(KeyboardInterrupt), Worker(jax.devices()) as ahead:
        ahead.prepare("running", lambda: (begun.set(), threading.Event().wait(0.2), done.append("running")))
        ahead.prepare("next", lambda: done.append("next"))
        begun.wait()
        raise KeyboardInterrupt
    assert done == ["running"]


def test_only_waiting_counts_as_building():
    begun, goes_on = threading.Event(), threading.Event()
    with BuildClock() as clock, Worker(jax.devices()) as ahead:

        def job():
            jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 1000.0)
            begun.set()
            goes_on.wait()

        ahead.prepare("job", job)
        begun.wait()
        assert clock.seconds == 0
        goes_on.set()
        ahead.wait("job")
        assert 0 < clock.seconds < 1000


def test_the_settings_of_jax_are_pinned_there_too():
    with jax.enable_x64(True), Worker(jax.devices()) as ahead:
        seen = []
        ahead.prepare("job", lambda: seen.append(jax.config.jax_enable_x64))
        ahead.wait("job")
    assert seen == [False]


PROGRAM = """
import signal, sys, threading, jax, jax.numpy as jnp
from dgm_jax.system import worker
from dgm_jax.system.interruption import sigterm_raises
worker.usable_cores = lambda: 2
begun = threading.Event()

def many(x):  # Takes XLA some seconds.
    for i in range(400):
        x = jnp.sin(x @ x.T) + jnp.sort(x, axis=i % 2)
    return x

def job():
    lowered = jax.jit(many).lower(jnp.ones((8, 8)))
    begun.set()
    lowered.compile()
    print("compiled", flush=True)

with sigterm_raises(), worker.Worker(jax.devices()) as ahead:
    ahead.prepare("job", job)
    ahead.prepare("next", lambda: print("never"))
    begun.wait()
    print("begun", flush=True)
    {then}
"""


@pytest.mark.parametrize(
    "then, status",
    [
        ("sys.exit(3)", 3),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("ahead.wait('job')  # SIGINT", -signal.SIGINT),
        ("raise KeyboardInterrupt  # SIGINT", -signal.SIGINT),
        ("ahead.wait('job')  # SIGTERM", 1),
    ],
    ids=["exit", "error", "Ctrl-C while it waits", "Ctrl-C again", "SIGTERM while it waits"],
)
def test_a_process_ends_well_while_xla_compiles(then, status):
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-c", PROGRAM.replace("{then}", then)]
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as child:
        assert child.stdout.readline() == "begun\n"
        if "#" in then:
            child.send_signal(getattr(signal, then.split()[-1]))
        out, error = child.communicate(timeout=200)
    assert child.returncode == status, error
    assert out == "compiled\n" and "Fatal" not in error
