"""The page of several runs side by side, with mean and spread of runs that differ in their seed only."""

import itertools
import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgm_jax.errors import UserError, naming_extras
from dgm_jax.metrics.intervals import Interval, interval
from dgm_jax.reporting import charts, rendering
from dgm_jax.runs.comparing import bytes_of_reading, compared_readings
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import RunFiles, read, read_answers
from dgm_jax.runs.summary import Summary


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; None: of no seed, or of one."""

    mean: float | None
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread":
        """Of those values that are known."""
        known = [value for value in values if value is not None]
        return cls(statistics.mean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class Seeds:
    """Runs that differ in nothing but their seed, and in the order of classes and the fold that go with it."""

    name: str
    data: str
    runs: Sequence[RunFiles]

    @property
    def finished(self) -> list[Summary]:
        """The summaries of those runs that have learnt all their tasks."""
        return [run.summary for run in self.runs if run.summary is not None and run.summary.finished]

    def rows(self) -> list[dict[str, Any]]:
        """For each reading that is compared, its measures over the seeds that are finished."""
        done = self.finished
        if not done:
            return []
        rows = []
        for reading in compared_readings(self.runs[0].method, done[0]):
            row: dict[str, Any] = {"reading": reading, "seeds": [one.seed for one in done], "final": done[0].final}
            row["accuracy"] = Spread.of([one.final_accuracy(reading) for one in done])
            row["interval"] = self._interval(reading)
            averages = [one.average_incremental.get(reading, {}).get("from_1") for one in done]
            row["average"] = Spread.of(averages)
            row["forgetting"] = Spread.of([one.forgetting[reading] for one in done])
            row["bytes"] = statistics.mean(bytes_of_reading(one.bytes["memory"], reading) for one in done)
            rows.append(row)
        return rows

    def _interval(self, reading: str) -> Interval | None:
        """Of the mean accuracy; None if not every seed says which test images it has right."""
        of_seeds = [
            read_answers(Workdir(run.path), run.summary).get(reading)
            for run in self.runs
            if run.summary is not None and run.summary.finished
        ]
        known = [answers for answers in of_seeds if answers is not None]
        return interval(known) if len(known) == len(of_seeds) else None

    def curve(self) -> tuple[rendering.Curve, list[float]]:
        """Mean accuracy and its deviation, in percent, after the tasks that every run has measured."""
        of_runs = [run.averages(run.readings[0]) for run in self.runs if run.summary is not None]
        spreads = [Spread.of(column) if None not in column else Spread(None, None) for column in zip(*of_runs)]
        deviations = [100 * (spread.deviation or 0) for spread in spreads if spread.mean is not None]
        return rendering.curve([spread.mean for spread in spreads]), deviations


@naming_extras()
def comparison(workdirs: Sequence[str | Path]) -> str:
    """The page of several runs.

    Args:
      workdirs: the folders of runs; that of several seeds (`learn --seeds`) stands for the runs in it.

    Raises:
      UserError: if a folder is named twice or does not hold a run, or a file in it cannot be read.
    """
    paths = [path for workdir in workdirs for path in _runs_in(Path(workdir))]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{', '.join(map(str, paths))}: the same run is named twice; name each run once")
    runs = dict(zip(_short_names(paths), map(read, paths), strict=True))
    groups = by_seeds(runs)
    curves = {group.name: group.curve() for group in groups if any(run.summary is not None for run in group.runs)}
    weights = {
        name: (tasks, [sum(row["weights"] for row in run.rows(t)) / 1000 for t in tasks])
        for name, run in runs.items()
        if (tasks := [t for t in range(run.finished_tasks) if run.rows(t)])
    }
    names = dict.fromkeys(name for run in runs.values() for name in run.config)
    settings = {name: [run.config.get(name, "–") for run in runs.values()] for name in names}
    # Accuracies can be compared only if these are the same for all runs.
    comparable = {
        "data": [(run.stream["dataset"], run.stream.get("fingerprint")) for run in runs.values()],
        "tasks": [run.stream["tasks"] for run in runs.values()],
        "protocol": [run.protocol for run in runs.values()],
    }
    return rendering.render(
        "comparison.html",
        title=f"{len(runs)} runs side by side",
        runs=runs,
        groups=[group for group in groups if len(group.runs) > 1],
        charts={
            "accuracy": rendering.accuracy_chart(
                {name: curve for name, (curve, _) in curves.items()},
                {name: deviations for name, (_, deviations) in curves.items() if any(deviations)},
            ),
            "growth": weights
            and charts.lines("weights, thousands", weights, x="after task", y="weights, thousands", low=0),
        },
        compared=compared_readings,
        bytes_of=bytes_of_reading,
        differing=list(_differing(comparable)),
        settings=_differing(settings),
    )


def by_seeds(runs: Mapping[str, RunFiles]) -> list[Seeds]:
    """The runs in groups that differ in nothing but their seed, in the order in which each group first comes."""
    groups: dict[tuple[str, str, str], dict[str, RunFiles]] = {}
    for name, run in runs.items():
        settings = {setting: value for setting, value in run.config.items() if setting != "seed"}
        data = re.sub(
            r", fold \d+ of (\d+)$", r", \1 folds", run.stream["dataset"]
        )  # Seeds can have folds of their own.
        tasks = run.stream["tasks"]  # Their order may go with the seed, but not which classes there are.
        kind = f"{sorted(itertools.chain(*tasks))} {sorted(map(len, tasks))}"
        groups.setdefault((data, kind, json.dumps(settings, sort_keys=True)), {})[name] = run
    found: list[Seeds] = []
    for (data, *_), group in groups.items():
        name = next(iter(group)) if len(group) == 1 else _common_name(list(group)) or next(iter(group.values())).method
        taken = sum(other.name.partition(" (")[0] == name for other in found)
        found.append(Seeds(f"{name} ({taken + 1})" if taken else name, data, list(group.values())))
    return found


def _runs_in(path: Path) -> list[Path]:
    """The folder of a run; or the folders of its seeds, if it is the folder of several."""
    folder = Workdir(path)
    if folder.config.exists() or not (names := folder.seeds()):
        return [path]
    return [path / name for name in sorted(names, key=lambda name: (len(name), name))]


def _common_name(names: Sequence[str]) -> str:
    """What the names of runs of several seeds have in common, without the word "seed"."""
    return os.path.commonprefix(names).rstrip("0123456789").removesuffix("seed").rstrip("/-_ ")


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, just long enough to differ from each other, and to say whose seeds they are."""
    resolved = [path.resolve().parts for path in paths]
    least = 2 if any(re.fullmatch(r"seed\d+", parts[-1]) for parts in resolved) else 1
    depth = next(d for d in itertools.count(least) if len({parts[-d:] for parts in resolved}) == len(resolved))
    return ["/".join(parts[-depth:]) for parts in resolved]


def _differing(values: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Those entries whose values are not all equal."""
    return {name: of_runs for name, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}
