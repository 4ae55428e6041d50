"""Many jobs, each a process: at most so many at once on this machine, or all in the queue of a Slurm cluster.

What a job has done is read from what it leaves on disk, so a job that is lost is simply started again.
"""

import contextlib
import math
import os
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

from dgm_jax.errors import Terminated
from dgm_jax.system.engines import Engine, Here, Slurm, submitit
from dgm_jax.system.interruption import Signals, sigterm_raises

_STOPPED = 143  # The exit status of a command that SIGTERM has ended.


@dataclass(frozen=True)
class Job:
    """What a process does: calling it runs the function, and returns its exit status."""

    name: str
    function: Callable[[], int]  # Returns an exit status, as a command does; it is pickled.
    log: Path  # The file that gets what the function prints.

    def __call__(self) -> int:
        """Runs the function; where Slurm has announced the end of the job's time, gives the job back to the queue."""
        requeue, announced = signal.getsignal(signal.SIGUSR2), []

        def end_soon(*_: object) -> None:
            announced.append(True)
            Signals.patience = math.inf  # When the time is really up, Slurm sends SIGTERM, which ends the work at once.
            signal.raise_signal(signal.SIGTERM)

        # submitit ignores SIGTERM. The function saves its work and ends.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, end_soon)
        with _printing_to(self.log):
            try:
                status = self.function()
            except Exception:  # Any error: it is in the log, and the other jobs go on.
                traceback.print_exc()
                status = 1
        if announced and status == _STOPPED and callable(requeue):
            requeue(signal.SIGUSR2, None)
        return status

    def checkpoint(self) -> Any:
        """What submitit runs when the job has its turn again: the same."""
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

    Ctrl-C and SIGTERM reach all jobs as SIGTERM: each saves its work and ends. A second one ends them at once.

    Args:
      jobs: each has a log of its own.
      launcher: where they run.
      folder: the engine's own files are in it meanwhile; the hosts of a cluster must share it.
      listener: hears what becomes of them.

    Returns:
      What went wrong in a job, for those in which something did.

    Raises:
      UserError: if the machine has fewer cores than jobs at once, there is no Slurm, or Slurm refuses the job.
      KeyboardInterrupt, Terminated: after Ctrl-C or SIGTERM, when all jobs have ended.
    """
    failed: dict[Job, str] = {}
    if not jobs:
        return failed
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".jobs-", dir=folder, ignore_cleanup_errors=True) as own:
        engine = launcher.engine(Path(own))
        waiting, running = list(jobs), dict[int, tuple[Job, Any]]()
        try:
            with sigterm_raises():
                while waiting or running:
                    for slot in sorted(set(range(engine.slots)) - set(running))[: len(waiting)]:
                        job = waiting.pop(0)
                        with _undisturbed():
                            running[slot] = (job, engine.submit(job.name, job, slot))
                        listener.on_start(job)
                    for slot in engine.ended({slot: handle for slot, (_, handle) in running.items()}):
                        job, handle = running.pop(slot)
                        if (failure := _failure(job, handle, engine.patience)) is not None:
                            failed[job] = failure
                        listener.on_end(job, failure)
                    time.sleep(engine.pause)
        except BaseException:
            listener.on_stop(len(running))
            _stop(engine, {slot: handle for slot, (_, handle) in running.items()})
            raise
    return failed


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


def _stop(engine: Engine, handles: dict[int, Any]) -> None:
    """Ends jobs, and waits until they have saved; another Ctrl-C asks them again, which ends them at once."""
    asked = False
    while handles:
        try:
            with sigterm_raises():
                if not asked:
                    asked = True
                    for handle in handles.values():
                        engine.stop(handle)
                for slot in engine.ended(handles):
                    del handles[slot]
                time.sleep(engine.pause)
        except KeyboardInterrupt:
            asked = False


def _failure(job: Job, handle: Any, patience: float) -> str | None:
    """What went wrong in a job that has ended."""
    from submitit.core.utils import FailedJobError

    deadline = time.monotonic() + patience
    while not handle.paths.result_pickle.exists():
        if time.monotonic() > deadline:
            return f"its process was killed; run the same command to start it again (its output is in {job.log})"
        time.sleep(0.5)
    try:
        status = handle.result()
    except FailedJobError as error:  # The process could not even begin with it.
        return f"{str(error).strip().splitlines()[-1]} (the job could not begin)"
    if not status:
        return None
    lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    message = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "")
    return f"{message.removeprefix('error: ')[:300]} (status {status}; the full output is in {job.log})"
