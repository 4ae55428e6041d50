"""The folder of a run: its paths, and how its files are written: whole or not at all."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.config.formats import FORMAT_VERSION as FORMAT_VERSION  # Of config.json.
from dgm_jax.system import exchange, files
from dgm_jax.system.lock import RunLock


class Workdir:
    """Paths and writers of a run's folder."""

    def __init__(self, path: str | Path) -> None:
        """Names the folder; touches nothing."""
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.accuracy = self.path / "accuracy_matrix.csv"
        self.capacity = self.path / "capacity.csv"
        self.predictions = self.path / "predictions.npz"
        self.samples = self.path / "samples"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.report = self.path / "report.html"
        self.begun_from = self.path / "begun_from.json"  # Of a run that goes on from a task of another one.
        self.commands = self.path / "commands.txt"  # The commands that began and continued the run, one a line.

    def settle(self) -> None:
        """Finishes what a kill interrupted: a class that was being forgotten is gone once the folder is opened.

        Raises:
          WorkdirInUse: if a process is doing this right now.
          WorkdirError: if the folder cannot be written.
        """
        if exchange.is_pending(self.path):
            with RunLock(self.path):
                exchange.finish(self.path)

    def seeds(self) -> list[str]:
        """Names of the folders of runs that lie in this one: those of several seeds, trained side by side."""
        return sorted(path.parent.name for path in self.path.glob("seed*/config.json"))

    def saved(self) -> list[str]:
        """Names of the checkpoints, which are others whenever one was saved."""
        found = [*self.checkpoints.glob("*"), *self.checkpoints.glob("within_task/*")]
        return sorted(str(path.relative_to(self.checkpoints)) for path in found if path.name.isdecimal())

    def drawn(self) -> list[Path]:
        """The files of what the memory drew, in the order of tasks; from task 100 on, names have a digit more."""
        return sorted(self.samples.glob("after_task_*.npz"), key=lambda path: (len(path.name), path.name))

    def named_files(self) -> dict[str, str]:
        """What a person may open, by name; only what is there."""
        named = {
            "summary": self.summary,
            "accuracy": self.accuracy,
            "capacity": self.capacity,
            "samples": self.samples,
            "page": self.report,
            "metrics": self.metrics,
            "checkpoints": self.checkpoints,
        }
        return {name: str(path) for name, path in named.items() if path.exists()}

    def write_accuracy(self, matrices: Mapping[str, np.ndarray], names: Sequence[str], protocol: str) -> None:
        """Writes the accuracy of each class (columns) after each task (rows) for each reading."""
        header = ["protocol", "reading", "after_task", *names]
        rows = [
            [protocol, reading, t, *("" if np.isnan(a) else f"{a:.6f}" for a in row)]
            for reading, matrix in matrices.items()
            for t, row in enumerate(matrix)
        ]
        files.write_atomically(self.accuracy, _csv(header, rows))

    def write_predictions(self, classes: np.ndarray, predictions: Mapping[str, np.ndarray]) -> None:
        """Writes the class of each test image and what each reading predicts, as class indices [images]."""
        small = {name: indices.astype(np.uint16) for name, indices in {"class": classes, **predictions}.items()}
        files.write_npz(self.predictions, **small)

    def write_capacity(self, rows: Sequence[Mapping[str, Any]], protocol: str) -> None:
        """Writes what each task used of each layer."""
        if rows:
            header = ["protocol", *rows[0]]
            files.write_atomically(self.capacity, _csv(header, [[protocol, *row.values()] for row in rows]))


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
