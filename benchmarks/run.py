"""A whole run, started as a user would: its seconds by phase and by task, its programs, its memory.

Each run is done without compiled programs from before (cold), and with those of the first run (warm).

    python -m benchmarks.run --out run.jsonl                       # ten tasks of digits, both variants
    python -m benchmarks.run --seeds 0,1,2                         # and several seeds side by side
    python -m benchmarks.run --command "joined --of digits,mnist" --variants dgmw --no-warm

With --against, runs of this checkout and of another one take turns; the output is the share of the seconds of the other
that this one takes:

    git worktree add ../before COMMIT
    python -m benchmarks.run --against ../before --rounds 3
    python -m benchmarks.run --against ../before --command "mnist --preset best --train-per-class 500"
"""

import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from dgm_jax.config import Variant
from dgm_jax.data import Dataset
from dgm_jax.errors import exit_status

_ENDS = 5  # Number of tasks at each end of a run whose times are compared.


@dataclass(frozen=True)
class Child:
    """What is known of a process that has ended."""

    begun: float  # The `time.time` of its start.
    seconds: float
    cpu_seconds: float
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


def compare(command: Sequence[str], against: Path, rounds: int, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Runs an experiment of this checkout and of another in turns.

    Args:
      command: what follows `python -m`; --workdir is added.
      against: the other checkout.
      rounds: how often.
      kinds: as for `measure`.

    Returns:
      For each kind: the medians over rounds of this checkout's wall and CPU seconds and of their ratios to the other's,
      the medians of the seconds of each phase, and whether both ended with the same accuracies in each round.
    """
    runs: dict[str, list[list[tuple[Child, Any]]]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            for kind, found in runs.items():
                found.append([])
                for who, checkout in (("here", Path(__file__).parents[1]), ("against", against.resolve())):
                    environment = os.environ | {
                        "JAX_COMPILATION_CACHE_DIR": f"{scratch}/programs-{who}",
                        "PYTHONPATH": str(checkout),
                    }
                    workdir = Path(scratch) / f"{kind}-{who}"
                    words = [sys.executable, "-m", *command, "--workdir", str(workdir)]
                    child = run_child(words, environment, checkout)
                    found[-1].append((child, json.loads((workdir / "summary.json").read_text())))
                    print(
                        f"round {number}, {kind}, {who}: {child.seconds:.1f} s, CPU {child.cpu_seconds:.1f}", flush=True
                    )
    return [{"kind": kind, **compared(found)} for kind, found in runs.items()]


def compared(rounds: Sequence[Sequence[tuple[Child, Any]]]) -> dict[str, Any]:
    """The figures of `compare`, of rounds of one kind: in each, this checkout's run and the other's, with summaries."""
    last = [[summary[f"A_{summary['final']}"] for _, summary in pair] for pair in rounds]
    figures: dict[str, Any] = {}
    for name in ("seconds", "cpu_seconds"):
        figures[name] = statistics.median(getattr(here, name) for (here, _), _ in rounds)
        ratios = [getattr(here, name) / getattr(other, name) for (here, _), (other, _) in rounds]
        figures[f"ratio_{name}"] = statistics.median(ratios)
    for i, who in enumerate(("here", "against")):
        phases = [pair[i][1]["seconds"] for pair in rounds]
        figures[f"phases_{who}"] = {name: statistics.median(found[name] for found in phases) for name in phases[0]}
    return figures | {"rounds": len(rounds), "same_accuracy": all(here == other for here, other in last)}


def run_child(command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> Child:
    """Runs a command in a folder to its end and measures its time and memory; its output goes to stderr.

    Raises:
      subprocess.CalledProcessError: if it fails.
    """
    begun, clock = time.time(), time.perf_counter()
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=sys.stderr)
    try:
        _, status, usage = os.wait4(process.pid, 0)  # `getrusage` would report the largest child so far.
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds, cpu_seconds = time.perf_counter() - clock, usage.ru_utime + usage.ru_stime
    return Child(begun, seconds, cpu_seconds, machine.in_bytes(usage.ru_maxrss))


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
        "cpu_seconds": child.cpu_seconds,
        "phase_seconds": summary["seconds"],
        "other_seconds": child.seconds - sum(summary["seconds"].values()),
        "programs": summary["programs"],
        "task_seconds": seconds,
        "task_widths": widths,
        **growth(seconds, widths),
        "peak_host_bytes": child.peak_host_bytes,
        "memory_bytes": summary["bytes"]["memory"]["total"],
        **remembered(workdir),
    }


def remembered(workdir: Path) -> dict[str, Any]:
    """Mean accuracies of classes by the consolidated classifier, each after a number of tasks: a list of pairs.

    "accuracy" is that of all classes learnt, "oldest_classes" that of those which were learnt at the first reading.
    """
    with (workdir / "accuracy_matrix.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["reading"] == "consolidated"]
    rows = []
    for line in lines:
        n_tasks = int(line.pop("after_task")) + 1
        known = {label: float(share) for label, share in line.items() if label.isdecimal() and share}
        if known:
            rows.append((n_tasks, known))
    oldest = rows[0][1]
    return {
        "accuracy": [(n_tasks, statistics.mean(known.values())) for n_tasks, known in rows],
        "oldest_classes": [(n_tasks, statistics.mean(known[label] for label in oldest)) for n_tasks, known in rows],
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
            "  number of tasks, accuracy of all classes, accuracy of the classes of the first reading: "
            + ", ".join(
                f"{n_tasks}: {100 * all_classes:.1f} {100 * oldest:.1f}"
                for (n_tasks, all_classes), (_, oldest) in zip(found["accuracy"], found["oldest_classes"], strict=True)
            ),
        ]
    return "\n".join(lines)


def main(
    command: str = "digits",
    variants: Sequence[Variant] = ("dgma", "dgmw"),
    warm: bool = True,
    seeds: str | None = None,
    against: Path | None = None,
    rounds: int = 1,
    out: Path | None = None,
) -> None:
    """Runs an experiment, prints tables, and writes records.

    Args:
      command: the experiment and its options.
      variants: those to run; --against takes the command as it is.
      warm: whether each run is done again with the programs that the first one compiled.
      seeds: seeds to run side by side as well, e.g. 0,1,2.
      against: another checkout; compares its runs of the command with those of this one, and does nothing else.
      rounds: with --against, how often each is run.
      out: file of JSON Lines; a line for each run is added.
    """
    machine.check("float32", out)
    words, kinds = shlex.split(f"experiments.{command}"), ["cold", "warm"] if warm else ["cold"]
    if against is not None:
        for found in compare(words, against, rounds, kinds):
            ratios = ", ".join(f"{name} {found[f'ratio_{name}']:.2f}" for name in ("seconds", "cpu_seconds"))
            same = "the same" if found["same_accuracy"] else "another"
            print(f"{found['kind']}: this checkout's share of the other's: {ratios}; {same} accuracy", flush=True)
            machine.keep(out, against=machine.commit(against), command=command, **found)
        return
    for variant in variants:
        with_variant = [*words, "--variant", variant]
        runs = measure(with_variant, kinds)
        print(table(variant, runs), flush=True)
        for kind, found in runs.items():
            machine.keep(out, command=command, variant=variant, kind=kind, **found)
        if seeds:
            several = measure_seeds(with_variant, seeds, runs["cold"]["seconds"])
            machine.keep(out, command=command, variant=variant, kind="seeds side by side", **several)
            print(
                f"  seeds {seeds} side by side: {several['seconds']:.1f} s, "
                f"{several['ratio_to_one_seed']:.2f} x one seed; peak {several['peak_host_bytes'] / 1e9:.2f} GB",
                flush=True,
            )


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.run", description=__doc__)))
