"""Accuracy and wall-clock time of the main job, over seeds: the table of README's "Results".

Runs the experiments as a person would, one after the other, and collects their summaries. What is finished already is
not run again; the time of a run that was interrupted is not known, and so is not reported.

    python -m benchmarks.core --data-dir DIR --seeds 0,1,2 --out docs/results/core.json
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arguments import whole_numbers
from dgm_jax.data.tfds import default_folder
from dgm_jax.system.files import write_json


@dataclass(frozen=True)
class Row:
    """One line of the table: an experiment and its arguments."""

    name: str
    experiment: str
    arguments: tuple[str, ...] = ()

    def command(self, seed: int, data_dir: Path) -> list[str]:
        """The command of one run, as a first run would be: it compiles its programs itself."""
        data = () if self.experiment == "digits" else ("--data-dir", str(data_dir))
        own = (*self.arguments, *data, "--seed", str(seed), "--no-compilation-cache")
        return ["-m", f"experiments.{self.experiment}", *own]


_MNIST_500 = ("--train-per-class", "500")
ROWS = tuple(
    Row(f"{name}-{variant}", experiment, (*arguments, "--variant", variant))
    for name, experiment, arguments in (
        ("digits", "digits", ()),
        ("mnist-500", "mnist", _MNIST_500),
        ("mnist-500-10-epochs", "mnist", (*_MNIST_500, "--epochs", "10")),
    )
    for variant in ("dgma", "dgmw")
)


def run(row: Row, seed: int, data_dir: Path, runs: Path) -> dict[str, Any]:
    """Runs one experiment and returns its summary with "minutes": NaN if it was not run in one piece."""
    workdir = runs / f"{row.name}-seed{seed}"
    timing = workdir / "wall_clock.json"
    command = [*row.command(seed, data_dir), "--workdir", str(workdir)]
    is_new = not workdir.exists()
    begun = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True)  # Of a finished run: checks its settings and reports it.
    if is_new:
        write_json(timing, {"minutes": (time.perf_counter() - begun) / 60})
    summary = json.loads((workdir / "summary.json").read_text())
    measured = json.loads(timing.read_text()) if timing.exists() else {"minutes": math.nan}
    return summary | measured | {"command": " ".join(["python", *row.command(seed, data_dir)])}


def collect(row: Row, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of what the table shows."""

    def spread(values: list[float]) -> dict[str, Any]:
        known = [v for v in values if not math.isnan(v)]
        return {
            "mean": statistics.mean(known) if known else None,
            "sd": statistics.stdev(known) if len(known) > 1 else None,
            "values": [None if math.isnan(v) else v for v in values],
        }

    return {
        "row": row.name,
        "protocol": summaries[0]["protocol"],
        "seeds": [s["seed"] for s in summaries],
        **{
            f"{average}_{reading}": spread([s[average][reading]["macro"] for s in summaries])
            for average in ("A_5", "A_10")
            for reading in ("consolidated", "auxiliary")
        },
        "forgetting_consolidated": spread([s["forgetting"]["consolidated"] for s in summaries]),
        "minutes": spread([s["minutes"] for s in summaries]),
        "widths": [s["widths"] for s in summaries],
        "memory_bytes": spread([s["bytes"]["memory"]["total"] for s in summaries]),
        "device": summaries[0]["device"],
        "versions": summaries[0]["versions"],
        "command": summaries[0]["command"],
    }


def main() -> None:
    """Runs the chosen rows and writes one JSON of all that are finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=default_folder(), help="folder of data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/core"))
    parser.add_argument("--seeds", type=whole_numbers, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    table = []
    for row in (row for row in ROWS if row.name in options.rows):
        table.append(collect(row, [run(row, seed, options.data_dir, options.runs) for seed in options.seeds]))
        write_json(options.out, table)
        reached, minutes = table[-1]["A_10_consolidated"], table[-1]["minutes"]
        print(f"{row.name}: A_10 {reached['mean']:.4f}, sd {reached['sd']}; minutes {minutes['values']}", flush=True)


if __name__ == "__main__":
    main()
