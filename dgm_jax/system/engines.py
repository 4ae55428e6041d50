"""Where jobs become processes: this machine or a Slurm cluster, by submitit.

submitit starts the processes, writes the batch scripts, and gives jobs back to the queue when their time is up.
"""

import contextlib
import getpass
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dgm_jax.errors import UserError

T = TypeVar("T")

_YEAR = 365 * 24 * 60  # Minutes; submitit wants a limit.
_GPUS = "CUDA_VISIBLE_DEVICES"


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
        self.slots, self._cores, self._gpus = slots or 1, usable_cores(), _gpus()
        if self.slots > len(self._cores):
            raise UserError(
                f"--jobs {self.slots}: this machine has {len(self._cores)} usable cores; a job needs one, so use "
                f"--jobs {len(self._cores)} or fewer"
            )
        self._executor = submitit().LocalExecutor(folder)
        self._executor.update_parameters(timeout_min=_YEAR)

    def submit(self, name: str, work: Callable[[], int], slot: int) -> Any:
        """Starts a process on the cores of a slot."""
        gpus = share(self._gpus, slot, self.slots) if self._gpus else None
        with _on_cores(share(self._cores, slot, self.slots)):
            return self._executor.submit(_OnGpus(work, gpus))

    def ended(self, handles: Mapping[int, Any]) -> list[int]:
        """The slots whose processes have ended."""
        return [slot for slot, handle in handles.items() if handle.done()]

    def stop(self, handle: Any) -> None:
        """Sends SIGTERM to submitit's process, which passes it on; its own `cancel` would kill after a second."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(handle.job_id), signal.SIGTERM)


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


@dataclass(frozen=True)
class _OnGpus:
    """Work that sees some GPUs of this machine."""

    work: Callable[[], int]
    gpus: Sequence[str] | None

    def __call__(self) -> int:
        if self.gpus is None:
            os.environ.pop(_GPUS, None)  # submitit hides all.
        else:
            os.environ[_GPUS] = ",".join(self.gpus)
        return self.work()


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
