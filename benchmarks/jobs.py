"""A table of runs: one after the other on all cores, against several at once that share the cores out among them.

Both ways are measured in turns, each in a new folder and without compiled programs from before. The runs are those of
`table --quick`, so that the ratio holds for that table.

    python -m benchmarks.jobs --data-dir DIR --out jobs.jsonl              # all of `table --quick`: hours
    python -m benchmarks.jobs --data digits --methods joint er finetune    # minutes
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from dgm_jax.errors import UserError, exit_status


def measure(words: list[str], jobs: int) -> dict[str, Any]:
    """Makes a table with this number of jobs at once; returns the seconds, and the CPU seconds of all processes."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(Path(scratch) / "programs")}
        command = [sys.executable, "-m", "dgm_jax", "table", "--quick", *words, "--jobs", str(jobs)]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([*command, "--runs", str(Path(scratch) / "runs")], env=environment)
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise UserError(f"{' '.join(command)} ended with status {done.returncode}; its output is above")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"jobs": jobs, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}


def main(
    *,
    data: tuple[str, ...] = ("digits", "mnist-500"),
    methods: tuple[str, ...] = (),
    seeds: str = "0",
    jobs: int = 2,
    rounds: int = 1,
    data_dir: Path | None = None,
    out: Path | None = None,
) -> None:
    """Measures both ways in turns.

    Args:
      data: data sets of the table.
      methods: methods of the table; none: all of them.
      seeds: seeds of the table.
      jobs: how many runs at once; their number is compared with one.
      rounds: how often each way is measured.
      data_dir: folder that holds the data sets.
      out: file to add a line to for each round.
    """
    machine.check("float32", out)
    words = ["--data", *data, "--seeds", seeds]
    words += ["--methods", *methods] if methods else []
    words += ["--data-dir", str(data_dir)] if data_dir else []
    for _ in range(rounds):
        one, several = measure(words, 1), measure(words, jobs)
        found = {"data": data, "methods": methods, "seeds": seeds, "one": one, "several": several}
        found |= {f"ratio_of_{name}": round(several[name] / one[name], 3) for name in ("seconds", "cpu_seconds")}
        print(json.dumps(found), flush=True)
        machine.keep(out, **found)


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.jobs", description=__doc__)))
