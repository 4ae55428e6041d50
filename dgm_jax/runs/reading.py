"""The one reader of a run's folder: its configuration, its summary, and all that a page shows."""

import csv
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dgm_jax.config import Config, flattened, unread_defaults, upgraded
from dgm_jax.data.dataset import composed
from dgm_jax.data.order import classes_of
from dgm_jax.errors import ConfigError, UserError, is_of_environment
from dgm_jax.metrics.intervals import Answers
from dgm_jax.runs.folder import FORMAT_VERSION, Workdir
from dgm_jax.runs.summary import Summary
from dgm_jax.system import files

if TYPE_CHECKING:  # JAX is slow to import.
    from dgm_jax.types import Scale

Matrix = list[list[float | None]]  # [after task][class], None where it is not known.


class NoRun(UserError, ValueError):
    """A folder that is no run's, or whose files cannot be read."""


@dataclass(frozen=True)
class StoredConfig:
    """What config.json says of a run."""

    settings: dict[str, Any]  # In their groups; under "removed", those that are no setting any more.
    stream: dict[str, Any] | None  # Describes the data and the order of classes; None in the earliest runs.
    class_names: tuple[str, ...] | None
    stages: tuple[int, ...]  # How many tasks came at once: a run can continue with new classes several times.
    before: list[dict[str, Any]]  # Earlier settings of the run in their groups, if it was resumed with others.
    format_version: int

    @property
    def flat(self) -> dict[str, Any]:
        """The settings by name; those added in later versions had their default value when this file was written."""
        return Config().flat() | flattened(self.settings)


def read_config(folder: Workdir) -> StoredConfig:
    """Reads config.json.

    Raises:
      ConfigError: if it cannot be read, or a newer version wrote it.
    """
    try:
        found = json.loads(folder.config.read_text("utf-8"))
        version = int(found["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if is_of_environment(error):
            raise
        raise ConfigError(f"{folder.config} cannot be read ({error}); choose another --workdir") from error
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{folder.path} was written in format {version}, this version of dgm_jax reads up to {FORMAT_VERSION}; "
            "upgrade dgm_jax or choose another --workdir"
        )
    stream, names = found.get("stream"), found.get("class_names")
    return StoredConfig(
        settings=upgraded(found.get("config", {})),
        stream=stream,
        class_names=None if names is None else tuple(map(composed, names)),
        stages=tuple(found.get("stages") or found.get("days") or ([len(stream["tasks"])] if stream else [])),
        before=[upgraded(settings) for settings in found.get("before", [])],
        format_version=version,
    )


def scale_in(stream: Mapping[str, Any]) -> "Scale | None":
    """The scale of the vectors of a stream, by its description; None for images."""
    if "scale" not in stream:
        return None
    from dgm_jax.types import Scale

    return Scale(**{name: np.array(values, np.float32) for name, values in stream["scale"].items()})


def read_summary(folder: Workdir) -> Summary | None:
    """Reads summary.json; None before the first task is finished.

    Raises:
      NoRun: if it cannot be read.
    """
    if not folder.summary.exists():
        return None
    try:
        return Summary.from_json(json.loads(folder.summary.read_text("utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if is_of_environment(error):
            raise
        raise NoRun(f"{folder.summary} cannot be read ({type(error).__name__}: {error})") from error


def read_answers(folder: Workdir, summary: Summary) -> dict[str, Answers]:
    """Which test images each reading of a finished run has right; empty if an earlier version made the run.

    Raises:
      NoRun: if predictions.npz cannot be read, or does not fit the summary.
    """
    if not folder.predictions.exists():
        return {}
    labels = classes_of(summary.tasks)
    try:
        (arrays,) = _arrays([folder.predictions])
        classes, answers = arrays.pop("class"), {}
        for reading, predicted in arrays.items():
            right = {labels[c]: (predicted[classes == c] == c).astype(np.uint8) for c in np.unique(classes)}
            answers[reading] = Answers(summary.dataset, right)
            if not np.isclose(answers[reading].accuracy, summary.final_accuracy(reading), rtol=0, atol=1e-9):
                raise ValueError("its predictions are not those of summary.json")
        return answers
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        if is_of_environment(error):
            raise
        raise NoRun(
            f"{folder.predictions} cannot be read ({error}); move it away to have results without intervals"
        ) from error


def require_run(path: Path) -> Workdir:
    """The folder of a single run, settled (`Workdir.settle`).

    Raises:
      NoRun: if it is none; says which folders are, if it holds the runs of several seeds.
      WorkdirInUse, WorkdirError: as `Workdir.settle`.
    """
    folder = Workdir(path)
    if not folder.path.is_dir():
        raise NoRun(f"{folder.path}: no such folder; expected the --workdir of a run")
    folder.settle()
    if not folder.config.is_file():
        seeds = folder.seeds()
        if seeds:
            raise NoRun(f"{folder.path} holds the runs of several seeds; choose one: {', '.join(seeds)}")
        raise NoRun(f"{folder.path} has no config.json; expected the --workdir of a run")
    return folder


@dataclass(frozen=True)
class RunFiles:
    """All that a page shows of a run; of a run in progress, as far as it has come."""

    path: Path
    config: dict[str, Any]  # Settings by name, those that the method reads.
    stream: dict[str, Any]  # What the data and their order are: "dataset", "tasks", ...
    summary: Summary | None  # None before the first task is over.
    finished_tasks: int  # So far.
    readings: list[str]  # The classifiers that are measured; the first is the one that counts.
    names: list[str]  # Of the classes seen so far, in their order.
    matrices: dict[str, Matrix]  # By reading.
    epochs: list[dict[str, Any]]  # Lines of metrics.jsonl.
    # After each task: "labels" [classes], and "images", uint8 [classes, n, h, w, c], or "vectors", [classes, n, d].
    drawn: list[dict[str, np.ndarray]]
    real: dict[int, np.ndarray]  # By class index: real images, uint8 [n, h, w, c], or vectors, if the run keeps some.
    commands: list[str]  # The commands that began and continued the run.

    @property
    def are_vectors(self) -> bool:
        """Whether it learnt vectors and not images."""
        return scale_in(self.stream) is not None

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

    def n_seen(self, task: int) -> int:
        """Classes seen once a task is over."""
        return len(classes_of(self.stream["tasks"][: task + 1]))

    def names_of(self, task: int) -> list[str]:
        """The names of a task's classes, new or known; the task is over."""
        names = dict(zip(classes_of(self.stream["tasks"]), self.names))
        return [names[label] for label in self.stream["tasks"][task]]

    def averages(self, reading: str) -> list[float | None]:
        """A_t after each task so far; None: not measured."""
        return [] if self.summary is None else self.summary.curve(reading)

    def rows(self, task: int) -> list[dict[str, Any]]:
        """What a task used of each layer."""
        return [] if self.summary is None else [row for row in self.summary.capacity if row["task"] == task]

    def check(self) -> None:
        """Makes sure that there is what a page needs; raises KeyError, TypeError or ValueError if not."""
        n_classes = self.n_seen(self.finished_tasks - 1)
        for name in ("seed", "protocol", "method"):
            _ = self.config[name]
        if self.summary is None:
            return
        for name in ("total", "shared_weights", "task_parameters", "masks"):
            _ = self.summary.bytes["memory"][name] if self.summary.capacity else None
        for reading in self.readings:
            if len(self.matrices[reading]) != self.finished_tasks:
                raise ValueError(f"accuracies of {len(self.matrices[reading])} tasks, not {self.finished_tasks}")
        if len(self.names) != n_classes:
            raise ValueError(f"{len(self.names)} names for {n_classes} classes")


def read(workdir: str | Path) -> RunFiles:
    """Reads all that a page shows of a run.

    Raises:
      NoRun: if the folder is no run's, or a file in it cannot be read; the text says which.
    """
    folder = require_run(Path(workdir))
    stored = read_config(folder)
    try:
        if stored.stream is None:
            raise ValueError("config.json does not describe the stream")
        tasks, summary = len(stored.stream["tasks"]), read_summary(folder)
        done = 0 if summary is None else summary.finished_tasks
        unread = unread_defaults(stored.flat["method"])
        commands = folder.commands.read_text("utf-8").splitlines() if folder.commands.exists() else []
        lines = files.read_jsonl(folder.metrics)
        run = RunFiles(
            path=folder.path,
            config={name: value for name, value in stored.flat.items() if name not in unread},
            stream=stored.stream,
            summary=summary,
            finished_tasks=done,
            readings=summary.readings if summary else [],
            names=summary.class_names[: len(classes_of(stored.stream["tasks"][:done]))] if summary else [],
            # In a run in progress these may be a task ahead of the summary.
            matrices={reading: rows[:done] for reading, rows in _matrices(folder.accuracy).items()},
            epochs=[line for line in lines if line["kind"] == "epoch" and line["task"] < tasks],
            drawn=list(_arrays(folder.drawn()[:done])),
            real={
                int(name.removeprefix("class_")): images
                for kept in _arrays(sorted(folder.samples.glob("real_*.npz")))
                for name, images in kept.items()
            },
            commands=list(dict.fromkeys(commands)),
        )
        run.check()
        return run
    except NoRun:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        if is_of_environment(error):
            raise
        raise NoRun(f"a file in {folder.path} cannot be read ({type(error).__name__}: {error})") from error


def _matrices(path: Path) -> dict[str, Matrix]:
    matrices: dict[str, Matrix] = defaultdict(list)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                if row[0] != "protocol":
                    matrices[row[1]].append([float(cell) if cell else None for cell in row[3:]])
    return dict(matrices)


def _arrays(paths: Sequence[Path]) -> Iterable[dict[str, np.ndarray]]:
    for path in paths:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            yield dict(arrays)
