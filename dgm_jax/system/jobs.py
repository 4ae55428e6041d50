"""Many jobs, each a process: at most so many at once on this machine, or all in the queue of a Slurm cluster.

submitit starts the processes, writes the batch scripts and gives jobs back to the queue when their time is up. What a
job has done is read from what it leaves on disk, so a job that is lost is simply started again.
"""

import contextlib
import getpass
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from dgm_jax.errors import UserError
from dgm_jax.system.interruption import sigterm_raises

T = TypeVar("T")

_STOPPED = 143  # The exit status of a command that SIGTERM has ended.
_YEAR = 365 * 24 * 60  # Minutes; submitit wants a limit.
_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Job:
    """What a process does.

    Calling it runs it here and returns its exit status.
    """

    name: str
    function: Callable[[], int]  # Returns an exit status, as a command does; it is pickled.
    log: Path  # The file that gets what the function prints.

    def __call__(self) -> int:
        """Runs the function; where Slurm has announced the end of the job's time, gives the job back to the queue."""
        requeue, announced = signal.getsignal(signal.SIGUSR2), []

        def end_soon(*_: object) -> None:
            announced.append(True)
            signal.raise_signal(signal.SIGTERM)

        # submitit ignores SIGTERM. The function saves its work and ends.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, end_soon)
        with _printing_to(self.log):
            try:
                status = self.function()
            except Exception:
                traceback.print_exc()
                status = 1
        if announced and status == _STOPPED and callable(requeue):
            requeue(signal.SIGUSR2, None)
        return status

    def checkpoint(self) -> Any:
        """What submitit runs when the job has its turn again: the same."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class Launcher:
    """Where jobs run."""

    kind: Literal["local", "slurm"] = "local"
    at_once: int | None = None  # At most so many jobs; None: one after the other here, all in the queue of Slurm.
    slurm: Mapping[str, str | bool] | None = None  # Options of sbatch, e.g. {"partition": "gpu", "exclusive": True}.


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
        engine: _Engine = (_Slurm if launcher.kind == "slurm" else _Here)(Path(own), launcher)
        waiting, running = list(jobs), dict[int, tuple[Job, Any]]()
        try:
            with sigterm_raises():
                while waiting or running:
                    for slot in sorted(set(range(engine.slots)) - set(running))[: len(waiting)]:
                        job = waiting.pop(0)
                        running[slot] = (job, engine.submit(job, slot))
                        listener.on_start(job)
                    for slot in engine.ended({slot: handle for slot, (_, handle) in running.items()}):
                        job, handle = running.pop(slot)
                        if (failure := _failure(job, handle)) is not None:
                            failed[job] = failure
                        listener.on_end(job, failure)
                    time.sleep(engine.pause)
        except BaseException:
            listener.on_stop(len(running))
            _stop(engine, {slot: handle for slot, (_, handle) in running.items()})
            raise
    return failed


class _Engine(Protocol):
    """Starts jobs and knows which have ended."""

    slots: int  # At most so many jobs at once.
    pause: float  # Seconds between two looks.

    def submit(self, job: Job, slot: int) -> Any: ...

    def ended(self, handles: Mapping[int, Any]) -> list[int]: ...

    def stop(self, handle: Any) -> None: ...


class _Here:
    """This machine: its cores and GPUs are shared among the slots."""

    pause = 0.2

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        import submitit

        self.slots = launcher.at_once or 1
        self._cores = usable_cores()
        if self.slots > len(self._cores):
            raise UserError(
                f"--jobs {self.slots}: this machine has {len(self._cores)} usable cores; a job needs one, so use "
                f"--jobs {len(self._cores)} or fewer"
            )
        self._gpus = _gpus()
        self._executor = submitit.LocalExecutor(folder)
        self._executor.update_parameters(timeout_min=_YEAR)

    def submit(self, job: Job, slot: int) -> Any:
        gpus = share(self._gpus, slot, self.slots) if self._gpus else None
        with _inherited(share(self._cores, slot, self.slots)):
            return self._executor.submit(_OnGpus(job, gpus))

    def ended(self, handles: Mapping[int, Any]) -> list[int]:
        return [slot for slot, handle in handles.items() if handle.done()]

    def stop(self, handle: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(handle.job_id), signal.SIGTERM)  # submitit's process passes it on; its own `cancel` would kill.


class _Slurm:
    """A cluster: Slurm says which job runs where and on what."""

    pause = 5.0

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        import submitit

        self.slots = launcher.at_once or 1000
        try:
            self._executor = submitit.SlurmExecutor(folder, max_num_timeout=10**6)
        except RuntimeError as error:
            raise UserError("--launcher slurm: srun is not here; start this where jobs are submitted") from error
        self._executor.update_parameters(
            time=60, cpus_per_task=1, stderr_to_stdout=True, additional_parameters=dict(launcher.slurm or {})
        )

    def submit(self, job: Job, slot: int) -> Any:
        from submitit.core.utils import FailedJobError

        self._executor.update_parameters(job_name=f"dgm_jax {job.name}")
        try:
            return self._executor.submit(job)
        except FailedJobError as error:
            raise UserError(f"--launcher slurm: {error}; see --slurm") from error

    def ended(self, handles: Mapping[int, Any]) -> list[int]:
        """Those that are not in the queue; submitit would ask the accounting, which not every cluster has."""
        queue = ["squeue", "--noheader", "--format=%A", f"--user={getpass.getuser()}"]
        found = subprocess.run(queue, capture_output=True, text=True)
        if found.returncode:
            return []  # Slurm does not answer now.
        return [slot for slot, handle in handles.items() if handle.job_id not in found.stdout.split()]

    def stop(self, handle: Any) -> None:
        handle.cancel(check=False)


@dataclass(frozen=True)
class _OnGpus:
    """A job of this machine that sees some of its GPUs."""

    job: Job
    gpus: Sequence[str] | None

    def __call__(self) -> int:
        if self.gpus is None:
            os.environ.pop(_GPUS, None)  # submitit hides all.
        else:
            os.environ[_GPUS] = ",".join(self.gpus)
        return self.job()


def usable_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share(items: Sequence[T], slot: int, slots: int) -> Sequence[T]:
    """The part of `items` that a slot gets; slots share an item only if there are too few."""
    if len(items) < slots:
        return [items[slot % len(items)]]
    return items[slot * len(items) // slots : (slot + 1) * len(items) // slots]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA names them."""
    chosen = os.environ.get(_GPUS)
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip()]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


@contextlib.contextmanager
def _inherited(cores: Sequence[int]) -> Iterator[None]:
    """A process that is started meanwhile runs on these cores, and does not hear the terminal's Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pins = hasattr(os, "sched_setaffinity")  # macOS has no such call.
    ours = usable_cores()
    try:
        if pins:
            os.sched_setaffinity(0, cores)
        yield
    finally:
        if pins:
            os.sched_setaffinity(0, ours)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def _stop(engine: _Engine, handles: dict[int, Any]) -> None:
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


def _failure(job: Job, handle: Any) -> str | None:
    """What went wrong in a job that has ended."""
    from submitit.core.utils import FailedJobError

    deadline = time.monotonic() + 5
    while not handle.paths.result_pickle.exists():  # A network file system may show it late.
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
