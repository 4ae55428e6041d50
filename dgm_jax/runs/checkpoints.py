"""Which checkpoints a run has, and where: one after each task, and the newest two of a task in progress.

`<t>` is the state after task t (0 is the first). These folders lie where Orbax's own readers look for steps, so that
they find finished tasks only. `within_task/<n>` is a task in progress; n is task * 1,000,000 + epochs done. Earlier
versions had both in one folder, with n in ten digits, which ended in 999999 for a finished task; they are still read.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dgm_jax.errors import OtherConfiguration
from dgm_jax.system import checkpoint, processes

Position = tuple[int, int]  # (finished tasks, epochs done of the next), as `Record.position`.

_WITHIN_TASK = "within_task"
_PER_TASK = 1_000_000
_EARLIER = re.compile("[0-9]{10,}")  # The names that earlier versions gave.
_NAMES = re.compile("0|[1-9][0-9]*")


def restore(
    directory: Path,
    on_damage: Callable[[str], None],
    *,
    wanted: Callable[[checkpoint.Checkpoint], bool] = lambda _: True,
) -> checkpoint.Checkpoint | None:
    """Reads the newest intact checkpoint of a run, and verifies it.

    Args:
      directory: the run's folder of checkpoints; the run may be in progress.
      on_damage: called with a message for each damaged checkpoint that is skipped: what is damaged, and which
        checkpoint is used instead.
      wanted: skip checkpoints for which this is false.

    Returns:
      The checkpoint; None if there is none.

    Raises:
      DamagedCheckpoint: if there are checkpoints but none is intact.
      NewerFormat: if a later version of this package wrote it; skipping it would lose work without notice.
      UnreadableCheckpoint, OSError, MemoryError: if one cannot be read although its checksums do not differ; an older
        one would lose work, too.
    """
    damaged: list[str] = []
    is_any_intact = False
    for folder in reversed(_folders(directory)):
        try:
            found = checkpoint.read(folder)
            _require_position(found)
        except checkpoint.DamagedCheckpoint as error:
            if not folder.exists():  # Since it was listed, a running process has replaced or deleted it.
                return restore(directory, on_damage, wanted=wanted)
            damaged.append(str(error))
            continue
        is_any_intact = True
        if wanted(found):
            for text in damaged:
                on_damage(f"{text}; {folder} is used instead.")
            return found
    if damaged and not is_any_intact:
        raise checkpoint.DamagedCheckpoint(
            f"no intact checkpoint is left in {directory}; restore one from a backup, or start in another folder:\n  "
            + "\n  ".join(damaged)
        )
    for text in damaged:
        on_damage(text)
    return None


def after_task(directory: Path, task: int) -> checkpoint.Checkpoint:
    """Reads and verifies the checkpoint of a finished task.

    Raises:
      OtherConfiguration: if there is none; the text says of which tasks there are some.
      DamagedCheckpoint, NewerFormat, UnreadableCheckpoint, OSError, MemoryError: as `restore` does.
    """
    finished = [folder for folder in _folders(directory) if _is_finished(folder) and checkpoint.is_described(folder)]
    tasks = [_position(folder)[0] - 1 for folder in finished]
    if task not in tasks:
        there = f"after tasks {', '.join(map(str, tasks))}" if tasks else "of no task"
        raise OtherConfiguration(
            f"{directory} has no state after task {task}, only those {there} (0 is the first; some methods keep the "
            "newest ones only)"
        )
    found = checkpoint.read(next(f for f, of in zip(reversed(finished), reversed(tasks), strict=True) if of == task))
    _require_position(found)
    return found


def position(found: checkpoint.Checkpoint) -> Position:
    """Where in its stream a run stood, as the checkpoint itself says."""
    record = found.metadata["record"]
    return record["finished_tasks"], record["epochs_done"]


class RunCheckpoints:
    """The checkpoints of one seed's run; of several processes, the first one deletes."""

    def __init__(self, folder: Path, *, kept: int | None = None) -> None:
        """Names the folder, touches nothing; `kept` checkpoints of finished tasks stay, or all if None."""
        self.folder, self.kept = folder, kept
        self.newest: Path | None = None  # The last one that was saved or restored.

    def save_in_progress(self, task: int, epochs_done: int, tree: dict[str, Any], plain: dict[str, Any]) -> None:
        """Saves a task in progress; the newest one before it stays, in case this one is damaged."""
        older = self._in_progress_before((task, epochs_done))
        self._save(self.folder / _WITHIN_TASK / str(task * _PER_TASK + epochs_done), tree, plain)
        processes.on_first(self._delete, older[:-1])

    def save_finished(self, task: int, tree: dict[str, Any], plain: dict[str, Any]) -> None:
        """Saves a finished task, and only then deletes checkpoints that are not needed any more."""
        self._save(self.folder / str(task), tree, plain)
        self._delete_in_progress_before((task + 1, 0))
        if self.kept is not None:
            finished = [f for f in _folders(self.folder) if _is_finished(f) and checkpoint.is_described(f)]
            processes.on_first(self._delete, finished[: -self.kept])

    def restore(self, on_damage: Callable[[str], None]) -> checkpoint.Checkpoint | None:
        """The newest intact one, in all processes the same; None if there is none."""
        found: checkpoint.Checkpoint | None = processes.call_on_all(lambda: restore(self.folder, on_damage))
        if found is not None:
            self.newest = found.folder
            if _is_finished(found.folder):  # A kill may have come before this.
                self._delete_in_progress_before(_position(found.folder))
        return found

    def _save(self, folder: Path, tree: dict[str, Any], plain: dict[str, Any]) -> None:
        checkpoint.save(folder, tree, plain)
        self.newest = folder

    def _in_progress_before(self, end: Position) -> list[Path]:
        """Checkpoints of tasks in progress; a kill can have left those of an earlier task."""
        return [f for f in _folders(self.folder) if not _is_finished(f) and _position(f) < end]

    def _delete_in_progress_before(self, end: Position) -> None:
        processes.on_first(self._delete, self._in_progress_before(end))
        processes.on_first(self._delete_empty)

    def _delete(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            checkpoint.delete(folder)

    def _delete_empty(self) -> None:
        """Deletes the folder of what was saved within tasks, with remains of a kill, if no checkpoint is left in it."""
        within = self.folder / _WITHIN_TASK
        if within.is_dir() and not any(_NAMES.fullmatch(path.name) for path in within.iterdir()):
            checkpoint.delete(within)


def _folders(directory: Path) -> list[Path]:
    """The folders of all checkpoints, intact or not, oldest first; of two of one position, that of this version last.

    They are in the order of the positions that their names mean, which `restore` compares with what they say.
    """
    paths = [path for folder in (directory, directory / _WITHIN_TASK) if folder.is_dir() for path in folder.iterdir()]
    found = [p for p in paths if (_NAMES.fullmatch(p.name) or _is_of_earlier_version(p)) and p.is_dir()]
    return sorted(found, key=lambda path: (_position(path), not _is_of_earlier_version(path)))


def _is_of_earlier_version(folder: Path) -> bool:
    return folder.parent.name != _WITHIN_TASK and _EARLIER.fullmatch(folder.name) is not None


def _position(folder: Path) -> Position:
    """The position that a folder's name means."""
    number = int(folder.name)
    if folder.parent.name != _WITHIN_TASK and not _is_of_earlier_version(folder):
        return number + 1, 0
    task, epochs_done = divmod(number, _PER_TASK)
    return (task + 1, 0) if epochs_done == _PER_TASK - 1 else (task, epochs_done)


def _is_finished(folder: Path) -> bool:
    return _position(folder)[1] == 0


def _require_position(found: checkpoint.Checkpoint) -> None:
    """Refuses a folder whose name and content disagree about the position."""
    try:
        says = position(found)
    except (KeyError, TypeError):
        says = None
    if says != _position(found.folder):
        raise checkpoint.DamagedCheckpoint(
            f"{found.folder} is damaged: expected (finished tasks, epochs done) {_position(found.folder)}, as the "
            f"folder's name says, found {says}"
        )
