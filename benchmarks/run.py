"""A whole run, as a person would start it: its seconds, phase by phase and task by task, its programs, its memory.

The digits run is done twice: with no compiled programs kept from before (cold), and with those of the first (warm).

    python -m benchmarks.run --json run.json                       # ten tasks of scikit-learn's digits, both variants
    python -m benchmarks.run --seeds 0,1,2                         # and several seeds side by side
    python -m benchmarks.run --classes 47 --data-dir DIR           # 47 short tasks, from MNIST's images

With --classes, the images of each class are dealt out to several made-up classes: accuracy then means nothing, but the
time of a task does not know that. It should grow no faster than the widths of the generator.
"""

import argparse
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
from benchmarks.step import load_images
from dgm_jax.config import Variant
from dgm_jax.data import Dataset
from dgm_jax.errors import exit_status
from dgm_jax.system.files import write_json

_SHORT = ("--epochs", "2", "--consolidation-steps", "100", "--consolidation-samples", "200")
_ENDS = 5  # Tasks at either end of a run, whose times are compared.


@dataclass(frozen=True)
class Child:
    """A process that is over."""

    begun: float  # As `time.time` tells it.
    seconds: float
    peak_host_bytes: int


def measure(command: Sequence[str], kinds: Sequence[str] = ("cold", "warm")) -> dict[str, Any]:
    """Runs an experiment cold, and again warm, each in a new folder.

    Args:
      command: what comes after `python -m`; --workdir is added.
      kinds: names of the runs; the first finds no programs, each later one those of the runs before it.

    Returns:
      What `read` finds, under the name of each run.
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
      one: seconds of the same with one seed, cold.
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
    """Runs a command to its end and asks the system what it took; its output goes where ours does not: to stderr.

    Raises:
      subprocess.CalledProcessError: if it fails.
    """
    begun, clock = time.time(), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    try:
        _, status, usage = os.wait4(process.pid, 0)  # Of this child alone; `getrusage` knows only the largest so far.
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
    # A task's picture is drawn when it ends: the times of these files tell the tasks apart.
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
    """How much longer the last tasks took than the first ones, and how much wider they were; medians of up to five.

    The very first task, which includes the start of the process, is left out where there are others.
    """
    total = [sum(own) for own in widths]
    few = min(_ENDS, max(1, (len(total) - 1) // 2))
    first = slice(1, 1 + few) if len(total) > 1 else slice(0, 1)
    grown = [statistics.median(own[-few:]) / statistics.median(own[first]) for own in (seconds, total)]
    return {"ratio_seconds": grown[0], "ratio_width": grown[1], "ratio_seconds_to_width": grown[0] / grown[1]}


def dealt_out(dataset: Dataset, n_classes: int) -> Dataset:
    """Makes `n_classes` classes of a data set's: each is dealt out, image by image, to several (or left out)."""
    labels = np.asarray(dataset.labels)
    n = len(labels)

    def deal(images: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        new = np.full(len(y), -1)
        for i, label in enumerate(labels[:n_classes]):
            rows = np.flatnonzero(y == label)
            hands = len(range(i, n_classes, n))
            new[rows] = i + n * (np.arange(len(rows)) % hands)
        return images[new >= 0], new[new >= 0]

    (x_train, y_train), (x_test, y_test) = deal(dataset.x_train, dataset.y_train), deal(dataset.x_test, dataset.y_test)
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
    """Lays the figures out for people."""
    lines = []
    for kind, own in runs.items():
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in own["phase_seconds"].items())
        tasks = ", ".join(
            f"{seconds:.1f} ({'-'.join(map(str, widths))})"
            for seconds, widths in zip(own["task_seconds"], own["task_widths"], strict=True)
        )
        lines += [
            f"{name}, {kind}: {own['seconds']:.1f} s ({phases}, other {own['other_seconds']:.1f}); "
            f"{len(own['programs'])} shapes of programs; peak {own['peak_host_bytes'] / 1e9:.2f} GB",
            f"  seconds of each task (widths): {tasks}",
            f"  last tasks to first: {own['ratio_seconds']:.2f} x the time, {own['ratio_width']:.2f} x the width",
        ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs both variants, prints tables, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, help="so many made-up classes, a task each, in place of the digits run")
    parser.add_argument("--seeds", help="besides, so many seeds side by side, e.g. 0,1,2")
    parser.add_argument("--data-dir", type=Path, help="folder that holds MNIST (default: where data sets usually are)")
    parser.add_argument("--variants", nargs="+", default=get_args(Variant), choices=get_args(Variant))
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(argv)
    machine.check("float32", options.json)
    result: dict[str, Any] = {"machine": machine.describe(), "variants": {}}
    with tempfile.TemporaryDirectory() as scratch:
        command = ["experiments.digits"]
        if options.classes:
            made = dealt_out(load_images(options.data_dir, 32, needed=True), options.classes)
            command = ["experiments.arrays", "--npz", str(write_npz(made, Path(scratch) / "made_up.npz")), *_SHORT]
        for variant in options.variants:
            own = [*command, "--variant", variant]
            result["variants"][variant] = runs = measure(own, ("cold",) if options.classes else ("cold", "warm"))
            print(table(variant, runs), flush=True)
            if options.seeds:
                side_by_side = measure_seeds(own, options.seeds, runs["cold"]["seconds"])
                result.setdefault("side_by_side", {})[variant] = side_by_side
                print(
                    f"  seeds {options.seeds} side by side: {side_by_side['seconds']:.1f} s, "
                    f"{side_by_side['ratio_to_one_seed']:.2f} x one seed; "
                    f"peak {side_by_side['peak_host_bytes'] / 1e9:.2f} GB",
                    flush=True,
                )
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    sys.exit(exit_status(main))
