"""Any number of devices and of processes trains as one device does. Virtual CPU devices, and two real processes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import children, programs, small_runs
from support.marks import slow_but

from dgm_jax import Learner
from dgm_jax.config import Config
from dgm_jax.errors import ConfigError, UserError
from dgm_jax.runs import checkpoints
from dgm_jax.runs.events import Callback
from dgm_jax.training.devices import choose_devices, data_parallel


def assert_close(actual: Any, expected: Any) -> None:
    """To 1e-5 of the largest entry of each array, or of 1 if that is larger."""

    def check(path: Any, a: Any, b: Any) -> None:
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        largest = max((abs(float(x)) for x in b[np.isfinite(b)].ravel()), default=0.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1.0, largest), err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(check, actual, expected)


# ---- devices of one process ----


@pytest.mark.parametrize("variant", slow_but(["dgma", "dgmw"], "dgmw"))
def test_n_devices_train_as_one(variant: str) -> None:
    children.outputs(children.start(f"import test_devices as t; t.compare({variant!r})", **children.virtual_devices(8)))


@pytest.mark.slow
def test_what_goes_beyond_the_paper_is_split_over_devices_too() -> None:
    code = "from support import small_runs\nimport test_devices as t\n"
    code += "c = small_runs.beyond('dgma', image_size=16, epochs=10)\n"
    code += "t.assert_close(t.trained(c, 2, 'pmap'), t.trained(c, 1, 'pmap'))"
    children.outputs(children.start(code, **children.virtual_devices(2)))


def compare(variant: str) -> None:
    """Trains on 1, 2 and 8 devices; to rounding, the results are equal."""
    expected = train(variant, 1, "pmap")
    for n, backend in ((1, "shard_map"), (2, "pmap"), (2, "shard_map"), (8, "pmap")):
        assert_close(train(variant, n, backend), expected)


@pytest.mark.slow  # Bits are those of programs as runs compile them, without the flags that compile faster.
def test_both_backends_give_the_same_bits() -> None:
    code = "import test_devices as t\nfrom support import checks\n"
    code += "checks.assert_equal_trees(*(t.train('dgmw', 2, backend) for backend in ('pmap', 'shard_map')))"
    flags = {**children.virtual_devices(2), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    children.outputs(children.start(code, **flags))


def train(variant: str, n: int, backend: str) -> Any:
    """State and metrics after 21 iterations on real digits, with earlier tasks to protect and to replay."""
    # Not into the epochs of settled masks: where a gate is open by a hair, rounding may close it.
    return trained(small_runs.small(variant, image_size=16, epochs=10), n, backend)


def trained(config: Config, n: int, backend: str) -> Any:
    """As `train`, with these settings."""
    from test_task import _begin, _images

    heads = 1 if config.gan.critic_condition == "none" else 2  # Of one class there is nothing to tell.
    trainer = small_runs.trainer(config, jax.devices()[:n], max_heads=heads, backend=backend)
    *_, state, capacity = _begin(trainer)
    data, replay = _images(trainer)
    means = []
    for epoch in range(7):
        state, mean = trainer.run_epoch(
            state, data, replay, capacity, [jax.random.key(1)], task=1, epoch=epoch, steps=3, on_steps=lambda n: None
        )
        means.append(mean)
    return jax.device_get(state), means


@pytest.mark.slow
def test_a_checkpoint_goes_on_on_another_number_of_devices(tmp_path: Path) -> None:
    code = f"import pathlib, test_devices as t; t.go_on_elsewhere(pathlib.Path({str(tmp_path)!r}))"
    children.outputs(children.start(code, **children.virtual_devices(2)))


class Stop(Callback):
    """Ctrl-C in the second task, after a checkpoint."""

    def on_epoch_end(self, event: Any) -> None:
        if (event.task, event.epoch) == (1, 1):
            raise KeyboardInterrupt


def go_on_elsewhere(folder: Path) -> None:
    """Stops on one device and goes on on two, and the other way round."""
    config = small_runs.small("dgma", image_size=16)  # All networks have norms over the split batch.

    def fit(name: str, n: int, *callbacks: Callback) -> None:
        learner = Learner(config, devices=n, backend="pmap" if n == 1 else "shard_map", callbacks=callbacks)
        learner.fit(small_runs.stream(config, labels=(0, 1)), folder / name)

    fit("whole", 1)
    expected = small_runs.newest(folder / "whole").tree
    for first, second in [(1, 2), (2, 1)]:
        name = f"{first} then {second}"
        with pytest.raises(KeyboardInterrupt):
            fit(name, first, Stop())
        assert checkpoints.position(small_runs.newest(folder / name)) == (1, 1)  # One epoch of task 1.
        fit(name, second)
        assert_close(small_runs.newest(folder / name).tree, expected)


def test_one_device_is_used_unless_more_are_asked_for(tmp_path: Path) -> None:
    n = len(jax.devices())
    with pytest.raises(ConfigError, match=f"^devices={n + 1}, but here are {n} "):
        choose_devices(n + 1)
    code = f"import pathlib, test_devices as t; t.ask_for_devices(pathlib.Path({str(tmp_path)!r}))"
    children.outputs(children.start(code, **children.virtual_devices(8)))


def ask_for_devices(folder: Path) -> None:
    """With eight devices: which are chosen, and a batch that does not split over them."""
    assert choose_devices(None) == jax.devices()[:1]
    assert choose_devices(2) == jax.devices()[:2]
    assert choose_devices("all") == jax.devices()
    config = small_runs.small("dgma", image_size=8, batch_size=100)
    message = "^batch_size=100 does not split over 8 devices; use a multiple of 8, e.g. 104 .or --devices 5.$"
    with pytest.raises(ConfigError, match=message):
        Learner(config, devices="all").fit(small_runs.stream(config), folder)
    assert not list(folder.iterdir())


def test_an_unknown_backend() -> None:
    with pytest.raises(ConfigError, match="^backend 'pmpa' is unknown; choose one of pmap, shard_map$"):
        data_parallel(lambda state, shard: state, jax.devices()[:1], "pmpa")


# ---- several processes ----

OPTIONS = """
    --classes-per-task 5 --train-per-class 8 --image-size 8 --noise-dim 16 --generator-width 3 --discriminator-width 4
    --epochs 2 --batch-size 8 --scale-max 10 --consolidation-steps 6 --consolidation-samples 16 --checkpoint-seconds 0
"""
BASELINE = """
    --method er --memory-size 20 --classes-per-task 5 --train-per-class 8 --image-size 8 --discriminator-width 4
    --batch-size 8 --consolidation-steps 6 --checkpoint-seconds 0
"""


@pytest.mark.slow
def test_two_processes_train_as_one_and_the_first_one_writes(tmp_path: Path) -> None:
    code = "import pathlib, test_devices as t; t.{}"
    for name, options in {"one": OPTIONS, "baseline-one": BASELINE}.items():
        call = f"experiment({str(tmp_path / name)!r}, {options!r})"
        children.outputs(children.start(code.format(call), XLA_FLAGS=programs.QUICK))
    shutil.copytree(tmp_path / "one", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "1")  # As if stopped after the first task.
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    call = f"be_one_of_two({{}}, {port}, pathlib.Path({str(tmp_path)!r}))"
    pair = [children.start(code.format(call.format(i)), XLA_FLAGS=programs.QUICK) for i in (0, 1)]
    outputs = [out.splitlines() for out in children.outputs(*pair)]
    spoken = [[line for line in lines if not line.startswith("[Gloo]")] for lines in outputs]
    (first, second) = (json.loads(lines[-1]) for lines in spoken)

    expected = json.loads((tmp_path / "one" / "summary.json").read_text())
    for name in ("two", "resumed"):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["device"] == "2 x cpu"
        for ours, theirs in zip(summary["privacy"], expected["privacy"], strict=True):  # To rounding.
            assert ours["pixels"]["generated"]["median"] == pytest.approx(
                theirs["pixels"]["generated"]["median"], rel=0.1
            )
        for reading, of_tasks in summary["calibration"].items():  # To rounding, too.
            for ours, theirs in zip(of_tasks, expected["calibration"][reading], strict=True):
                assert ours == pytest.approx(theirs, rel=1e-3)
        for key in set(expected) - {"seconds", "device", "privacy", "calibration"}:
            assert summary[key] == expected[key], key
        assert_close(small_runs.newest(tmp_path / name).tree, small_runs.newest(tmp_path / "one").tree)
    one, two = (small_runs.newest(tmp_path / name).tree for name in ("baseline-one", "baseline-two"))
    assert_close(two, one)
    assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) == 2 * (2 + 1)
    assert not list(tmp_path.glob("*/checkpoints/**/ocdbt.process_1"))

    assert len(spoken[0]) > 10 and len(spoken[1]) == 1  # The second says nothing but what the test asks.
    assert first["written"] and second["written"] == []
    same = "process 1 does not have the same settings as process 0; all need the same command line"
    assert first["errors"][0].startswith(same) and second["errors"][0].startswith(same)
    assert "two holds a run on the tasks [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], now they are" in first["errors"][1]
    assert second["errors"][1] == "process 0 failed; its output says why"
    assert first["errors"][2] == "process 1 failed; its output says why"
    assert second["errors"][2] == "only here"
    assert first["errors"][3] == second["errors"][3]
    assert re.match("devices=1, but 2 processes have 2 .cpu.; use equally many of each process", first["errors"][3])


@pytest.mark.parametrize("processes", slow_but([1, 2], 1))
def test_sigterm_saves_and_ends_all_processes_at_the_same_epoch(processes: int, tmp_path: Path) -> None:
    """A scheduler's time limit: status 143, what to do, and a checkpoint although none was due."""
    command = [sys.executable, "-m", "experiments.digits", *OPTIONS.split(), "--workdir", str(tmp_path / "run")]
    command += ["--epochs", "400", "--checkpoint-seconds", "1000000"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"--distributed --coordinator localhost:{free.getsockname()[1]} --num-processes 2 --process-id".split()
    many = [[*where, str(i)] for i in range(processes)] if processes > 1 else [[]]
    kind = {"cwd": Path(__file__).parents[2], "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen([*command, *own], **kind) for own in many]
    try:
        metrics, begun = tmp_path / "run" / "metrics.jsonl", time.monotonic()
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert all(process.poll() is None for process in running), running[0].communicate()[1]
            assert time.monotonic() - begun < 200
            time.sleep(0.1)
        running[-1].send_signal(signal.SIGTERM)  # One hears it, all stop.
        ended = [process.communicate(timeout=60) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [143] * processes, ended
    assert all("stopped by SIGTERM; run the same command to resume" in error for _, error in ended)
    done = metrics.read_text().count("\n")
    assert [path.name for path in (tmp_path / "run" / "checkpoints" / "within_task").iterdir()] == [str(done)]


def experiment(workdir: str, options: str, *where: str) -> None:
    """A small run from the command line."""
    from dgm_jax.commands import learn

    assert learn.run("digits", [*options.split(), "--workdir", workdir, *where]) == 0


def be_one_of_two(process_id: int, port: int, folder: Path) -> None:
    """Three runs, and then what must fail in both processes and leave neither waiting; prints what happened."""
    from dgm_jax.system import processes

    written = watch_writing(folder)
    where = f"--distributed --coordinator localhost:{port} --num-processes 2 --process-id {process_id}"
    experiment(str(folder / "two"), OPTIONS, *where.split())
    processes.join = lambda *_: None  # Once is enough.
    experiment(str(folder / "resumed"), OPTIONS, "--distributed", "--backend", "shard_map")
    experiment(str(folder / "baseline-two"), BASELINE, "--distributed")

    def fit(seed: int) -> None:
        config = small_runs.small("dgma", image_size=8, seed=seed)
        Learner(config).fit(small_runs.stream(config), folder / "two")

    def fail_in_the_second() -> None:
        if process_id == 1:
            raise UserError("only here")

    errors = [
        error_of(lambda: fit(seed=process_id)),
        error_of(lambda: fit(seed=0)),
        error_of(lambda: processes.call_on_all(fail_in_the_second)),
        error_of(lambda: choose_devices(1)),
    ]
    print(json.dumps({"written": written, "errors": errors}))


def error_of(function: Callable[[], Any]) -> str:
    try:
        function()
    except UserError as error:
        return str(error)
    return "none"


def watch_writing(folder: Path) -> list[str]:
    """A list that will hold what this process makes, changes or removes in `folder`."""
    written = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
        if event == "open":
            flags = arguments[2] or 0
            changes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and str(arguments[0]).startswith(str(folder)):
            written.append(f"{event} {arguments[0]}")

    sys.addaudithook(hear)
    return written
