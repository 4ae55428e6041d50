"""The files of a run once classes are forgotten: which are written anew, which go, and which a person must look at."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.data.order import classes_of
from dgm_jax.memory.file import labels_in
from dgm_jax.runs.continuation import LearntSoFar
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.record import Record
from dgm_jax.runs.samples import write_drawn
from dgm_jax.system import exchange, files

_KEPT = (".lock", "begun_from.json", "commands.txt", exchange.STAGING, exchange.JOURNAL)  # No array is in them.


@dataclass(frozen=True)
class Kept:
    """What stays, in the old numbers; the new number of a class or task is its place in these lists."""

    classes: list[int]
    tasks: list[int]
    labels: list[int]  # Of the classes.
    names: list[str]

    @classmethod
    def without(cls, learnt: LearntSoFar, forgotten: Sequence[int], finished_tasks: int) -> "Kept":
        """All classes of the finished tasks but these, and the tasks that have one of them."""
        tasks = learnt.stream["tasks"][:finished_tasks]
        labels = classes_of(tasks)
        gone = {labels[index] for index in forgotten}
        classes = [index for index in range(len(labels)) if index not in forgotten]
        return cls(
            classes,
            [task for task, of_task in enumerate(tasks) if set(of_task) - gone],
            [labels[index] for index in classes],
            [learnt.names[index] for index in classes],
        )


def write_config(folder: Workdir, staged: Workdir, left: LearntSoFar) -> None:
    """Writes config.json anew: the stream is what is left of it."""
    stored = json.loads(folder.config.read_text("utf-8"))
    said = {"stream": left.stream, "class_names": list(left.names), "stages": list(left.stages)}
    files.write_json(staged.config, stored | said)


def write_metrics(folder: Workdir, staged: Workdir, kept: Kept, record: Record) -> None:
    """Writes the lines of metrics.jsonl for the tasks that stay; averages are those of the record."""
    if not folder.metrics.exists():
        return
    lines = []
    for line in files.read_jsonl(folder.metrics):
        if line["task"] in kept.tasks:
            line["task"] = kept.tasks.index(line["task"])
            if line.pop("average", None) and (average := record.averages(line["task"])):
                line["average"] = average
            lines.append(json.dumps(line) + "\n")
    files.write_atomically(staged.metrics, "".join(lines))


def write_pictures(folder: Workdir, staged: Workdir, kept: Kept, note: Callable[[str], None]) -> None:
    """Writes what was drawn of the classes that stay after each task that stays, and real images that were kept."""
    if not folder.samples.is_dir():
        return
    files.make_folder(staged.samples)
    names = dict(zip(kept.labels, kept.names, strict=True))
    for new, task in enumerate(kept.tasks):
        drawn = folder.samples / f"after_task_{task:02d}.npz"
        if drawn.exists():
            with np.load(drawn, allow_pickle=False) as arrays:
                stays = np.isin(arrays["labels"], kept.labels)
                what = "vectors" if "vectors" in arrays.files else "images"
                labels, values = arrays["labels"][stays], arrays[what][stays]
            write_drawn(staged, new, dict(zip((names[label] for label in labels.tolist()), values)), labels, note)
        real = folder.samples / f"real_{task:02d}.npz"
        if real.exists():
            with np.load(real, allow_pickle=False) as arrays:
                stored = {new: f"class_{index}" for new, index in enumerate(kept.classes)}
                left = {f"class_{new}": arrays[name] for new, name in stored.items() if name in arrays.files}
            files.write_npz(staged.samples / f"real_{new:02d}.npz", **left)


@dataclass(frozen=True)
class Plan:
    """What happens to the files of a folder; paths are relative to it."""

    new: list[str]  # Written anew, in the staging folder.
    removed: list[str]
    exported: list[str]  # Of the removed ones: exported files, which draw or predict a class that is forgotten.
    others: list[str]  # Not the run's: they stay, and a person must look at them.


def plan(folder: Workdir, staged: Workdir, forgotten: set[int]) -> Plan:
    """Finds what happens to each file; `forgotten` are labels."""
    new = [*_files(staged.path, staged.path), *_files(staged.samples, staged.path)]
    new += [f"checkpoints/{path.name}" for path in staged.checkpoints.iterdir()]
    removed, exported, others = [], [], []
    for path in _entries(folder):
        name = path.relative_to(folder.path).as_posix()
        if name in new or name in _KEPT:
            continue
        if _is_of_run(folder, path):
            removed.append(name)
            continue
        inner = sorted(path.rglob("*")) if path.is_dir() and not path.is_symlink() else [path]
        found = [file for file in inner if file.is_file() and labels_in(file) & forgotten]
        exported += [file.relative_to(folder.path).as_posix() for file in found]
        if any(file.is_file() and file not in found for file in inner):
            others.append(name)
    pictures = folder.path.parent / "tensorboard"  # Of seeds that were trained side by side.
    if folder.path.absolute().name.startswith("seed") and pictures.is_dir():
        others.append(str(pictures))
    return Plan(new, [*removed, *exported], exported, others)


def _entries(folder: Workdir) -> Iterator[Path]:
    """What lies in the folder, in `samples` and in `checkpoints`."""
    for path in sorted(folder.path.iterdir()):
        if path not in (folder.samples, folder.checkpoints) or not path.is_dir():
            yield path
    for inner in (folder.samples, folder.checkpoints):
        if inner.is_dir():
            yield from sorted(inner.iterdir())


def _is_of_run(folder: Workdir, path: Path) -> bool:
    """Whether a run has written this; also what it left behind when it was killed."""
    if path.parent == folder.checkpoints or path.match(".*.tmp"):
        return True
    if path.parent == folder.samples:
        return path.match("after_task_*.*") or path.match("real_*.npz")
    return path in (folder.predictions, folder.report, folder.capacity, folder.path / "tensorboard")


def _files(of: Path, top: Path) -> list[str]:
    return [path.relative_to(top).as_posix() for path in sorted(of.glob("*")) if path.is_file()]


def entry(name: str, label: int, weights: tuple[int, int] | None, remains: list[str], **facts: Any) -> dict[str, Any]:
    """What summary.json says of a forgotten class: its share of weights that stay, and what else remains, in words."""
    if weights is not None:
        drawn, stay = weights
        facts |= {"weights": drawn, "shared_weights": stay, "share": round(stay / drawn, 6) if drawn else 0.0}
        said = f"{stay:,} of the {drawn:,} weights that it was drawn with ({100 * stay / max(drawn, 1):.1f} %)"
        remains = [f"{said}, with which other classes are drawn", *remains] if stay else remains
    return {"class": name, "label": label, **facts, "remains": remains}
