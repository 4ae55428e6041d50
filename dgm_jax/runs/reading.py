"""What a page says of a run, read from the files in its folder; of a run in progress, as far as it has come."""

import csv
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.errors import UserError
from dgm_jax.runs.folder import Workdir
from dgm_jax.system import files

Matrix = list[list[float | None]]  # [after task][class], None where it is not known.


class NoRun(UserError, ValueError):
    """A folder that is no run's, or whose files cannot be read."""


@dataclass(frozen=True)
class RunFiles:
    """What lies in the folder of a run, checked."""

    path: Path
    config: dict[str, Any]  # Settings.
    stream: dict[str, Any]  # What the data and their order are: "dataset", "tasks", ...
    summary: dict[str, Any] | None  # None before the first task is over.
    matrices: dict[str, Matrix]  # By reading.
    epochs: list[dict[str, Any]]  # Lines of metrics.jsonl.
    drawn: list[dict[str, np.ndarray]]  # After each task: "labels" [classes] and "images", uint8 [classes, n, h, w, c].
    real: dict[int, np.ndarray]  # By class index: real images, uint8 [n, h, w, c], if the run was to keep some.
    commands: list[str]  # That began the run and went on with it.

    @property
    def protocol(self) -> str:
        """Of the run."""
        return str(self.config["protocol"])

    @property
    def method(self) -> str:
        """What learnt: a variant of DGM, or a baseline."""
        return str(self.config["variant"] if self.config["method"] == "dgm" else self.config["method"])

    @property
    def n_tasks(self) -> int:
        """Of the whole run."""
        return len(self.stream["tasks"])

    @property
    def finished_tasks(self) -> int:
        """So far."""
        return 0 if self.summary is None else int(self.summary["finished_tasks"])

    @property
    def readings(self) -> list[str]:
        """The classifiers that are read; the first is the one that counts."""
        return [] if self.summary is None else list(self.summary["forgetting"])

    @property
    def names(self) -> list[str]:
        """Of the classes seen so far, in their order."""
        if self.summary is None:
            return []
        return list(self.summary["class_names"][: self.n_seen(self.finished_tasks - 1)])

    def check(self) -> None:
        """Makes sure that there is what a page needs; raises KeyError, TypeError or ValueError if not."""
        n_classes = self.n_seen(self.finished_tasks - 1)
        for name in ("batch_size", "epochs", "seed", "protocol", "method", "variant"):
            _ = self.config[name]
        if self.summary is not None:
            for name in ("final", "finished", "forgetting", "bytes", "seconds", "device", "versions", "confusion"):
                _ = self.summary[name]
            for name in ("total", "shared_weights", "task_parameters", "masks"):
                _ = self.summary["bytes"]["memory"][name] if self.summary.get("capacity") else None
            for reading in self.readings:
                self.averages(reading)
                if len(self.matrices[reading]) != self.finished_tasks:
                    raise ValueError(f"accuracies of {len(self.matrices[reading])} tasks, not {self.finished_tasks}")
            if len(self.names) != n_classes:
                raise ValueError(f"{len(self.names)} names for {n_classes} classes")

    def n_seen(self, task: int) -> int:
        """Classes met once a task is over."""
        return sum(len(labels) for labels in self.stream["tasks"][: task + 1])

    def averages(self, reading: str) -> list[float]:
        """A_t after each task so far."""
        summary = self.summary or {}
        return [summary[f"A_{self.n_seen(t)}"][reading]["macro"] for t in range(self.finished_tasks)]

    def rows(self, task: int) -> list[dict[str, Any]]:
        """What a task used of each layer."""
        return [row for row in (self.summary or {}).get("capacity", []) if row["task"] == task]


def read(workdir: str | Path) -> RunFiles:
    """Reads the folder of a run.

    Raises:
      NoRun: if it is none, or a file in it cannot be read; the text says which.
    """
    folder = Workdir(workdir)
    if not folder.path.is_dir():
        raise NoRun(f"{folder.path}: no such folder; expected the --workdir of a run")
    if not folder.config.is_file():
        several = folder.seeds()
        if several:
            raise NoRun(f"{folder.path} holds the runs of several seeds; name them: {', '.join(several)}")
        raise NoRun(f"{folder.path} has no config.json; expected the --workdir of a run")
    config = folder.read_config()
    try:
        tasks = len(config["stream"]["tasks"])
        summary = json.loads(folder.summary.read_text()) if folder.summary.exists() else None
        done = 0 if summary is None else int(summary["finished_tasks"])
        commands = folder.commands.read_text().splitlines() if folder.commands.exists() else []
        run = RunFiles(
            path=folder.path,
            config=config["config"],
            stream=config["stream"],
            summary=summary,
            # Of a run in progress these may be a task ahead of the summary.
            matrices={reading: rows[:done] for reading, rows in _matrices(folder.accuracy).items()},
            epochs=[
                line for line in files.read_jsonl(folder.metrics) if line["kind"] == "epoch" and line["task"] < tasks
            ],
            drawn=list(_drawn(sorted(folder.samples.glob("after_task_*.npz"))[:done])),
            real={
                int(name.removeprefix("class_")): images
                for kept in _drawn(sorted(folder.samples.glob("real_*.npz")))
                for name, images in kept.items()
            },
            commands=list(dict.fromkeys(commands)),
        )
        run.check()
        return run
    except (OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise NoRun(f"a file in {folder.path} cannot be read ({type(error).__name__}: {error})") from error


def _matrices(path: Path) -> dict[str, Matrix]:
    matrices: dict[str, Matrix] = defaultdict(list)
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.reader(file):
                if row[0] != "protocol":
                    matrices[row[1]].append([float(cell) if cell else None for cell in row[3:]])
    return dict(matrices)


def _drawn(paths: Sequence[Path]) -> Iterable[dict[str, np.ndarray]]:
    for path in paths:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            yield dict(arrays)
