"""Errors that a user can act on: shown as one or two lines, without a traceback, by the command line."""

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """Says which value is wrong, what was expected and what to do."""


class ConfigError(UserError, ValueError):
    """A setting that cannot work."""


class OtherConfiguration(UserError, RuntimeError):
    """A workdir that belongs to a run with other settings or other data."""


class NotFinite(UserError, RuntimeError):
    """Training broke down: a loss is not a finite number."""


class NewerFormat(UserError, RuntimeError):
    """A file that a later version of this package wrote."""


class NoMemory(UserError, ValueError):
    """A folder without a memory that could be loaded."""


def told(error: BaseException) -> str:
    """What a person is told of an error that they can mend."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"error: {error}; what was saved before is whole: make room, then run the same command to go on"
    return f"error: {error}"


def exit_status(command: Callable[[], int | None], *, interrupted: str = "interrupted", debug: bool = False) -> int:
    """Runs a command; tells a mistake that the user can mend, and Ctrl-C, by a line instead of a traceback.

    Args:
      command: returns its exit status; None is 0.
      interrupted: what is said after Ctrl-C.
      debug: let mistakes through, with their traceback.

    Returns:
      The command's status; 2 after a mistake, 130 after Ctrl-C.
    """
    try:
        return command() or 0
    except (UserError, OSError) as error:  # Also a full disk, or a folder that vanished.
        if debug:
            raise
        print(told(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
