"""One run at a time in a work folder."""

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
    """A work folder that cannot be made, written or locked."""


class WorkdirInUse(UserError, RuntimeError):
    """A work folder that another live run holds."""


class RunLock:
    """Holds a work folder for one run: `with RunLock(workdir): ...`; makes the folder if it is missing.

    The lock belongs to the open file, not to the name `.lock`: the operating system lets go of it when the process
    dies, however it dies, and the file that stays behind means nothing.
    """

    def __init__(self, workdir: PathLike) -> None:
        """Names the folder; it is touched on entry."""
        self.workdir = Path(workdir)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """Takes the lock at once or not at all.

        Raises:
          WorkdirInUse: if another run holds it; the text names its process, host and folder.
          WorkdirError: if the folder cannot be made, written or locked.
        """
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error("cannot be made", error) from error
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
        """Lets go; `.lock` stays, for without it two later runs could each lock a file of that name."""
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
        except OSError as error:  # some network file systems have no locks
            raise self._error("cannot be locked", error) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on host {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it took the lock just now and has not signed yet
        return "another process"
