"""The one place that decides how what happens in a run is printed."""

from typing import Literal

from dgm_jax.reporting.console import ConsoleProgress, QuietConsole
from dgm_jax.reporting.json_lines import JsonLines

LogFormat = Literal["text", "json"]
Output = ConsoleProgress | JsonLines


def output(log_format: LogFormat, *, quiet: bool) -> Output:
    """What prints the events of a run, and what is said beside them.

    Args:
      log_format: text: for a person; json: one object a line.
      quiet: print results, notes and errors only.
    """
    if log_format == "json":
        return JsonLines(quiet=quiet)
    return QuietConsole() if quiet else ConsoleProgress()
