"""The door to forget: takes classes out of the folder of a run, on request (docs/forget.md)."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from dgm_jax.config import TRAINS, Config
from dgm_jax.data.classes import find_classes
from dgm_jax.data.order import classes_of
from dgm_jax.data.stream import TaskStream, without_images
from dgm_jax.errors import UserError
from dgm_jax.methods import METHODS, config_of
from dgm_jax.methods.method import Method, Watch
from dgm_jax.reporting import page
from dgm_jax.runs import checkpoints, forgetting
from dgm_jax.runs.continuation import LearntSoFar
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.forgetting import Kept
from dgm_jax.runs.reading import read_config, read_summary, require_run
from dgm_jax.runs.record import Record
from dgm_jax.runs.run import checkpoint_metadata, write_tables
from dgm_jax.runs.session import new_method
from dgm_jax.runs.summary import Summary, summarise
from dgm_jax.system import checkpoint, exchange, files
from dgm_jax.system.lock import RunLock
from dgm_jax.system.pinned import new_key, pinned
from dgm_jax.training.devices import check_precision, choose_devices

_SCALE_REMAINS = "the scale of the vectors, mean and deviation of each number in the run's first task, stays"


@dataclass(frozen=True)
class Forgotten:
    """What `forget` did."""

    classes: tuple[dict[str, Any], ...]  # As `forgotten` in summary.json: name, label, share of weights, what remains.
    left: tuple[str, ...]  # Names of the classes that are left.
    dropped: tuple[str, ...]  # Names of classes that were announced and are not learnt: they are given up.
    removed: tuple[str, ...]  # Exported files in the folder that knew a forgotten class; they are gone.
    others: tuple[str, ...]  # Files in the folder that are not the run's; they are as they were.


@pinned()
def forget(
    workdir: str | Path,
    classes: Sequence[str | int] | str | int,
    *,
    watch: Watch | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Forgotten:
    """Removes classes from the folder of a run; every other class is drawn bit for bit as before.

    The folder must not be in use. A kill at any moment leaves it as it was, or so that the next to open it finishes. A
    task in progress is given up, and so are classes that are not learnt yet; the run can go on with a stream of them.

    Args:
      workdir: the folder of a run of dgm, separate or analytic, of one seed, in which a task is finished.
      classes: labels or names of classes, or one of them.
      watch: follows the training of the new classifier.
      note: called with what a person should know.

    Returns:
      What was done, what remains of the classes, and what lies in the folder that is not the run's.

    Raises:
      UserError: if a class is unknown or no class would be left, or the run's method cannot forget.
      NoRun, WorkdirInUse, WorkdirError, ConfigError, DamagedCheckpoint, NewerFormat: about the folder.
    """
    folder = require_run(Path(workdir))
    with RunLock(folder.path):
        words = [classes] if isinstance(classes, str | int) else classes
        asked = _read(folder, [str(word) for word in words], note)
        done = _forget(folder, asked, watch or Watch(), note)
    page.write_at_the_end(folder, note)
    return done


@dataclass(frozen=True)
class _Asked:
    """What the folder holds, and what is to be forgotten of it."""

    config: Config
    learnt: LearntSoFar
    summary: Summary
    checkpoint: checkpoint.Checkpoint
    device: jax.Device
    forgotten: list[int]  # Class indices.
    kept: Kept

    @property
    def n_tasks(self) -> int:
        """Finished tasks."""
        return checkpoints.position(self.checkpoint)[0]

    def stream(self, learnt: LearntSoFar) -> TaskStream:
        """What was learnt as a stream; none of its images is here."""
        images, n = (self.summary.bytes[name] for name in ("images_replaced", "image_count"))
        shape, protocol = tuple(learnt.stream["image_shape"]), self.config.protocol
        return without_images(learnt.past(), image_shape=shape, stored_shape=(images // n,), protocol=protocol)


def _read(folder: Workdir, words: Sequence[str], note: Callable[[str], None]) -> _Asked:
    """Reads the folder, and refuses what cannot be done before any long work."""
    stored = read_config(folder)
    config, learnt = config_of(stored.settings), LearntSoFar.of(stored)
    able = [name for name, kind in METHODS.items() if kind.forget is not Method.forget]
    if config.method not in able:
        raise UserError(
            f"{folder.path} is a run of {config.method}, which cannot take a class out of what it knows; only runs of "
            f"{', '.join(able)} can. Learn again without the class"
        )
    restored, summary = checkpoints.restore(folder.checkpoints, note), read_summary(folder)
    n_tasks = checkpoints.position(restored)[0] if restored else 0
    if learnt is None or restored is None or summary is None or not n_tasks:
        raise UserError(f"{folder.path} has not finished its first task yet; there is no class to forget")
    labels = classes_of(learnt.stream["tasks"][:n_tasks])
    found = find_classes(words, dict(zip(labels, learnt.names)))
    if not found:
        raise UserError("name at least one class to forget, e.g. --classes 3")
    if len(found) == len(labels):
        raise UserError(f"no class would be left in {folder.path}; delete the folder instead")
    forgotten = sorted(map(labels.index, found))
    device = choose_devices(None)[0]
    if config.method in TRAINS:
        check_precision(config.gan.precision, device)
    return _Asked(config, learnt, summary, restored, device, forgotten, Kept.without(learnt, forgotten, n_tasks))


def _forget(folder: Workdir, asked: _Asked, watch: Watch, note: Callable[[str], None]) -> Forgotten:
    """Computes what stays, writes it beside the old files, and exchanges them."""
    left = asked.learnt.of_classes(set(asked.kept.labels), asked.n_tasks)
    before, after = asked.stream(asked.learnt), asked.stream(left)
    old, new = (new_method(asked.config, stream, [asked.device]) for stream in (before, after))
    state = old.from_tree(asked.checkpoint.tree, asked.checkpoint.metadata, asked.n_tasks)
    found = new.forget(state, asked.forgotten, new_key(asked.config.seed), watch)

    entries, today = [], datetime.date.today().isoformat()
    for number, index in enumerate(asked.forgotten):
        together = classes_of(task for task in before.tasks[: asked.n_tasks] if index in task)
        others = [before.class_names[other] for other in together if other in asked.kept.classes]
        mates = [f"masks, norms and statistics of its task, with which {', '.join(others)} are drawn"] if others else []
        scale = [] if before.scale is None else [_SCALE_REMAINS]
        remains = [*(mates if found.weights else []), *found.remains, *scale]
        weights = found.weights[number] if found.weights else None
        facts = {"date": today, "finished_tasks": len(after.tasks)}
        name, label = before.class_names[index], before.classes[index]
        entries.append(forgetting.entry(name, label, weights, remains, **facts))
    record = Record.from_json(asked.checkpoint.metadata["record"])
    record = record.without(asked.forgotten, before.class_names, before.tasks[: asked.n_tasks])
    record.forgotten = [*record.forgotten, *entries]

    staged = Workdir(exchange.begin(folder.path))
    tree, plain = new.to_tree(found.state)
    place = staged.checkpoints / str(after.n_tasks - 1)
    checkpoint.save(place, jax.device_get(tree), checkpoint_metadata(asked.config, record, plain))
    bytes_kept, facts = new.memory_bytes(found.state), new.facts(found.state)
    summary = summarise(record, after, asked.config, [asked.device], bytes_kept, facts)
    files.write_json(staged.summary, summary.to_json())
    write_tables(staged, record, after, asked.config.protocol)
    forgetting.write_config(folder, staged, left)
    forgetting.write_metrics(folder, staged, asked.kept, record)
    forgetting.write_pictures(folder, staged, asked.kept, note)
    plan = forgetting.plan(folder, staged, {before.classes[index] for index in asked.forgotten})
    exchange.commit(folder.path, new=plan.new, removed=plan.removed)
    dropped = before.class_names[before.n_seen(asked.n_tasks - 1) :]
    return Forgotten(tuple(entries), left.names, dropped, tuple(plan.exported), tuple(plan.others))
