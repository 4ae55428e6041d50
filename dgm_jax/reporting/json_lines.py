"""What happens in a run as JSON, one object a line, for programs that start runs and watch over them."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dgm_jax.runs import events

_RESULTS = ("task_end", "run_end", "seeds_end", "note")


class JsonLines(events.Callback):
    """Prints each event as one line, an object with "event" (its name) and "time" (ISO 8601, UTC).

    The other entries are those of the records in `dgm_jax.runs.events`, except that the end of a run has the last
    numbers of its summary only. Numbers that are not finite are null.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        out: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prints nothing yet.

        Args:
          quiet: print results and notes only.
          out: where lines go; standard output by default.
          interval: seconds between two lines of progress.
          clock: returns the seconds since 1970.
        """
        self._quiet, self._out, self._interval, self._clock = quiet, out or sys.stdout, interval, clock
        self._last_progress = clock()

    def say(self, text: str) -> None:
        """A message beside the events of a run."""
        self._line("message", text=text)

    def on_run_start(self, event: events.RunStart) -> None:
        """The run begins or is resumed."""
        self._line("run_start", **vars(event))

    def on_task_start(self, event: events.TaskStart) -> None:
        """A task begins or is resumed."""
        self._line("task_start", **vars(event))

    def on_progress(self, event: events.Progress) -> None:
        """A phase has advanced; there is a line every few seconds."""
        if self._clock() - self._last_progress >= self._interval:
            self._last_progress = self._clock()
            self._line("progress", **vars(event))

    def on_epoch_end(self, event: events.EpochEnd) -> None:
        """An epoch has ended."""
        self._line("epoch_end", **vars(event))

    def on_task_end(self, event: events.TaskEnd) -> None:
        """A task has ended."""
        self._line("task_end", **vars(event))

    def on_run_end(self, event: events.RunEnd) -> None:
        """The run has ended."""
        summary = event.summary
        self._line(
            "run_end",
            workdir=event.workdir,
            already_finished=event.already_finished,
            seed=summary.seed,
            final=summary.final,
            average=summary.averages.get(summary.final, {}),
            forgetting=summary.forgetting,
            bytes=summary.bytes,
            seconds=summary.seconds,
            files=event.files,
        )

    def on_seeds_end(self, summary: Mapping[str, Any], report: Sequence[str]) -> None:
        """All seeds have ended; `summary` is what summary.json of all seeds has."""
        self._line("seeds_end", summary=summary, report=report)

    def on_note(self, text: str) -> None:
        """A message that a person should read, such as a damaged checkpoint that was skipped."""
        self._line("note", text=text)

    def close(self) -> None:
        """Does nothing: each line is whole."""

    def _line(self, event: str, **values: Any) -> None:
        if self._quiet and event not in _RESULTS:
            return
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = {"event": event, "time": now, **_plain(values)}
        print(json.dumps(line, allow_nan=False), file=self._out, flush=True)


def _plain(value: Any) -> Any:
    """The same as JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(of) for name, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(of) for of in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
