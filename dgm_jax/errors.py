"""Errors that a user can fix. The command line shows them as one or two lines, without a traceback."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec

# The machine has no more of something, or a disk or a network does not answer now.
_PASSING = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENODEV,
    errno.ENXIO,
    errno.EBUSY,
    errno.EINTR,
)


# The packages that the core does without, as they are imported, and the extra of setup.cfg that brings each.
EXTRAS = {
    "flatbuffers": "train",
    "flax": "train",
    "orbax": "train",
    "rich": "train",
    "tyro": "train",
    "PIL": "data",
    "array_record": "data",
    "tensorflow_datasets": "data",
    "cycler": "report",
    "jinja2": "report",
    "markupsafe": "report",
    "matplotlib": "report",
    "submitit": "cluster",
    "tensorboardX": "tensorboard",
}


class UserError(Exception):
    """An error whose message says which value is wrong, what was expected and what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: by it, schedulers announce the end of a job's time."""


class DataError(UserError, ValueError):
    """Data that cannot be used; the message says what was found, what was expected and what to do."""


class ConfigError(UserError, ValueError):
    """A setting that is not valid, or that does not fit the others."""


class OtherConfiguration(UserError, RuntimeError):
    """A workdir that belongs to a run with other settings or other data."""


class NotFinite(UserError, RuntimeError):
    """Training broke down: a loss is not a finite number."""


class NewerFormat(UserError, RuntimeError):
    """A file that a later version of this package wrote."""


class NoMemory(UserError, ValueError):
    """A folder that holds no memory."""


class MissingExtra(UserError, ModuleNotFoundError):
    """A package that is not installed, because an extra of this package brings it."""


@contextlib.contextmanager
def naming_extras() -> Iterator[None]:
    """Where a package of an extra is missing, raises MissingExtra, which says how to install it.

    It surrounds or, as a decorator, begins what imports such packages.
    """
    try:
        yield
    except ImportError as error:
        # JAX says in its own words what it misses; the cause has the name.
        missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        package = (missing.name or "").partition(".")[0]
        extra = EXTRAS.get(package)
        if (
            extra is None or isinstance(error, MissingExtra) or _is_installed(package)
        ):  # Too old or broken, it says why.
            raise
        raise MissingExtra(
            f'{missing.name} is not installed; run: python -m pip install "dgm-jax[{extra}]"', name=missing.name
        ) from None


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


def user_message(error: BaseException) -> str:
    """The message shown for an error that the user can fix."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"error: {error}; what was saved before is intact; free some space, then run the same command to resume"
    if isinstance(error, MemoryError):
        return f"error: there is not enough memory ({error or 'no details'}); what was saved before is intact"
    return f"error: {error}"


def is_of_environment(error: BaseException) -> bool:
    """Whether an error says nothing about a file, but that the machine, its disk or its network fails now."""
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number in _PASSING:
        return True
    # Readers in C++ have no number for it, only its text.
    return number is None and any(os.strerror(code) in str(error) for code in _PASSING)


def _prepare_streams() -> None:
    """Lets a command print any text anywhere: letters that a stream lacks are escaped, a closed stream is mute."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)  # Takes this number, so that no file that is opened later gets it.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def exit_status(command: Callable[[], int | None], *, resume: str = "", debug: bool = False) -> int:
    """Runs a command; prints one line instead of a traceback for an error that the user can fix, Ctrl-C and SIGTERM.

    Args:
      command: returns its exit status; None means 0.
      resume: how to go on after Ctrl-C or SIGTERM; it ends the line that is printed then.
      debug: raise errors with their traceback instead of printing one line.

    Returns:
      The command's status; 2 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    _prepare_streams()
    try:
        with naming_extras():
            return command() or 0
    # OSError: for example a full disk, or a folder that was deleted.
    except (UserError, OSError, MemoryError) as error:
        if debug:
            raise
        print(user_message(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        what, status = ("stopped by SIGTERM", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
        print(f"{what}; {resume}" if resume else what, file=sys.stderr)
        return status
