"""Errors that a user can act on: shown as one or two lines, without a traceback, by the command line."""


class UserError(Exception):
    """Says which value is wrong, what was expected and what to do."""


class ConfigError(UserError, ValueError):
    """A setting that cannot work."""


class OtherConfiguration(UserError, RuntimeError):
    """A workdir that belongs to a run with other settings or other data."""


class NotFinite(UserError, RuntimeError):
    """Training broke down: a loss is not a finite number."""


class NoMemory(UserError, ValueError):
    """A folder without a memory that could be loaded."""
