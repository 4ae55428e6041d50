"""Where jobs become processes: this machine or a Slurm cluster, by submitit.

submitit starts the processes, writes the batch scripts, and gives jobs back to the queue when their time is up.
"""

import contextlib
import getpass
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dgm_jax.errors import UserError

T = TypeVar("T")

_YEAR = 365 * 24 * 60  # Minutes; submitit wants a limit.
_GPUS = "CUDA_VISIBLE_DEVICES"
_DEVICES = Path("/dev")
_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # How much of a GPU's memory a process takes; JAX's default is 0.75.


class Engine(Protocol):
    """Starts work, each in a process, and knows which has ended."""

    slots: int  # At most so many at once.
    pause: float  # Seconds between two looks.
    patience: float  # Seconds until what a process has left is seen here.

    def submit(self, name: str, work: Callable[[], int], slot: int) -> Any:
        """Starts a process, or puts it into the queue; returns submitit's handle of it."""

    def ended(self, handles: Mapping[int, Any]) -> list[int]:
        """The slots whose processes have ended."""

    def stop(self, handle: Any) -> None:
        """Asks a process to end, by SIGTERM."""

    def kill(self, handle: Any) -> None:
        """Ends a process that was asked to end, at once."""


class Here:
    """This machine: its cores and GPUs are shared among the slots."""

    pause, patience = 0.2, 0.0

    def __init__(self, folder: Path, slots: int | None) -> None:
        """Starts nothing yet.

        Args:
          folder: for files of the engine.
          slots: how many processes at once; None: one.

        Raises:
          UserError: if there are fewer cores than slots.
        """
        self.slots, self._cores, self._folder = slots or 1, usable_cores(), folder
        if self.slots > len(self._cores):
            raise UserError(
                f"--jobs {self.slots}: this machine has {len(self._cores)} usable cores; a job needs one, so use "
                f"--jobs {len(self._cores)} or fewer"
            )
        self._executor = submitit().LocalExecutor(folder)
        self._executor.update_parameters(timeout_min=_YEAR)

    def submit(self, name: str, work: Callable[[], int], slot: int) -> Any:
        """Starts a process on the cores of a slot."""
        with _on_cores(share(self._cores, slot, self.slots)):
            return self._executor.submit(_InProcess(work, environment(slot, self.slots), self._folder))

    def ended(self, handles: Mapping[int, Any]) -> list[int]:
        """The slots whose processes have ended."""
        return [slot for slot, handle in handles.items() if handle.done()]

    def stop(self, handle: Any) -> None:
        """Sends SIGTERM to submitit's process, which passes it on; its own `cancel` would kill after a second."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(handle.job_id), signal.SIGTERM)

    def kill(self, handle: Any) -> None:
        """Sends SIGKILL to submitit's process and then to the one it has started, if that has begun its work."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(handle.job_id), signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
            os.kill(int(_pid_file(self._folder, handle.job_id).read_text()), signal.SIGKILL)
        while not handle.done():
            time.sleep(0.01)


class Slurm:
    """A cluster: Slurm says which process runs where, and on what."""

    pause, patience = 5.0, 10.0  # Files of other hosts may appear late.

    def __init__(self, folder: Path, slots: int | None, options: Mapping[str, str | bool]) -> None:
        """Starts nothing yet.

        Args:
          folder: for files of the engine; all hosts must share it.
          slots: how many jobs are in the queue at once; None: all.
          options: of sbatch, with underscores for dashes, e.g. {"partition": "gpu", "exclusive": True}.

        Raises:
          UserError: if there is no Slurm.
        """
        self.slots = slots or 1000
        try:
            self._executor = submitit().SlurmExecutor(folder, max_num_timeout=10**6)
        except RuntimeError as error:
            raise UserError("--launcher slurm: srun is not here; start this where jobs are submitted") from error
        self._executor.update_parameters(
            time=60,
            cpus_per_task=1,
            srun_args=[f"--cpus-per-task={options.get('cpus_per_task', 1)}"],  # srun does not take it from sbatch.
            stderr_to_stdout=True,
            additional_parameters=dict(options),
        )

    def submit(self, name: str, work: Callable[[], int], slot: int) -> Any:
        """Puts a job into the queue; raises UserError if Slurm refuses it."""
        from submitit.core.utils import FailedJobError

        self._executor.update_parameters(job_name=f"dgm_jax {name}")
        try:
            return self._executor.submit(work)
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
        """Takes a job out of the queue; if it runs, it gets SIGTERM, and is killed after Slurm's KillWait."""
        handle.cancel(check=False)

    def kill(self, handle: Any) -> None:
        """Nothing: after `stop`, Slurm does it."""


@dataclass(frozen=True)
class _InProcess:
    """Work in a process of this machine."""

    work: Callable[[], int]
    environment: Mapping[str, str | None]  # None: the variable is not set.
    folder: Path

    def __call__(self) -> int:
        parent = os.environ["SUBMITIT_LOCAL_JOB_ID"]
        _pid_file(self.folder, parent).write_text(str(os.getpid()))
        if os.getppid() != int(parent):  # It was killed before it could be known that this process is to be killed too.
            return 1
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        return self.work()

    def checkpoint(self) -> Any:
        """What submitit runs when the work has its turn again: the same."""
        return submitit().helpers.DelayedSubmission(self)


def _pid_file(folder: Path, job_id: str) -> Path:
    return folder / f"{job_id}.pid"


def submitit() -> Any:
    """The package; if it were let, its import would close the handlers of all loggers of this process."""
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    import submitit

    return submitit


def usable_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share(items: Sequence[T], slot: int, slots: int) -> Sequence[T]:
    """The part of `items` that a slot gets: equally many for each, or one that slots share if there are too few."""
    if len(items) < slots:
        return [items[slot % len(items)]]
    each = len(items) // slots
    return items[slot * each : (slot + 1) * each]


def environment(slot: int, slots: int) -> dict[str, str | None]:
    """The variables that tell a slot's process which GPUs it sees, and how much of their memory is its own."""
    found = {_GPUS: os.environ.get(_GPUS)}  # submitit hides all GPUs.
    gpus = _gpus()
    if slots == 1 or not gpus:
        return found
    found[_GPUS] = ",".join(share(gpus, slot, slots))
    sharing = -(-slots // len(gpus))
    if sharing > 1 and not any(name in os.environ for name in (_FRACTION, "XLA_CLIENT_MEM_FRACTION")):
        found[_FRACTION] = f"{0.9 / sharing:.3f}"
    return found


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA names them: it counts what is here, whatever the files say."""
    chosen = os.environ.get(_GPUS)
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip()]
    return [str(number) for number, _ in enumerate(_DEVICES.glob("nvidia[0-9]*"))]


@contextlib.contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """A process that is started meanwhile runs on these cores."""
    if not hasattr(os, "sched_setaffinity"):  # macOS has no such call.
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)
