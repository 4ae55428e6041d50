"""Which checkpoints a run has: one after each task, and the newest two of a task in progress."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dgm_jax.system import checkpoint, processes

STEPS_PER_TASK = 1_000_000  # Checkpoint numbers: task * this + epochs done; a finished task ends in 999999.


class RunCheckpoints:
    """The checkpoints of one seed's run; of several processes, the first one deletes."""

    def __init__(self, folder: Path, *, kept: int | None = None) -> None:
        """Names the folder, touches nothing; `kept` checkpoints of finished tasks stay, or all if None."""
        self.folder, self.kept = folder, kept

    def save_in_progress(self, task: int, epochs_done: int, tree: dict[str, Any], plain: dict[str, Any]) -> None:
        """Saves a task in progress; the newest one before it stays, in case this one is damaged."""
        step = task * STEPS_PER_TASK + epochs_done
        older = self._in_progress_before(step)
        checkpoint.save(self.folder, step, tree, plain)
        processes.on_first(self._delete, older[:-1])

    def save_finished(self, task: int, tree: dict[str, Any], plain: dict[str, Any]) -> None:
        """Saves a finished task, and deletes checkpoints that are not needed any more."""
        step = (task + 1) * STEPS_PER_TASK - 1
        checkpoint.save(self.folder, step, tree, plain)
        self.delete_in_progress_before(step)
        if self.kept is not None:
            finished = [s for s in checkpoint.steps(self.folder) if _is_finished(s)]
            processes.on_first(self._delete, finished[: -self.kept])

    def restore(self, on_damage: Callable[[str], None]) -> checkpoint.Checkpoint | None:
        """The newest whole one, in all processes the same; None if there is none."""
        return processes.call_on_all(lambda: checkpoint.restore(self.folder, on_damage=on_damage))

    def delete_in_progress_before(self, step: int) -> None:
        """Deletes what a finished task makes needless; a kill can come after that was saved, and before this."""
        processes.on_first(self._delete, self._in_progress_before(step))

    def newest(self) -> str:
        """Where the newest one lies, for a message."""
        found = checkpoint.steps(self.folder)
        return str(self.folder / f"{found[-1]:010d}") if found else "none"

    def _in_progress_before(self, step: int) -> list[int]:
        """Checkpoints of tasks in progress; a kill can have left those of an earlier task."""
        return [s for s in checkpoint.steps(self.folder) if not _is_finished(s) and s < step]

    def _delete(self, steps: Sequence[int]) -> None:
        for step in steps:
            checkpoint.delete(self.folder, step)


def _is_finished(step: int) -> bool:
    return (step + 1) % STEPS_PER_TASK == 0
