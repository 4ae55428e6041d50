"""Many jobs, each a process: at most so many at once on this machine, or all in the queue of a Slurm cluster.

What a job has done is read from what it leaves on disk, so a job that is lost is simply started again.
"""

import contextlib
import math
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from dgm_jax.errors import Terminated, UserError
from dgm_jax.system.engines import Engine, Here, Slurm, submitit
from dgm_jax.system.interruption import Signals, sigterm_raises

_STOPPED = 143  # The exit status of a command that SIGTERM has ended.
_STARTS_IN_VAIN = 3  # A job fails after this many in a row. One start may only have compiled, which helps the next.
_REFUSED = 60.0  # Seconds until a job that Slurm has refused is submitted again.


@dataclass(frozen=True)
class Job:
    """What a process does: calling it runs the function, and returns its exit status."""

    name: str
    function: Callable[[], int]  # Returns an exit status, as a command does; it is pickled.
    log: Path  # The file that gets what the function prints.
    saved: Callable[[], object] | None = None  # Returns something else when the function has saved more of its work.
    begun: list[object] = field(default_factory=list, compare=False)  # What was saved when each start began.

    def __call__(self) -> int:
        """Runs the function; where Slurm has announced the end of the job's time, gives the job back to the queue.

        It fails instead if its last starts have saved nothing.
        """
        requeue, announced = signal.getsignal(signal.SIGUSR2), []

        def end_soon(*_: object) -> None:
            announced.append(True)
            Signals.patience = math.inf  # When the time is really up, Slurm sends SIGTERM, which ends the work at once.
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # The function does not listen, so SIGTERM kills it.
                raise Terminated
            signal.raise_signal(signal.SIGTERM)

        # submitit ignores SIGTERM. The function saves its work and ends.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, end_soon)
        with _printing_to(self.log):
            try:
                self.begun.append(self._saved())
                status = self.function()
            except Terminated:
                status = _STOPPED
            except Exception:  # Any error: it is in the log, and the other jobs go on.
                traceback.print_exc()
                status = 1
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            is_again = bool(announced) and status == _STOPPED
            if is_again and self.begun[-_STARTS_IN_VAIN:] == [self._saved()] * _STARTS_IN_VAIN:
                is_again = False
                print(
                    f"its time was up {_STARTS_IN_VAIN} times in a row, and nothing more was saved; give it more time, "
                    "e.g. --slurm time=240"
                )
        if is_again and callable(requeue):
            requeue(signal.SIGUSR2, None)
        return status

    def _saved(self) -> object:
        return None if self.saved is None else self.saved()

    def checkpoint(self) -> Any:
        """What submitit runs when the job has its turn again: the same, which knows what its starts have saved."""
        return submitit().helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class Launcher:
    """Where jobs run."""

    kind: Literal["local", "slurm"] = "local"
    at_once: int | None = None  # At most so many jobs; None: one after the other here, all in the queue of Slurm.
    slurm: Mapping[str, str | bool] = field(default_factory=dict)  # Options of sbatch, as `engines.Slurm` takes them.

    def engine(self, folder: Path) -> Engine:
        """What starts the jobs; raises UserError if it cannot."""
        return Slurm(folder, self.at_once, self.slurm) if self.kind == "slurm" else Here(folder, self.at_once)


class Listener(Protocol):
    """Hears what becomes of jobs."""

    def on_start(self, job: Job) -> None:
        """A job begins, or is in the queue of Slurm."""

    def on_end(self, job: Job, failure: str | None) -> None:
        """A job has ended; `failure` says what went wrong, if anything."""

    def on_stop(self, running: int) -> None:
        """So many jobs are asked to save their work and to end."""


def run(jobs: Sequence[Job], launcher: Launcher, folder: Path, listener: Listener) -> dict[Job, str]:
    """Runs jobs in their order, and waits for them.

    Ctrl-C and SIGTERM reach all jobs as SIGTERM: each saves its work and ends. A second one ends them at once here, and
    leaves them to Slurm. A job that Slurm refuses is submitted again when another one has ended, or after a while.

    Args:
      jobs: each has a log of its own.
      launcher: where they run.
      folder: the engine's own files are in it meanwhile; the hosts of a cluster must share it.
      listener: hears what becomes of them.

    Returns:
      What went wrong in a job, for those in which something did.

    Raises:
      UserError: if the machine has fewer cores than jobs at once, there is no Slurm, or Slurm refuses a job when no
        other one runs.
      KeyboardInterrupt, Terminated: after Ctrl-C or SIGTERM, when all jobs have ended.
    """
    failed: dict[Job, str] = {}
    if not jobs:
        return failed
    folder.mkdir(parents=True, exist_ok=True)
    own = tempfile.TemporaryDirectory(prefix=".jobs-", dir=folder, ignore_cleanup_errors=True)
    with own, sigterm_raises():
        engine = launcher.engine(Path(own.name))
        waiting, running, not_before = list(jobs), dict[int, tuple[Job, Any]](), 0.0
        try:
            while waiting or running:
                if time.monotonic() >= not_before and not _submit(engine, waiting, running, listener):
                    not_before = time.monotonic() + _REFUSED
                for slot in engine.ended({slot: handle for slot, (_, handle) in running.items()}):
                    job, handle = running.pop(slot)
                    if (failure := _failure(job, handle, engine.patience)) is not None:
                        failed[job] = failure
                    listener.on_end(job, failure)
                    not_before = 0.0
                time.sleep(engine.pause)
        except BaseException:
            _stop(engine, {slot: handle for slot, (_, handle) in running.items()}, listener)
            raise
    return failed


def _submit(engine: Engine, waiting: list[Job], running: dict[int, tuple[Job, Any]], listener: Listener) -> bool:
    """Starts as many of the waiting jobs as there are free slots; returns whether none was refused."""
    for slot in sorted(set(range(engine.slots)) - set(running))[: len(waiting)]:
        job = waiting[0]
        job.log.unlink(missing_ok=True)  # That of an earlier start would mislead.
        try:
            with _undisturbed():
                running[slot] = (job, engine.submit(job.name, job, slot))
        except UserError:
            if not running:
                raise
            return False
        waiting.pop(0)
        listener.on_start(job)
    return True


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until a process is started and known; it will not hear the terminal's Ctrl-C itself."""
    heard = []
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True)) if here else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # The process inherits it.
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if heard:
        raise Terminated


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """What this process prints goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = {number: os.dup(number) for number in (1, 2)}
    try:
        with log.open("w") as file:
            for number in before:
                os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in before.items():
            os.dup2(kept, number)


def _stop(engine: Engine, handles: dict[int, Any], listener: Listener) -> None:
    """Asks jobs to end, and waits until they have saved; another Ctrl-C or SIGTERM ends them at once."""
    begun, asked = time.monotonic(), False
    while not asked or handles:
        try:
            if asked:
                for slot in engine.ended(handles):
                    del handles[slot]
                time.sleep(engine.pause)
                continue
            asked = True
            with _undisturbed():
                listener.on_stop(len(handles))
                for handle in handles.values():
                    engine.stop(handle)
        except KeyboardInterrupt as again:
            if isinstance(again, Terminated) and time.monotonic() < begun + 1:  # A parent may pass on the first one.
                continue
            with _undisturbed():
                for handle in handles.values():
                    engine.kill(handle)
            raise


def _failure(job: Job, handle: Any, patience: float) -> str | None:
    """What went wrong in a job that has ended."""
    deadline = time.monotonic() + patience
    while not handle.paths.result_pickle.exists():
        if time.monotonic() > deadline:
            return f"its process was killed; run the same command to start it again (its output is in {job.log})"
        time.sleep(0.5)
    outcome, status = pickle.loads(handle.paths.result_pickle.read_bytes())
    if outcome == "error":  # It has a traceback for a status, and it is not the function's.
        where = f"its output is in {job.log}" if job.log.exists() else "the job could not begin"
        return f"{status.strip().splitlines()[-1]} ({where})"
    if not status:
        return None
    lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    message = next((line for line in reversed(lines) if status != _STOPPED and "error" in line.lower()), last)
    return f"{message.removeprefix('error: ')[:300]} (status {status}; the full output is in {job.log})"
