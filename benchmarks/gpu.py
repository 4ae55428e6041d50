"""Checks and times a GPU in one call of some minutes: are results right, how fast is a step, how fast is a run.

First a small case is computed here and on the CPU, and compared. Then steps are timed as in `benchmarks.step`. Then
MNIST is learnt with the authors' settings, 101 epochs a task, for as many tasks as fit into --minutes. The images come
from a file (docs/benchmarks.md says how to make it). If they are 32x32 already, only JAX, flax, optax and orbax are
needed.

    python -m benchmarks.gpu --npz mnist32.npz --out gpu.jsonl
    python -m benchmarks.gpu --npz mnist32.npz --out gpu.jsonl --minutes 30 --variants dgmw
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
import optax

from benchmarks import machine, step
from benchmarks.points import POINTS, Point, settings
from benchmarks.replay import memory_at
from dgm_jax import Learner, data
from dgm_jax.config import Config, Precision, Variant, preset
from dgm_jax.data import Dataset
from dgm_jax.errors import exit_status
from dgm_jax.models import dcgan
from dgm_jax.runs.events import Callback, EpochEnd, TaskEnd, TaskStart

_TOLERANCE = 1e-3  # Relative to the largest entry: single precision, three layers forward and twice back.
_STEP_SHARE = 0.4  # The share of the minutes after which no further point is timed.


class TimeIsUp(Exception):
    """A run has used up its minutes."""


class Stopwatch(Callback):
    """Records how long tasks and epochs take, and ends the run after the first epoch that ends too late."""

    def __init__(self, deadline: float) -> None:
        """Takes the deadline as `time.perf_counter` counts."""
        self.deadline = deadline
        self.tasks: list[dict[str, Any]] = []

    def on_task_start(self, event: TaskStart) -> None:
        """Begins the entry of a task."""
        line = {"widths": event.widths, "physical_widths": event.physical_widths, "steps": event.steps, "epochs": []}
        self.tasks.append(line)

    def on_epoch_end(self, event: EpochEnd) -> None:
        """Records the epoch; ends the run if time is up."""
        self.tasks[-1]["epochs"].append(event.seconds)
        if time.perf_counter() > self.deadline:
            raise TimeIsUp

    def on_task_end(self, event: TaskEnd) -> None:
        """Records the task."""
        self.tasks[-1]["seconds"] = event.seconds


def agreement(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Computes each step of an iteration, and sampled images, on the first device and on the CPU.

    Returns:
      For each precision of matrix products, the largest difference in each part, relative to the largest entry of the
      array: in the gradients (Adam's first moment after one step) and in the images; and whether all agree.
    """
    widths = (16, 8, 4)[-dcgan.n_doublings(config.data.image_size) :]
    scene = step.make_scene(Point(config.gates.variant, 1, widths), config, dataset)
    memory = memory_at([widths], config.gates.variant, config, scene.trainer.networks.n_classes)
    here, cpu = jax.devices()[0], jax.devices("cpu")[0]

    def on(device: jax.Device) -> dict[str, Any]:
        computed = {}
        for name, (function, arguments) in step.parts(scene).items():
            state, _ = jax.jit(function)(*jax.device_put((scene.state, *arguments), device))
            optimiser = state.generator_optimiser if name == "generator" else state.discriminator_optimiser
            computed[name] = jax.device_get(optax.tree.get(optimiser, "mu"))
        with jax.default_device(device):
            computed["images"] = memory.sample_index(0, 8, jax.random.key(0))
        return computed

    differences = {}
    for precision in ("highest", "default"):
        with jax.default_matmul_precision(precision):
            ours, theirs = on(here), on(cpu)
        differences[precision] = {name: _difference(ours[name], theirs[name]) for name in ours}
    return differences | {"agrees": max(differences["highest"].values()) < _TOLERANCE}


def _difference(ours: Any, theirs: Any) -> float:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)) for a, b in pairs)


def learn(config: Config, dataset: Dataset, deadline: float) -> dict[str, Any]:
    """Learns the data set, one class a task, until it is learnt or time is up."""
    stream = data.class_incremental(
        dataset.resized(config.data.image_size),
        held_out=config.data.held_out,
        protocol=config.protocol,
        seed=config.seed,
    )
    watch = Stopwatch(deadline)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        with contextlib.suppress(TimeIsUp):
            Learner(config, devices=1, callbacks=[watch]).fit(stream, workdir)
        seconds = time.perf_counter() - begun
        file = Path(workdir) / "summary.json"
        summary = json.loads(file.read_text()) if file.exists() else {}
    finished = summary.get("finished_tasks", 0)
    for line in watch.tasks:
        epochs = line.pop("epochs")
        per_epoch = statistics.median(epochs) if epochs else math.nan
        line |= {"epochs": len(epochs), "iteration_seconds": per_epoch / line["steps"]}
    return {
        "seconds": seconds,
        "finished_tasks": finished,
        "of_tasks": stream.n_tasks,
        "tasks": watch.tasks,
        "phase_seconds": summary.get("seconds"),
        "programs": summary.get("programs"),
        "average": summary.get(f"A_{finished}"),
    }


def agreement_table(found: dict[str, Any]) -> str:
    """Returns the differences as text."""
    lines = []
    for precision in ("highest", "default"):
        differences = ", ".join(f"{name} {value:.1e}" for name, value in found[precision].items())
        lines.append(f"against the CPU, precision {precision}: {differences}")
    return "\n".join(lines)


def run_table(variant: str, run: dict[str, Any]) -> str:
    """Returns the figures of a run as text."""
    lines = [
        f"{variant}: {run['finished_tasks']} of {run['of_tasks']} tasks in {run['seconds']:.1f} s; "
        f"phases {run['phase_seconds']}; accuracy {run['average']}"
    ]
    for task, line in enumerate(run["tasks"]):
        whole = f"{line['seconds']:7.1f} s" if "seconds" in line else "cut short"
        lines.append(
            f"  task {task}: {whole}, {line['epochs']} epochs of {line['steps']} iterations of "
            f"{1e3 * line['iteration_seconds']:.2f} ms, widths {line['widths']} in {line['physical_widths']}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Checks, times and runs; adds a record after each, so that an interrupted call keeps what it found."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, required=True, help="file that holds x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON Lines; lines are added")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything; a run ends with its epoch")
    names = [point.name for point in POINTS]
    parser.add_argument("--points", nargs="*", choices=names, default=["dgma-9", "dgmw-9"], help="steps to time")
    variants = get_args(Variant)
    parser.add_argument("--variants", nargs="*", choices=variants, default=variants, help="runs to do, in this order")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="of steps and runs")
    options = parser.parse_args(argv)
    machine.check(options.precision, options.out)
    dataset = data.from_npz(options.npz)
    keep = partial(machine.keep, options.out, images=dataset.name, precision=options.precision)

    def at(config: Config) -> Config:
        return config.with_changes(precision=options.precision)

    seen = dataset.resized(settings("dgma").data.image_size)
    small = settings("dgma").with_changes(batch_size=16, discriminator_width=8, generator_width=4)
    found = agreement(small, seen)
    print(agreement_table(found), flush=True)
    keep(agreement=found, **machine.peak_bytes())
    with machine.compiled_once():
        for point in (point for point in POINTS if point.name in options.points):
            if time.perf_counter() - begun < 60 * _STEP_SHARE * options.minutes:
                measured = step.measure(point, at(settings(point.variant)), seen, seconds=1.0)
                print(step.table(point.name, measured), flush=True)
                keep(point=point.name, **measured)
    deadline = begun + 60 * options.minutes
    for variant in options.variants:
        if time.perf_counter() < deadline:
            run = learn(at(preset("paper-mnist", variant)), dataset, deadline)
            print(run_table(variant, run), flush=True)
            keep(run=variant, **run, **machine.peak_bytes())
    print(machine.peak_in_words())
    return 0 if found["agrees"] else 1


if __name__ == "__main__":
    sys.exit(exit_status(main))
