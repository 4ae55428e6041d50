"""Back to an earlier day: a new run goes on from what another run knew after one of its tasks.

Checkpoints of finished tasks hold the whole state, so what is restored is exact. The other run's folder is only read.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from dgm_jax.data import TaskStream
from dgm_jax.data.stream import describe
from dgm_jax.errors import OtherConfiguration
from dgm_jax.methods import config_of
from dgm_jax.runs import checkpoints
from dgm_jax.runs.continuation import LearntSoFar, place_after
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.opening import check_fit
from dgm_jax.runs.reading import read_config, require_run
from dgm_jax.system import checkpoint, files, processes
from dgm_jax.system.lock import RunLock


def branch(
    source: str | Path, after_task: int, stream: TaskStream, workdir: str | Path, *, more_of_known: bool = False
) -> None:
    """Makes the folder of a run that knows what another run knew after a task; `Learner.fit` then goes on in it.

    Nothing happens if the folder is there already, made in the same way: its run may have been interrupted.

    Args:
      source: the folder of the other run, finished or not.
      after_task: the task, from 0.
      stream: what is to be learnt from there on: the stream (or stage) that the task came in, of which the tasks up to
        it are left out; or new classes only, whose images then are the only ones.
      workdir: the folder to make.
      more_of_known: the stream may also have more images of classes that the other run knew after the task.

    Raises:
      NoRun: if `source` is not the folder of a run.
      OtherConfiguration: if it has no checkpoint of the task, the stream cannot follow it, or `workdir` holds
        something else.
      ConfigError: if the other run's settings have no room for the stream, or its method cannot learn it.
      DamagedCheckpoint, NewerFormat, WorkdirInUse, WorkdirError: about the two folders.
    """
    old, new = require_run(Path(source)), Workdir(workdir)
    origin = {"workdir": str(old.path.resolve()), "after_task": after_task}
    if processes.call_on_all(_is_there, new, origin):
        return
    kept = processes.call_on_all(checkpoints.after_task, old.checkpoints, after_task)
    config = processes.call_on_all(_configuration, old, stream, after_task, more_of_known)
    with contextlib.ExitStack() as held:
        processes.on_first(lambda: held.enter_context(RunLock(new.path)))
        processes.on_first(files.write_json, new.begun_from, origin)
        checkpoint.save(new.checkpoints / str(after_task), kept.tree, kept.metadata)
        processes.on_first(_copy_results, old, new, after_task)
        processes.on_first(files.write_json, new.config, config)  # Last: with it, the folder is a run's.


def _is_there(new: Workdir, origin: dict[str, Any]) -> bool:
    """Whether the folder is that of the run to be made; refuses one that holds something else."""
    is_same = new.begun_from.exists() and json.loads(new.begun_from.read_text("utf-8")) == origin
    there = [path.name for path in new.path.iterdir() if path.name[0] != "."] if new.path.is_dir() else []
    if there and not is_same:
        raise OtherConfiguration(
            f"{new.path} holds something else than a run from {origin['workdir']} after task {origin['after_task']} "
            f"({', '.join(sorted(there)[:3])}); choose another --workdir"
        )
    return new.config.exists()


def _configuration(old: Workdir, stream: TaskStream, after_task: int, more_of_known: bool) -> dict[str, Any]:
    """The new run's config.json: the settings of the old one, and both streams together."""
    found = read_config(old)
    learnt = LearntSoFar.of(found)
    if learnt is None:
        raise OtherConfiguration(f"{old.path} was made by a version that did not name classes; it has no way back")
    try:
        placement = place_after(stream, learnt, after_task + 1, more_of_known=more_of_known)
    except OtherConfiguration as error:
        raise OtherConfiguration(f"{old.path} after task {after_task} {error}") from error
    check_fit(config_of(found.settings), placement.stream)
    return {
        "format_version": found.format_version,
        "protocol": found.settings.get("protocol", "strict"),
        "config": found.settings,
        "stream": describe(placement.stream),
        "class_names": list(placement.stream.class_names),
        "stages": list(placement.stages),
        **({"before": found.before} if found.before else {}),
    }


def _copy_results(old: Workdir, new: Workdir, after_task: int) -> None:
    """Copies what results there are of the tasks so far; the run itself removes later lines, and real images stay."""
    if old.metrics.exists():
        files.write_atomically(new.metrics, old.metrics.read_bytes())
    files.make_folder(new.samples)
    for path in old.samples.glob("after_task_*.*"):
        if int(path.stem.removeprefix("after_task_")) <= after_task:
            files.write_atomically(new.samples / path.name, path.read_bytes())
