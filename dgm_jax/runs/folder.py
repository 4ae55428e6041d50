"""The folder of a run: what is in it, and that it belongs to this run. Every file is written whole or not at all."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.config import Config, without_removed
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.system import files

FORMAT_VERSION = 1

# Settings that a run may go on with changed (--resume-anyway): no array's shape and no past result depends on them.
_CHANGEABLE = (
    *("epochs", "generator_learning_rate", "discriminator_learning_rate", "clip_norm", "adversarial_weight"),
    *("penalty_weight", "sparsity_weight", "scale_max", "mask_share", "replay", "replay_steps"),
    *("consolidation_steps", "consolidation_samples", "consolidation_learning_rate", "consolidation_shift"),
    *("consolidation_flip", "consolidation_smoothing", "checkpoint_epochs"),
)


class Workdir:
    """Paths and writers of a run's folder."""

    def __init__(self, path: str | Path) -> None:
        """Names the folder; touches nothing."""
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.accuracy = self.path / "accuracy_matrix.csv"
        self.capacity = self.path / "capacity.csv"
        self.samples = self.path / "samples"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.report = self.path / "report.html"
        self.commands = self.path / "commands.txt"  # That began the run and went on with it, a line each.

    def claim(
        self,
        config: Config,
        stream: Mapping[str, Any],
        names: Sequence[str] = (),
        days: Sequence[int] = (),
        *,
        fits: bool = False,
        resume_anyway: bool,
    ) -> None:
        """Writes the configuration into a new folder, or checks that an old one belongs to the same run.

        Args:
          config: the settings.
          stream: what describes the data and the order of its classes.
          names: of the classes.
          days: tasks of each day, where there were several (`days`).
          fits: the stream is known to go on with the folder's run, though it is another.
          resume_anyway: go on in spite of differences, with the settings given now. Only of settings that neither
            arrays nor what was measured already depend on; config.json keeps the earlier ones, under "before".

        Raises:
          OtherConfiguration: if the folder's run differs, by every difference; or if it needs a removed setting.
          ConfigError: if the folder was written by a newer version, or its configuration cannot be read.
        """
        wanted: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "protocol": config.protocol,
            "config": dataclasses.asdict(config),
            "stream": json.loads(json.dumps(stream)),
            "class_names": list(names),
            "days": list(days) or [len(stream["tasks"])],
        }
        if not self.config.exists():
            if self.checkpoints.exists() and any(self.checkpoints.iterdir()):
                raise OtherConfiguration(f"{self.path} has checkpoints but no config.json; choose another --workdir")
            if self.seeds():
                raise OtherConfiguration(
                    f"{self.path} holds the runs of several seeds ({', '.join(self.seeds())}); choose another --workdir"
                )
            files.write_json(self.config, wanted)
            return
        found = self.read_config()
        earlier = found.pop("before", [])
        # A setting that came later was at its default, before there was a choice.
        found["config"] = dataclasses.asdict(Config()) | without_removed(found.get("config", {}), self.path)
        if "stream" in found and all(len(task) == 1 for task in found["stream"]["tasks"]):
            found["config"]["critic_condition"] = config.critic_condition  # It has not acted so far.
        met = {name: wanted[name] for name in ("stream", "class_names", "days")}
        changed = fits and any(found.get(name) != value for name, value in met.items())
        found = met | found | (met if fits else {})  # The first runs had no names and no days.
        differences = dict(_differences(found, wanted))
        if not differences:
            if changed:
                files.write_json(self.config, wanted | ({"before": earlier} if earlier else {}))
            return
        if found.get("stream") != wanted["stream"]:
            raise OtherConfiguration(
                f"{self.path} holds a run on {_other_stream(found, wanted)}; choose another --workdir."
            )
        told = f"{self.path} holds a run with other settings: {'; '.join(differences.values())}."
        lasting = sorted(set(differences) - set(_CHANGEABLE))
        if self._is_finished() and not changed:
            raise OtherConfiguration(f"{told} It is finished; choose another --workdir.")
        if not resume_anyway:
            hint = "" if lasting else ", or pass --resume-anyway to go on with the settings given now"
            raise OtherConfiguration(f"{told} Choose another --workdir{hint}.")
        if lasting:
            raise OtherConfiguration(
                f"{told} A run cannot go on with another {', '.join(lasting)}; use another --workdir."
            )
        files.write_json(self.config, wanted | {"before": [*earlier, found["config"]]})

    def seeds(self) -> list[str]:
        """Names of the folders of runs that lie in this one: those of several seeds, trained side by side."""
        return sorted(path.parent.name for path in self.path.glob("seed*/config.json"))

    def _is_finished(self) -> bool:
        try:
            summary, tasks = json.loads(self.summary.read_text()), self.read_config()["stream"]["tasks"]
            return bool(summary["finished"]) and summary.get("tasks", tasks) == tasks
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def read_config(self) -> dict[str, Any]:
        """Reads config.json; see `claim` for what it raises."""
        try:
            found = json.loads(self.config.read_text())
            version = int(found["format_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.config} cannot be read ({error}); choose another --workdir") from error
        if version > FORMAT_VERSION:
            raise ConfigError(
                f"{self.path} was written in format {version}, this version of dgm_jax reads up to {FORMAT_VERSION}; "
                "upgrade dgm_jax or choose another --workdir"
            )
        return found

    def write_accuracy(self, matrices: Mapping[str, np.ndarray], names: Sequence[str], protocol: str) -> None:
        """Writes the accuracy of each class (columns) after each task (rows) for each reading."""
        header = ["protocol", "reading", "after_task", *names]
        rows = [
            [protocol, reading, t, *("" if np.isnan(a) else f"{a:.6f}" for a in row)]
            for reading, matrix in matrices.items()
            for t, row in enumerate(matrix)
        ]
        files.write_atomically(self.accuracy, _csv(header, rows))

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


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names what differs between two nested settings: ("batch_size", "batch_size is 64, now 32")."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*found, *wanted]):
            yield from _differences(found.get(key), wanted.get(key), key)
    elif found != wanted:
        yield name, f"{name} is {found!r}, now {wanted!r}"


def _other_stream(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What a person should hear of a run on other data or in another order: not every number that differs."""
    before, now = dict(found.get("stream") or {}), wanted["stream"]
    if before.get("dataset") != now.get("dataset"):
        return f"the data set {before.get('dataset')!r}, now it is {now.get('dataset')!r}"
    if before.get("tasks") != now.get("tasks"):
        return f"the tasks {before.get('tasks')}, now they are {now.get('tasks')}"
    return f"other images of {now.get('dataset')!r}"
