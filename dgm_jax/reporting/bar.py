"""A bar that shows progress on a terminal, and plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterable
from typing import TextIO

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

_PLAIN_WIDTH = 100  # Columns to fill where the output is not a terminal.


def console(file: TextIO) -> Console:
    """A console that prints text as it is, and control codes only on a terminal, whatever the environment asks for."""
    terminal = file.isatty()
    width = None if terminal else _PLAIN_WIDTH
    return Console(
        file=file, force_terminal=terminal, force_jupyter=False, width=width, markup=False, emoji=False, highlight=False
    )


class Bar:
    """Progress of one piece of work, in phases: a live line on a terminal, elsewhere a plain line every few seconds."""

    def __init__(self, name: str, console: Console, interval: float, clock: Callable[[], float]) -> None:
        """Draws an empty bar if `console` is a terminal; arguments as for `progress_bar`."""
        self._name, self._console, self._interval, self._clock = name, console, interval, clock
        self._last_line = clock()
        self._phases: dict[str, TaskID] = {}  # In the order in which Rich keeps them.
        self._phase = ""
        # It also measures speed, over the last minute, so that a slow beginning does not count for long. Without a
        # terminal it does only that: it is never started, and draws nothing.
        self._live = _OneLine(
            TextColumn("{task.description}", markup=False),
            BarColumn(16),
            TextColumn("{task.fields[text]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            console=console,
            transient=True,
            expand=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=console.file is sys.stderr,
            speed_estimate_period=60,
            get_time=clock,
        )
        if console.is_interactive:
            self._live.start()
            console.show_cursor(True)  # Rich hides it. A process that is killed could not bring it back.

    def select(self, phase: str, *, resume: bool) -> None:
        """Turns to a phase. Its speed is measured anew unless `resume`."""
        if phase == self._phase:
            return
        if phase in self._phases and not resume:
            self._live.remove_task(self._phases.pop(phase))
        if phase not in self._phases:
            self._phases[phase] = self._live.add_task(self._name, total=None, visible=False, text="")
        self._phase = phase
        for name, row in self._phases.items():
            self._live.update(row, visible=name == phase)

    def advance_to(self, share: float) -> None:
        """Sets how much of the phase is done, from 0 to 1."""
        self._live.update(self._phases[self._phase], total=1.0, completed=share)

    @property
    def speed(self) -> float | None:
        """The share of the phase that is done in a second; None while it is unknown."""
        return self._live.tasks[list(self._phases).index(self._phase)].speed

    def show(self, text: str, *, always: bool = False) -> None:
        """Shows a text beside the bar; without a terminal only if it is time for a line, or `always`."""
        if self._console.is_interactive:
            self._live.update(self._phases[self._phase], text=text, refresh=True)
        elif always or self._clock() - self._last_line >= self._interval:
            self._last_line = self._clock()
            self._console.print(f"{self._name}: {text}", soft_wrap=True)

    def close(self) -> None:
        """Removes the bar from the screen."""
        if self._console.is_interactive:
            self._live.stop()


class _OneLine(Progress):
    def get_renderables(self) -> Iterable[RenderableType]:
        """Leaves room for the `^C` that terminals echo: at the end of a full line it would begin a line that stays."""
        if self.tasks:
            yield Constrain(self.make_tasks_table(self.tasks), self.console.width - 3)
