"""Collects the results of finished runs of the experiments: adds a line for each to a file of JSON Lines.

A line has the run's name, seed, protocol, accuracies, forgetting, size, seconds, device, versions and command, its
settings as differences from the nearest preset, and the commit and processor of the checkout that collects: run it
where the runs were made. A run that the file has already, by name and commit, is left as it is.

    python -m studies.collect runs/cifar10-best-dgmw-seed* --out results/runs.jsonl
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, records
from dgm_jax.errors import UserError, exit_status
from dgm_jax.methods import config_of
from dgm_jax.runs.folder import Workdir
from studies import results

_COPIED = (
    "protocol",
    "A_5",
    "A_10",
    "forgetting",
    "parameters",
    "bytes",
    "widths",
    "begun_as",
    "seconds",
    "device",
    "versions",
)


def row(workdir: Path) -> dict[str, Any]:
    """Returns what a run reached; for a run that was stopped early, what it reached after its last finished task.

    Raises:
      UserError: if the folder holds no run with a finished task.
    """
    folder = Workdir(workdir)
    if not folder.summary.exists():
        raise UserError(f"{workdir} has no {folder.summary.name}; expected the workdir of a run with a finished task")
    summary = json.loads(folder.summary.read_text())
    config = config_of(summary["config"])
    finished = summary["finished_tasks"]
    found = {"run": workdir.name, "finished_tasks": finished, "seed": config.seed, "variant": config.gates.variant}
    found |= results.described(config, results.nearest_preset(config, summary["dataset"]))
    found |= {name: summary[name] for name in _COPIED if name in summary}
    if summary.get("capacity"):
        found["reused_by_the_last_task"] = reused(summary["capacity"], finished - 1)
    if folder.commands.exists():
        found["command"] = folder.commands.read_text().splitlines()[0]
    return found


def reused(capacity: Sequence[Mapping[str, Any]], task: int) -> float:
    """Returns the share of the gates opened by a task that earlier tasks had reserved."""
    layers = [layer for layer in capacity if layer["task"] == task]
    return 1 - sum(layer["newly_reserved"] for layer in layers) / sum(layer["used"] for layer in layers)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads each folder, then writes their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR", help="folders of runs")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON Lines; lines are added")
    options = parser.parse_args(argv)
    where = {"commit": machine.commit(), "processor": machine.describe()["processor"]}
    rows = [row(workdir) | where for workdir in options.workdirs]
    known = {(record["run"], record["commit"]) for record in records.read(options.out)}
    new = [record for record in rows if (record["run"], record["commit"]) not in known]
    for record in new:
        records.append(options.out, record)
    print(f"{len(new)} runs added to {options.out}, which had {len(rows) - len(new)} of them already")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
