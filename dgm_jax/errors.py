"""Errors that a user can fix. The command line shows them as one or two lines, without a traceback."""

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """An error whose message says which value is wrong, what was expected and what to do."""


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


def user_message(error: BaseException) -> str:
    """The message shown for an error that the user can fix."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"error: {error}; what was saved before is intact; free some space, then run the same command to resume"
    return f"error: {error}"


def exit_status(command: Callable[[], int | None], *, interrupted: str = "interrupted", debug: bool = False) -> int:
    """Runs a command; prints one line instead of a traceback for an error that the user can fix, and for Ctrl-C.

    Args:
      command: returns its exit status; None means 0.
      interrupted: the line printed after Ctrl-C.
      debug: raise errors with their traceback instead of printing one line.

    Returns:
      The command's status; 2 after an error, 130 after Ctrl-C.
    """
    try:
        return command() or 0
    except (UserError, OSError) as error:  # OSError: for example a full disk, or a folder that was deleted.
        if debug:
            raise
        print(user_message(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
