"""Checks and times a GPU in one call of less than eight minutes: are results right, how fast is a step, and a run.

First a small case is computed and compared with what a CPU computed (`gpu_reference.npz` beside this file). Then
iterations are timed at two points in three precisions, then once more in a process that XLA makes no command buffers
for, and in one that it makes more of them for. What is left of the minutes goes to MNIST with the authors' settings,
101 epochs a task. A line is added to the file after each of these and after each task, so whatever ends the call, the
file has what was found so far. The call ends by itself.

Only JAX, flax, optax, orbax and chex are needed, and `JAX_PLATFORMS=cuda` may be set. The images come from a file
(docs/benchmarks.md says how to make it); if they are 32x32 already, nothing else is needed to read them.

    python -m benchmarks.gpu --npz mnist32.npz --out gpu.jsonl
    python -m benchmarks.gpu --npz mnist32.npz --out gpu.jsonl --parts run --minutes 30 --variants dgmw
    JAX_PLATFORMS=cpu python -m benchmarks.gpu --write-reference      (after a change of what a step computes)
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
import optax

from benchmarks import machine, step
from benchmarks.points import POINTS, TASKS, Point, settings, widths_of_tasks
from benchmarks.replay import memory_at
from dgm_jax import Learner, data
from dgm_jax.config import Config, Precision, Variant, preset
from dgm_jax.data import Dataset
from dgm_jax.errors import ConfigError, exit_status
from dgm_jax.runs.events import Callback, EpochEnd, TaskEnd, TaskStart
from dgm_jax.training.devices import check_precision, matmul_precision, precision_of
from dgm_jax.training.shapes import physical_widths

REFERENCE = Path(__file__).with_name("gpu_reference.npz")
PARTS = ("agreement", "iterations", "flags", "run")
_TOLERANCE = 1e-3  # Relative to the largest entry: single precision, three layers forward and twice back.
_SHARES = {"iterations": 0.5, "flags": 0.6}  # Of the minutes, after which nothing of this part is begun.
_GRACE = 0.05  # Of the minutes: what is still under way so long after the end is cut off.
_FLAGS = ("--xla_gpu_enable_command_buffer=", "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL")

Keep = Callable[..., None]


class TimeIsUp(Exception):
    """A run has used up its minutes."""


class Stopwatch(Callback):
    """Keeps how long each task takes, and ends the run after the first epoch that ends too late."""

    def __init__(self, deadline: float, keep: Keep) -> None:
        """Takes the deadline as `time.perf_counter` counts; `keep` adds a line to the file."""
        self.deadline, self.keep = deadline, keep
        self._task: dict[str, Any] = {}
        self._epochs: list[float] = []

    def on_task_start(self, event: TaskStart) -> None:
        """Begins a task."""
        self._task = {
            "task": event.task,
            "widths": event.widths,
            "physical_widths": event.physical_widths,
            "steps": event.steps,
        }
        self._epochs = []

    def on_epoch_end(self, event: EpochEnd) -> None:
        """Counts the epoch; ends the run if time is up."""
        self._epochs.append(event.seconds)
        if time.perf_counter() > self.deadline:
            self._end(None)
            raise TimeIsUp

    def on_task_end(self, event: TaskEnd) -> None:
        """Keeps the task."""
        self._end(event.seconds)

    def _end(self, seconds: float | None) -> None:
        line = self._task | {
            "epochs": len(self._epochs),
            "iteration_seconds": statistics.median(self._epochs) / self._task["steps"],
            "seconds": seconds,
        }
        whole = "cut short" if seconds is None else f"{seconds:.1f} s"
        print(
            f"  task {line['task']}: {whole}, {line['epochs']} epochs of {line['steps']} iterations of "
            f"{1e3 * line['iteration_seconds']:.2f} ms, widths {line['widths']} in {line['physical_widths']}",
            flush=True,
        )
        self.keep(**line, **machine.peak_bytes())


def small_case(precision: Precision) -> dict[str, np.ndarray]:
    """Computes each step of an iteration, and sampled images, of a small case on random images.

    Returns:
      By name: the gradients (Adam's first moment after one step), and the images.
    """
    config = settings("dgmw").with_changes(
        precision=precision, image_size=16, noise_dim=16, batch_size=16, discriminator_width=8, generator_width=4
    )
    random, widths = np.random.default_rng(0), (8, 4)
    x, y = random.integers(0, 256, (200, 16, 16), np.uint8), np.arange(200) % TASKS
    dataset = data.from_arrays(x, y, x[:TASKS], y[:TASKS], name="random")
    scene = step.make_scene(Point("dgmw", 1, widths), config, dataset)
    memory = memory_at([widths], "dgmw", config, scene.trainer.networks.n_classes)
    computed = {"images/0": np.asarray(memory.sample_index(0, 8, jax.random.key(0)))}
    with jax.default_matmul_precision(matmul_precision(config.gan.precision)):
        for name, (function, arguments) in step.parts(scene).items():
            state, _ = jax.jit(function)(scene.state, *arguments)
            optimiser = state.generator_optimiser if name == "generator" else state.discriminator_optimiser
            moments = jax.tree.leaves(jax.device_get(optax.tree.get(optimiser, "mu")))
            computed |= {f"{name}/{i}": moment for i, moment in enumerate(moments)}
    return computed


def agreement(precision: Precision) -> dict[str, float]:
    """The largest difference from the CPU in each part of the small case, relative to the array's largest entry."""
    found: dict[str, float] = {}
    with np.load(REFERENCE) as reference:
        for name, ours in small_case(precision).items():
            theirs, part = reference[name], name.partition("/")[0]
            difference = np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-30)
            found[part] = max(found.get(part, 0.0), float(difference))
    return found


def iteration(point: Point, config: Config, dataset: Dataset, *, seconds: float) -> dict[str, Any]:
    """Times the program of a run at a point, with arrays padded as in a run; `seconds` does not include compiling."""
    history = [*widths_of_tasks(point.variant)[: point.task], point.widths]
    physical = physical_widths(history, headroom=config.gates.headroom, n_tasks=TASKS)
    with jax.default_matmul_precision(matmul_precision(config.gan.precision)):
        call = step.iteration_call(step.make_scene(point, config, dataset, physical), config.replay.replay_steps)
        first = machine.timed(lambda: call(1))
        times = max(1, round(seconds / 4 / machine.timed(lambda: call(1))))
        taken = machine.alternately([lambda: call(times)], seconds=seconds)[:, 0] / times
    return {"widths": list(physical), "first_call_seconds": first, "iteration_seconds": statistics.median(taken)}


def learn(config: Config, dataset: Dataset, deadline: float, keep: Keep) -> dict[str, Any]:
    """Learns the data set, one class a task, until it is learnt or time is up; `keep` gets a line for each task."""
    stream = data.class_incremental(
        dataset.resized(config.data.image_size),
        held_out=config.data.held_out,
        protocol=config.protocol,
        seed=config.seed,
    )
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        with contextlib.suppress(TimeIsUp):
            Learner(config, devices=1, callbacks=[Stopwatch(deadline, keep)]).fit(stream, workdir)
        seconds = time.perf_counter() - begun
        file = Path(workdir) / "summary.json"
        summary = json.loads(file.read_text()) if file.exists() else {}
    finished = summary.get("finished_tasks", 0)
    return {
        "seconds": seconds,
        "finished_tasks": finished,
        "of_tasks": stream.n_tasks,
        "phase_seconds": summary.get("seconds"),
        "programs": summary.get("programs"),
        "average": summary.get(f"A_{finished}"),
    }


def run_again(options: argparse.Namespace, flags: str, minutes: float) -> None:
    """Times iterations once more, at the first point, in a process with other flags of XLA."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--npz", options.npz, "--out", options.out]
    command += ["--parts", "iterations", "--points", options.points[0], "--minutes", str(minutes)]
    command += ["--precisions", options.precisions[0]]
    together = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    print(f"with {flags}", flush=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(list(map(str, command)), env=os.environ | {"XLA_FLAGS": together}, timeout=60 * minutes)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line, without tyro."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, help="file that holds x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, help="file of JSON Lines; lines are added")
    parser.add_argument("--minutes", type=float, default=7.5, help="for everything; the call ends then")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to do")
    names = [point.name for point in POINTS]
    parser.add_argument("--points", nargs="+", choices=names, default=["dgmw-9", "dgma-9"], help="iterations to time")
    all_precisions = [precision for precision in get_args(Precision) if precision != "auto"]
    parser.add_argument(
        "--precisions", nargs="+", choices=all_precisions, help="of iterations (default: all there are)"
    )
    variants = get_args(Variant)
    parser.add_argument("--variants", nargs="+", choices=variants, default=("dgmw", "dgma"), help="runs, in this order")
    parser.add_argument("--precision", choices=all_precisions, help="of runs (default: that of the device)")
    parser.add_argument("--write-reference", action="store_true", help=f"only compute {REFERENCE.name}, on a CPU")
    options = parser.parse_args(argv)
    if not options.write_reference and None in (options.npz, options.out):
        parser.error("give --npz and --out")
    if options.precisions is None:
        options.precisions = [precision for precision in all_precisions if _has(precision)]
    return options


def _has(precision: str) -> bool:
    try:
        check_precision(precision, jax.devices()[0])
    except ConfigError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Checks, times and runs, as far as time allows.

    Returns:
      0, or 1 if results do not agree with the CPU's; a call that had to be cut off ends with 3.
    """
    begun = time.perf_counter()
    # Processes with other flags need a part of the device's memory, and its peak is to be counted.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    options = parse(argv)
    if options.write_reference:
        arrays: dict[str, Any] = dict(small_case("float32"))
        np.savez_compressed(REFERENCE, **arrays)
        return 0
    machine.check(options.precisions[0], options.out)
    end = threading.Timer(60 * options.minutes * (1 + _GRACE), os._exit, [3])  # Whatever is being compiled then.
    end.daemon = True
    end.start()
    try:
        return _measure(options, begun)
    finally:
        end.cancel()


def _measure(options: argparse.Namespace, begun: float) -> int:
    dataset = data.from_npz(options.npz)
    seen = dataset.resized(settings("dgma").data.image_size)
    keep = partial(machine.keep, options.out, images=dataset.name, xla_flags=os.environ.get("XLA_FLAGS", ""))
    agrees = True

    def left(share: float = 1.0) -> float:
        return share * options.minutes - (time.perf_counter() - begun) / 60

    if "agreement" in options.parts:
        for precision in options.precisions:
            found = agreement(precision)
            if precision == "float32":
                agrees = max(found.values()) < _TOLERANCE
            said = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
            print(f"difference from a CPU, {precision}: {said}", flush=True)
            keep(agreement=found, precision=precision)
    with machine.compiled_once():
        for point in (point for point in POINTS if point.name in options.points and "iterations" in options.parts):
            for precision in options.precisions:
                if left(_SHARES["iterations"]) > 0:
                    config = settings(point.variant).with_changes(precision=precision)
                    measured = iteration(point, config, seen, seconds=1.0)
                    milliseconds = 1e3 * measured["iteration_seconds"]
                    print(f"{point.name}, {precision}: {milliseconds:.2f} ms an iteration", flush=True)
                    keep(point=point.name, precision=precision, **measured, **machine.peak_bytes())
    for flags in _FLAGS if "flags" in options.parts else ():
        if left(_SHARES["flags"]) > 0:
            run_again(options, flags, left(_SHARES["flags"] + 0.1))
    for variant in options.variants if "run" in options.parts else ():
        if left() > 0:
            precision = options.precision or precision_of(jax.devices()[0])
            config = preset("paper-mnist", variant).with_changes(precision=precision)
            kept = partial(keep, run=variant, precision=precision)
            run = learn(config, dataset, begun + 60 * options.minutes, kept)
            average = run["average"] or math.nan
            print(f"{variant}: {run['finished_tasks']} of {run['of_tasks']} tasks in {run['seconds']:.1f} s; {average}")
            kept(**run, **machine.peak_bytes())
    print(machine.peak_in_words())
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(exit_status(main))
