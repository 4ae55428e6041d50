"""A lock that lets only one run at a time use a work folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from dgm_jax.errors import UserError
from dgm_jax.system.files import PathLike


class WorkdirError(UserError, RuntimeError):
    """A work folder that cannot be created, written or locked."""


class WorkdirInUse(UserError, RuntimeError):
    """A work folder that another running process uses."""


class RunLock:
    """Locks a work folder for one run: `with RunLock(workdir): ...`; creates the folder if it is missing.

    The lock belongs to the open file, not to its name `.lock`. The operating system releases it when the process ends,
    even if it is killed, and the file that is left behind locks nothing.
    """

    def __init__(self, workdir: PathLike) -> None:
        """Stores the path; `with` creates and locks the folder."""
        self.workdir = Path(workdir)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """Takes the lock, without waiting for it.

        Raises:
          WorkdirInUse: if another run has it; the message names its process, host and folder.
          WorkdirError: if the folder cannot be created, written or locked.
        """
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error("cannot be created", error) from error
        if not os.access(self.workdir, os.W_OK | os.X_OK):
            raise WorkdirError(f"--workdir {self.workdir} is not writable by this user; choose another.")
        try:
            descriptor = os.open(self.workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._error("cannot be written", error) from error
        try:
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Releases the lock. `.lock` stays: if it were deleted, two runs could lock two files of that name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _error(self, what: str, error: OSError) -> WorkdirError:
        return WorkdirError(f"--workdir {self.workdir} {what} ({error.strerror}); choose another.")

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirInUse(
                f"--workdir {self.workdir} is in use by {_holder(descriptor)}; "
                "wait until it ends, or choose another --workdir."
            ) from None
        except OSError as error:  # Some network file systems have no locks.
            raise self._error("cannot be locked", error) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on host {holder['host']}"
    except (ValueError, KeyError, TypeError):  # It has the lock but has not written its number yet.
        return "another process"
