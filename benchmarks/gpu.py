"""All that is to be known of a GPU in one call of some minutes: is it right, how fast is a step, how fast is a run.

First a small case is computed here and on the CPU, and compared; then steps are timed as `benchmarks.step` does; then
MNIST is learnt at the authors' settings, 101 epochs a task, for as many tasks as fit into --minutes. Needs only JAX,
flax, optax and orbax if the images come from a file and are 32x32 already (docs/benchmarks.md says how to make one).

    python -m benchmarks.gpu --npz mnist32.npz --out gpu.json
    python -m benchmarks.gpu --data-dir DIR --out gpu.json --minutes 30 --variants dgmw
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
from dgm_jax.system.files import write_json

_TOLERANCE = 1e-3  # Of the largest entry: single precision, after three layers and back twice.
_STEP_SHARE = 0.4  # Of the minutes, after which no further point is timed.
_GRACE = 30.0  # Seconds after the last minute, at which a task in progress is cut short.


class TimeIsUp(Exception):
    """A run has used up its minutes."""


class Stopwatch(Callback):
    """Notes how long tasks and epochs take, and ends the run when its time is up."""

    def __init__(self, deadline: float) -> None:
        """Ends the run at this reading of `time.perf_counter`, after the task in progress."""
        self.deadline = deadline
        self.tasks: list[dict[str, Any]] = []

    def on_task_start(self, event: TaskStart) -> None:
        """Opens a line for the task."""
        line = {"widths": event.widths, "physical_widths": event.physical_widths, "steps": event.steps, "epochs": []}
        self.tasks.append(line)

    def on_epoch_end(self, event: EpochEnd) -> None:
        """Notes the epoch; of a task that takes far too long the rest is given up."""
        self.tasks[-1]["epochs"].append(event.seconds)
        if time.perf_counter() > self.deadline + _GRACE:
            raise TimeIsUp

    def on_task_end(self, event: TaskEnd) -> None:
        """Notes the task."""
        self.tasks[-1]["seconds"] = event.seconds
        if time.perf_counter() > self.deadline:
            raise TimeIsUp


def agreement(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Computes each step of an iteration, and drawn images, on the first device and on the CPU.

    Returns:
      For each precision of matrix products the largest difference of each part, relative to the largest entry of the
      array: of the gradients (Adam's first moment after one step) and of the images; and whether all agree.
    """
    widths = (16, 8, 4)[-dcgan.n_doublings(config.data.image_size) :]
    scene = step.make_scene(Point(config.gates.variant, 1, widths), config, dataset)
    memory = memory_at([widths], config.gates.variant, config, scene.trainer.n_classes)
    here, cpu = jax.devices()[0], jax.devices("cpu")[0]

    def on(device: jax.Device) -> dict[str, Any]:
        computed = {}
        for name, (function, arguments) in step.parts(scene).items():
            state, _ = jax.jit(function)(*jax.device_put((scene.state, *arguments), device))
            optimiser = state.generator_optimiser if name == "generator" else state.discriminator_optimiser
            computed[name] = jax.device_get(optax.tree.get(optimiser, "mu"))
        with jax.default_device(device):
            computed["images"] = memory.draw(0, 8, jax.random.key(0))
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
    """Learns the data set, a class a task, until it is learnt or time is up."""
    stream = data.class_incremental(
        dataset.resized(config.data.image_size), held_out=config.data.held_out, protocol=config.protocol, seed=config.seed
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


def table(result: dict[str, Any]) -> str:
    """Lays the figures out for people."""
    lines = []
    for precision, parts in result.get("agreement", {}).items():
        if precision != "agrees":
            differences = ", ".join(f"{name} {value:.1e}" for name, value in parts.items())
            lines.append(f"against the CPU, precision {precision}: {differences}")
    if result.get("points"):
        lines.append(step.table(result["points"]))
    for variant, own in result.get("runs", {}).items():
        lines.append(
            f"{variant}: {own['finished_tasks']} of {own['of_tasks']} tasks in {own['seconds']:.1f} s; "
            f"phases {own['phase_seconds']}; accuracy {own['average']}"
        )
        for task, line in enumerate(own["tasks"]):
            whole = f"{line['seconds']:7.1f} s" if "seconds" in line else "cut short"
            lines.append(
                f"  task {task}: {whole}, {line['epochs']} epochs of {line['steps']} iterations of "
                f"{1e3 * line['iteration_seconds']:.2f} ms, widths {line['widths']} in {line['physical_widths']}"
            )
    return "\n".join([*lines, f"peak memory: {machine.in_words(result)}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Checks, times and runs; writes JSON after each, so that a call cut off leaves what it found."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--data-dir", type=Path, help="folder that holds MNIST, read with TensorFlow Datasets")
    images.add_argument("--npz", type=Path, help="file that holds x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        help="for all, and half a one to finish a task",
    )
    names = [point.name for point in POINTS]
    parser.add_argument("--points", nargs="*", choices=names, default=["dgma-9", "dgmw-9"], help="steps to time")
    variants = get_args(Variant)
    parser.add_argument("--variants", nargs="*", choices=variants, default=variants, help="runs to do, in this order")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="of steps and runs")
    parser.add_argument("--compare", type=Path, help="JSON of benchmarks.step elsewhere, e.g. on a CPU")
    options = parser.parse_args(argv)
    machine.check(options.precision, options.out)
    old = json.loads(options.compare.read_text()) if options.compare else {}
    dataset = data.from_npz(options.npz) if options.npz else data.load("mnist", options.data_dir)
    result: dict[str, Any] = {"machine": machine.describe(), "images": dataset.name, "precision": options.precision}

    def keep() -> None:
        write_json(options.out, result | machine.peak_bytes())

    def at(config: Config) -> Config:
        return config.with_changes(precision=options.precision)

    seen = dataset.resized(settings("dgma").image_size)
    small = settings("dgma").with_changes(batch_size=16, discriminator_width=8, generator_width=4)
    result["agreement"] = agreement(small, seen)
    keep()
    result["points"] = {}
    with machine.compiled_once():
        for point in (point for point in POINTS if point.name in options.points):
            if time.perf_counter() - begun < 60 * _STEP_SHARE * options.minutes:
                result["points"][point.name] = step.measure(point, at(settings(point.variant)), seen, seconds=1.0)
                keep()
    result["runs"] = {}
    deadline = begun + 60 * options.minutes
    for variant in options.variants:
        if time.perf_counter() < deadline:
            result["runs"][variant] = learn(at(preset("paper-mnist", variant)), dataset, deadline)
            keep()
    result |= machine.peak_bytes()
    print(table(result))
    if old:
        print(step.comparison_table(result, old, options.compare))
    return 0 if result["agreement"]["agrees"] else 1


if __name__ == "__main__":
    sys.exit(exit_status(main))
