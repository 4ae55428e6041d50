"""A lock that lets only one run at a time use a work folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from dgm_jax.errors import UserError
from dgm_jax.system.files import PathLike, make_folder


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
        self._held = contextlib.ExitStack()  # Closes the file.

    def __enter__(self) -> RunLock:
        """Takes the lock, without waiting for it.

        Raises:
          WorkdirInUse: if another run has it; the message names its process, host and folder.
          WorkdirError: if the folder cannot be created, written or locked, or the system has no locks of this kind.
        """
        try:
            import fcntl  # Here, so that importing this package works everywhere.
        except ModuleNotFoundError:
            raise WorkdirError("this system (Windows?) has no locks for a run; learn on Linux, macOS or WSL.") from None
        doing = "created"
        with contextlib.ExitStack() as stack:
            try:
                make_folder(self.workdir)
                if not os.access(self.workdir, os.W_OK | os.X_OK):
                    raise WorkdirError(f"--workdir {self.workdir} is not writable by this user; choose another.")
                doing = "written"
                descriptor = os.open(self.workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
                stack.callback(os.close, descriptor)
                doing = "locked"  # Some network file systems have no locks.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkdirInUse(
                    f"--workdir {self.workdir} is in use by {_holder(descriptor)}; "
                    "wait until it ends, or choose another --workdir."
                ) from None
            except OSError as error:
                raise WorkdirError(
                    f"--workdir {self.workdir} cannot be {doing} ({error.strerror}); choose another."
                ) from error
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Releases the lock. `.lock` stays: if it were deleted, two runs could lock two files of that name."""
        self._held.close()


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on host {holder['host']}"
    except (ValueError, KeyError, TypeError):  # It has the lock but has not written its number yet.
        return "another process"
