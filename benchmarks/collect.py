"""Collects what finished runs of the experiments came to, for a results page: a JSON file with a row for each.

A row has the run's name, seed, method, protocol, accuracies, forgetting, size, seconds, versions and all its settings,
and the commit and processor of the checkout that collects: run it where the runs were made. Rows of the same name and
commit are replaced; all others stay.

    python -m benchmarks.collect runs/cifar10-best-dgmw-seed* --out docs/results/beyond/runs.json
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, results
from dgm_jax.errors import UserError, exit_status
from dgm_jax.runs.folder import Workdir
from dgm_jax.system.files import write_json

_COPIED = ("seed", "method", "protocol", "A_5", "A_10", "forgetting", "parameters", "bytes", "begun_as", "seconds")


def row(workdir: Path) -> dict[str, Any]:
    """What a run came to; of one that was stopped before its last task, after its last finished one.

    Raises:
      UserError: if the folder holds no run with a finished task.
    """
    folder = Workdir(workdir)
    if not folder.summary.exists():
        raise UserError(f"{workdir} has no {folder.summary.name}; expected the workdir of a run with a finished task")
    summary = json.loads(folder.summary.read_text())
    found: dict[str, Any] = {"run": workdir.name, "finished_tasks": summary["finished_tasks"]}
    found |= {name: summary[name] for name in _COPIED if name in summary}
    if summary.get("capacity"):
        found["reused_by_the_last_task"] = reused(summary["capacity"], summary["finished_tasks"] - 1)
    return found | {name: summary[name] for name in ("device", "versions", "config")}


def reused(capacity: Sequence[Mapping[str, Any]], task: int) -> float:
    """Of the gates that a task opens, the share that earlier tasks had reserved."""
    own = [layer for layer in capacity if layer["task"] == task]
    return 1 - sum(layer["newly_reserved"] for layer in own) / sum(layer["used"] for layer in own)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads each folder, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR", help="folders of runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, added to")
    options = parser.parse_args(argv)
    where = {"commit": machine.commit(), "processor": machine.describe()["processor"]}
    new = [row(workdir) | where for workdir in options.workdirs]
    known = {(own["run"], own["commit"]) for own in new}
    write_json(
        options.out, [own for own in results.of(options.out, {}) if (own["run"], own["commit"]) not in known] + new
    )
    print(f"{len(new)} runs collected in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
