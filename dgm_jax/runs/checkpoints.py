"""Which checkpoints a run has: one after each task, and of a task in progress the newest two."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dgm_jax import checkpoint, processes

_STEPS_PER_TASK = 1_000_000  # Checkpoint numbers: task * this + epochs done; a finished task ends in 999999.


class RunCheckpoints:
    """The checkpoints of one seed's run; of several processes the first one deletes."""

    def __init__(self, folder: Path) -> None:
        """Names the folder; touches nothing."""
        self.folder = folder

    def save_in_progress(self, task: int, epochs_done: int, tree: dict[str, Any], plain: dict[str, Any]) -> None:
        """Saves a task in progress. Of the checkpoints of its earlier epochs the newest stays, should this one fail."""
        step = task * _STEPS_PER_TASK + epochs_done
        older = list(self._in_progress_before(step))
        checkpoint.save(self.folder, step, tree, plain)
        processes.on_first(self._delete, older[:-1])

    def save_finished(self, task: int, tree: dict[str, Any], plain: dict[str, Any]) -> None:
        """Saves a task that is over, and deletes those in the midst of it."""
        step = (task + 1) * _STEPS_PER_TASK - 1
        checkpoint.save(self.folder, step, tree, plain)
        self.delete_in_progress_before(step)

    def restore(self, on_damage: Callable[[str], None]) -> checkpoint.Checkpoint | None:
        """The newest whole one, in all processes the same; None if there is none."""
        return processes.together(lambda: checkpoint.restore(self.folder, on_damage=on_damage))

    def delete_in_progress_before(self, step: int) -> None:
        """Deletes what a finished task makes needless; a kill can come after that was saved, and before this."""
        processes.on_first(self._delete, list(self._in_progress_before(step)))

    def newest(self) -> str:
        """Where the newest one lies, in words for a person."""
        kept = checkpoint.steps(self.folder)
        return str(self.folder / f"{kept[-1]:010d}") if kept else "none"

    def _in_progress_before(self, step: int) -> Iterator[int]:
        """Checkpoints in the midst of a task; a kill can have left those of an earlier one."""
        return (s for s in checkpoint.steps(self.folder) if (s + 1) % _STEPS_PER_TASK and s < step)

    def _delete(self, steps: Sequence[int]) -> None:
        for step in steps:
            checkpoint.delete(self.folder, step)
