"""The summary of a run, summary.json: what it holds, how it is written and read; and that of several seeds."""

import dataclasses
import math
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from dgm_jax.config import Config, flattened, upgraded
from dgm_jax.data import TaskStream
from dgm_jax.data.order import classes_of
from dgm_jax.runs.record import Record
from dgm_jax.version import __version__

if TYPE_CHECKING:  # JAX is slow to import, and --help does not need it.
    import jax

_VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run has measured; accuracies are fractions. In the file, `averages` are entries "A_1", "A_2" and so on."""

    dataset: str
    finished: bool
    finished_tasks: int
    protocol: str
    method: str
    variant: str
    seed: int
    # Classes seen -> reading -> "macro" or "micro" -> accuracy, after the last task at which so many were seen; no
    # entry if it was not measured then.
    averages: dict[int, dict[str, dict[str, float]]]
    # The same after tasks that a task without a new class followed: task -> reading -> "macro" or "micro" -> accuracy.
    before_more_images: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    final: int  # Classes seen after the last task so far: averages[final] is A_final, always there in a finished run.
    forgetting: dict[str, float | None]  # By reading; the first reading is the one that counts.
    forgetting_by_class: dict[str, list[float | None]] = field(default_factory=dict)  # Of the classes seen.
    backward_transfer: dict[str, float | None] = field(default_factory=dict)
    # By reading the mean of A_1 to A_T ("from_1") and of A_2 to A_T ("from_2"); None if one was not measured.
    average_incremental: dict[str, dict[str, float | None]] = field(default_factory=dict)
    # By reading, if the task is known: "A_t" after each task, "just_learnt" of each class. Empty: no task has several.
    task_known: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    # By reading, after each task: "temperature", "ece" and "nll" with it and ("_before") without; None: not measured.
    calibration: dict[str, list[dict[str, float] | None]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]]  # By reading; rows: true classes, columns: predicted ones.
    bytes: dict[str, Any]  # "memory" by part, "images_replaced", "image_count".
    facts: dict[str, Any] = field(default_factory=dict)  # What the method reports besides.
    capacity: list[dict[str, Any]] = field(default_factory=list)  # What each task used of each layer.
    privacy: list[dict[str, Any]] = field(default_factory=list)  # How near images come to training images, by class.
    forgotten: list[dict[str, Any]] = field(default_factory=list)  # Classes removed on request (docs/forget.md).
    seconds: dict[str, float]  # By phase.
    tasks: list[list[int]]  # Labels of each task's classes.
    class_names: list[str]
    versions: dict[str, str]
    device: str
    config: dict[str, Any]  # Settings in their groups.

    @property
    def readings(self) -> list[str]:
        """The classifiers that were measured; the first is the one that counts."""
        return list(self.forgetting)

    def n_seen(self, task: int) -> int:
        """Classes seen once a task is learnt."""
        return len(classes_of(self.tasks[: task + 1]))

    def curve(self, reading: str | None = None) -> list[float | None]:
        """A_t (macro) after each task so far, of a reading or of the one that counts; None: not measured."""
        rows = [self._averages(task) for task in range(self.finished_tasks)]
        return [row[reading or self.readings[0]]["macro"] if row else None for row in rows]

    def _averages(self, task: int) -> dict[str, dict[str, float]]:
        """After a task, by reading; empty: not measured."""
        n = self.n_seen(task)
        if task + 1 < self.finished_tasks and self.n_seen(task + 1) == n:
            return self.before_more_images.get(str(task), {})
        return self.averages.get(n, {})

    def final_accuracy(self, reading: str | None = None, kind: str = "macro") -> float:
        """A_final of a reading, or of the one that counts."""
        return self.averages[self.final][reading or self.readings[0]][kind]

    def to_json(self) -> dict[str, Any]:
        """As summary.json holds it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        averages = {f"A_{n}": of for n, of in fields.pop("averages").items()}
        facts = fields.pop("facts")
        for name in (
            "calibration",
            "capacity",
            "privacy",
            "task_known",
            "forgotten",
            "before_more_images",
        ):  # Not of every method, stream or run.
            if not fields[name]:
                del fields[name]
        before = {name: fields.pop(name) for name in ("dataset", "finished", "finished_tasks", "protocol")}
        before |= {name: fields.pop(name) for name in ("method", "variant", "seed")}
        return {**before, **averages, **facts, **fields}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Summary":
        """Undoes `to_json`; reads files of earlier versions too.

        Raises:
          KeyError, TypeError, ValueError: if it is no summary.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        known = {"variant": "dgma"} | {name: value for name, value in found.items() if name in names}
        known["config"] = upgraded(known["config"])
        averages = {int(m[1]): value for name, value in found.items() if (m := re.fullmatch(r"A_(\d+)", name))}
        facts = {n: v for n, v in found.items() if n not in names and not re.fullmatch(r"A_\d+", n)}
        summary = cls(**known, averages=averages, facts=facts)
        for reading in summary.readings:
            curve = summary.curve(reading)
            every = flattened(known["config"]).get("evaluate_every", 1)
            due = {*range(every - 1, len(curve), every)} | ({len(curve) - 1} if summary.finished else set())
            missing = [f"A_{summary.n_seen(t)}" for t in sorted(due) if curve[t] is None]
            if missing and not summary.forgotten:  # The row of the last task can have gone with its class.
                raise KeyError(missing[0])
        return summary


def summarise(
    record: Record,
    stream: TaskStream,
    config: Config,
    devices: "Sequence[jax.Device]",
    memory_bytes: Mapping[str, int],
    facts: Mapping[str, Any],
) -> Summary:
    """Sums up a run; `memory_bytes` and `facts` are what the method reports (`Method`)."""
    image_count = sum(sum(stream.train_counts(t)) for t in range(record.finished_tasks))
    done, several = range(record.finished_tasks), max(map(len, stream.tasks)) > 1
    measured = [t for t in done if record.is_evaluated(t)]
    last = {stream.n_seen(t): t for t in done}  # Classes seen -> the last task at which so many were.
    return Summary(
        dataset=stream.name,
        finished=record.finished_tasks == stream.n_tasks,
        finished_tasks=record.finished_tasks,
        protocol=config.protocol,
        method=config.method,
        variant=config.gates.variant,
        seed=config.seed,
        averages={n: record.averages(t) for n, t in last.items() if t in measured},
        before_more_images={str(t): record.averages(t) for t in measured if t not in last.values()},
        final=stream.n_seen(record.finished_tasks - 1),
        forgetting={reading: record.forgetting(reading, stream) for reading in record.accuracy},
        forgetting_by_class={reading: record.forgetting_by_class(reading, stream) for reading in record.accuracy},
        average_incremental={reading: record.average_incremental(reading) for reading in record.accuracy},
        task_known={reading: record.with_task_known(reading, stream) for reading in record.accuracy if several},
        backward_transfer={reading: record.backward_transfer(reading, stream) for reading in record.accuracy},
        calibration={reading: rows for reading, rows in record.calibration.items() if any(rows)},
        confusion=record.confusion,
        bytes={
            "memory": memory_bytes,
            "images_replaced": image_count * math.prod(stream.stored_shape) * (1 if stream.scale is None else 4),
            "image_count": image_count,
        },
        facts=dict(facts),
        capacity=record.capacity,
        privacy=record.privacy,
        forgotten=record.forgotten,
        seconds={name: round(value, 3) for name, value in record.seconds.items()},
        tasks=[[stream.classes[c] for c in task] for task in stream.tasks],
        class_names=list(stream.class_names),
        versions=_versions(),
        device=f"{len(devices)} x {devices[0].device_kind}",
        config=dataclasses.asdict(config),
    )


def summarise_seeds(summaries: Sequence[Summary], folders: Sequence[str]) -> dict[str, Any]:
    """The summary of runs that differ in their seeds: mean and standard deviation of every measure of all classes."""
    first, found = summaries[0], [summary.to_json() for summary in summaries]

    def spread(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: spread([value[name] for value in values]) for name in values[0]}
        known = [value for value in values if value is not None]
        return {
            "mean": statistics.mean(known) if known else None,
            "sd": statistics.stdev(known) if len(known) > 1 else None,
            "values": list(values),
        }

    same = ["dataset", "finished", "finished_tasks", "protocol", "variant", "final", "versions", "device"]
    if all(summary.tasks == first.tasks for summary in summaries):  # Else each seed has an order of its own.
        same.append("tasks")
    measured = ["forgetting", "average_incremental", *(f"A_{n}" for n in first.averages)]
    return {
        **{name: getattr(first, name) for name in same},
        "seeds": [summary.seed for summary in summaries],
        **{name: spread([one[name] for one in found]) for name in measured},
        "seconds": first.seconds,  # Of all seeds together: they were trained side by side.
        "runs": list(folders),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "dgm-jax": __version__}
    for package in _VERSIONS_OF:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
