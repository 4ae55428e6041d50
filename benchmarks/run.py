"""A whole run, started as a user would: its seconds by phase and by task, its programs, its memory.

The digits run is done twice: without compiled programs from before (cold), and with those of the first run (warm).

    python -m benchmarks.run --out run.jsonl                       # ten tasks of digits, both variants
    python -m benchmarks.run --seeds 0,1,2                         # and several seeds side by side
    python -m benchmarks.run --classes 47 --data-dir DIR           # 47 short tasks, from MNIST's images

With --classes, the images of each class are split into several artificial classes. Accuracy then means nothing, but the
time of a task is real: it should grow no faster than the widths of the generator.
"""

import csv
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks import machine
from dgm_jax import data
from dgm_jax.config import Variant
from dgm_jax.data import Dataset
from dgm_jax.errors import exit_status

_SHORT = ["--epochs=2", "--consolidation-steps=100", "--consolidation-samples=200"]
_ENDS = 5  # Number of tasks at each end of a run whose times are compared.


@dataclass(frozen=True)
class Child:
    """What is known of a process that has ended."""

    begun: float  # The `time.time` of its start.
    seconds: float
    peak_host_bytes: int


def measure(command: Sequence[str], kinds: Sequence[str] = ("cold", "warm")) -> dict[str, Any]:
    """Runs an experiment cold, and again warm, each in a new folder.

    Args:
      command: what follows `python -m`; --workdir is added.
      kinds: names of the runs; the first finds no compiled programs, each later one those of the runs before it.

    Returns:
      What `read` finds for each run, by name.
    """
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(Path(scratch) / "programs")}
        for kind in kinds:
            workdir = Path(scratch) / kind
            child = run_child([sys.executable, "-m", *command, "--workdir", str(workdir)], environment)
            results[kind] = read(workdir, child)
    return results


def measure_seeds(command: Sequence[str], seeds: str, one: float) -> dict[str, Any]:
    """Runs an experiment with several seeds side by side, cold.

    Args:
      command: as for `measure`.
      seeds: e.g. "0,1,2".
      one: seconds of the same experiment with one seed, cold.
    """
    with tempfile.TemporaryDirectory() as scratch:
        words = ["--seeds", seeds, "--no-compilation-cache", "--workdir", str(Path(scratch) / "runs")]
        child = run_child([sys.executable, "-m", *command, *words], os.environ)
    return {
        "seeds": seeds,
        "seconds": child.seconds,
        "ratio_to_one_seed": child.seconds / one,
        "peak_host_bytes": child.peak_host_bytes,
    }


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> Child:
    """Runs a command to its end and measures its time and memory; its output goes to stderr, apart from ours.

    Raises:
      subprocess.CalledProcessError: if it fails.
    """
    begun, clock = time.time(), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    try:
        _, status, usage = os.wait4(process.pid, 0)  # `getrusage` would report the largest child so far.
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Child(begun, time.perf_counter() - clock, machine.in_bytes(usage.ru_maxrss))


def read(workdir: Path, child: Child) -> dict[str, Any]:
    """Collects the figures of a finished run from its folder."""
    summary = json.loads((workdir / "summary.json").read_text())
    with (workdir / "capacity.csv").open() as file:
        rows = list(csv.DictReader(file))
    n_tasks = summary["finished_tasks"]
    widths = [[int(row["width"]) for row in rows if int(row["task"]) == task] for task in range(n_tasks)]
    # The picture of a task is written when the task ends: the times of these files are the ends of the tasks.
    ends = [(workdir / "samples" / f"after_task_{task:02d}.png").stat().st_mtime for task in range(n_tasks)]
    seconds = np.diff([child.begun, *ends]).tolist()
    return {
        "seconds": child.seconds,
        "phase_seconds": summary["seconds"],
        "other_seconds": child.seconds - sum(summary["seconds"].values()),
        "programs": summary["programs"],
        "task_seconds": seconds,
        "task_widths": widths,
        **growth(seconds, widths),
        "peak_host_bytes": child.peak_host_bytes,
        "memory_bytes": summary["bytes"]["memory"]["total"],
    }


def growth(seconds: Sequence[float], widths: Sequence[Sequence[int]]) -> dict[str, float]:
    """Compares the last tasks with the first ones in time and in width; medians of up to five tasks.

    The very first task, which includes the start of the process, is left out if there are others.
    """
    total = [sum(task_widths) for task_widths in widths]
    few = min(_ENDS, max(1, (len(total) - 1) // 2))
    first = slice(1, 1 + few) if len(total) > 1 else slice(0, 1)

    def ratio(values: Sequence[float]) -> float:
        return statistics.median(values[-few:]) / statistics.median(values[first])

    time_ratio, width_ratio = ratio(seconds), ratio(total)
    return {
        "ratio_seconds": time_ratio,
        "ratio_width": width_ratio,
        "ratio_seconds_to_width": time_ratio / width_ratio,
    }


def split_classes(dataset: Dataset, n_classes: int) -> Dataset:
    """Makes `n_classes` artificial classes: each class is split, image by image, into several (or is left out)."""
    labels = np.asarray(dataset.labels)
    n = len(labels)

    def split(images: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        new = np.full(len(y), -1)
        for i, label in enumerate(labels[:n_classes]):
            rows = np.flatnonzero(y == label)
            parts = len(range(i, n_classes, n))
            new[rows] = i + n * (np.arange(len(rows)) % parts)
        return images[new >= 0], new[new >= 0]

    x_train, y_train = split(dataset.x_train, dataset.y_train)
    x_test, y_test = split(dataset.x_test, dataset.y_test)
    names = {label: str(label) for label in range(n_classes)}
    return dataclasses.replace(
        dataset, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, class_names=names
    )


def write_npz(dataset: Dataset, path: Path) -> Path:
    """Writes a data set as `experiments.arrays` reads it."""
    arrays = {name: getattr(dataset, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez_compressed(path, **arrays)
    return path


def table(name: str, runs: Mapping[str, Any]) -> str:
    """Returns the figures as text."""
    lines = []
    for kind, found in runs.items():
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in found["phase_seconds"].items())
        tasks = ", ".join(
            f"{seconds:.1f} ({'-'.join(map(str, widths))})"
            for seconds, widths in zip(found["task_seconds"], found["task_widths"], strict=True)
        )
        lines += [
            f"{name}, {kind}: {found['seconds']:.1f} s ({phases}, other {found['other_seconds']:.1f}); "
            f"{len(found['programs'])} shapes of programs; peak {found['peak_host_bytes'] / 1e9:.2f} GB",
            f"  seconds of each task (widths): {tasks}",
            f"  last tasks to first: {found['ratio_seconds']:.2f} x the time, {found['ratio_width']:.2f} x the width",
        ]
    return "\n".join(lines)


def main(
    classes: int | None = None, seeds: str | None = None, data_dir: Path | None = None, out: Path | None = None
) -> None:
    """Runs both variants, prints tables, and writes records.

    Args:
      classes: number of artificial classes, a task each, instead of digits.
      seeds: seeds to run side by side as well, e.g. 0,1,2.
      data_dir: folder that holds MNIST (default: where data sets usually are).
      out: file of JSON Lines; a line for each run is added.
    """
    machine.check("float32", out)
    with tempfile.TemporaryDirectory() as scratch:
        command, kinds, named = ["experiments.digits"], ["cold", "warm"], {}
        if classes:
            mnist = data.load("mnist", data_dir or data.default_folder()).resized(32)
            artificial = split_classes(mnist, classes)
            file = write_npz(artificial, Path(scratch) / "artificial.npz")
            command, kinds, named = ["experiments.arrays", "--npz", str(file), *_SHORT], ["cold"], {"classes": classes}
        for variant in get_args(Variant):
            with_variant = [*command, "--variant", variant]
            runs = measure(with_variant, kinds)
            print(table(variant, runs), flush=True)
            for kind, found in runs.items():
                machine.keep(out, variant=variant, kind=kind, **named, **found)
            if seeds:
                several = measure_seeds(with_variant, seeds, runs["cold"]["seconds"])
                machine.keep(out, variant=variant, kind="seeds side by side", **named, **several)
                print(
                    f"  seeds {seeds} side by side: {several['seconds']:.1f} s, "
                    f"{several['ratio_to_one_seed']:.2f} x one seed; peak {several['peak_host_bytes'] / 1e9:.2f} GB",
                    flush=True,
                )


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.run", description=__doc__)))
