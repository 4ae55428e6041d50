"""What a run says on the console: what it is, one live bar per task, the numbers after each, where the files are."""

import os
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from tqdm import tqdm

from dgm_jax.config import KEEPS_IMAGES, Config
from dgm_jax.runs.events import Callback, EpochEnd, Progress, RunEnd, RunStart, TaskEnd, TaskStart

_SHOWN = {  # metric -> what the bar calls it
    "critic_loss": "critic {:.3g}",
    "generator_loss": "generator {:.3g}",
    "classifier_loss": "classifier {:.3g}",
    "scale": "s {:.3g}",
    "open_share": "open {:.0%}",
}
_PROTOCOLS = {
    "strict": "strict (the last epoch of each task counts; no image of a past task is read)",
    "paper": "paper (epochs are chosen on REAL held-out images of past tasks; only to compare with published numbers)",
}
_CPU = 'training on the CPU; a GPU would be faster (python -m pip install "jax[cuda13]")'
_UNITS = 1000  # Resolution of the bar; its total is the same for all phases.
_WIDTH = 100


class ConsoleProgress(Callback):
    """Reports a run to a person: results on `out`, the live bar (or plain lines, if that is no terminal) on `err`."""

    def __init__(
        self,
        *,
        out: TextIO | None = None,
        err: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares; prints nothing.

        Args:
          out: where results go; standard output by default.
          err: where the progress goes; standard error by default.
          interval: seconds between two plain lines where `err` is not a terminal.
          clock: tells the time in seconds.
        """
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._interval, self._clock = interval, clock
        self._bar: tqdm | None = None
        self._paces: dict[str, _Pace] = {}  # By phase.
        self._begun = self._last_line = clock()
        self._n_tasks: int | None = None
        self._several = False  # Seeds.
        self._task: TaskStart | None = None
        self._number: int | None = None  # Of the task and the phase that the bar shows.
        self._phase: str | None = None
        self._epoch = 0
        self._metrics: Mapping[str, float] = {}

    def on_run_start(self, event: RunStart) -> None:
        """Says what is about to be done, on what and with what."""
        self._begun, self._n_tasks, self._several = self._clock(), len(event.tasks), len(event.seeds) > 1
        counts, train = event.train_counts, f"{sum(event.train_counts):,} training images"
        each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        tasks = " | ".join(", ".join(names) for names in event.tasks)
        seconds, config = event.estimated_seconds, event.config
        estimate = "not known before the first epochs" if seconds is None else f"roughly {_rough(seconds)}"
        facts = {
            "device": ", ".join(event.devices),
            **({"": _CPU} if event.platform == "cpu" else {}),
            "data": f"{event.dataset}: {train} ({each} a task), {event.test_count:,} for testing",
            "tasks": f"{len(event.tasks)}, of the classes {tasks}",
            **(
                {"variant": config.gates.variant}
                if config.method == "dgm"
                else {"method": f"{config.method} (a baseline)"}
            ),
            **({"seeds": f"{', '.join(map(str, event.seeds))}, side by side"} if len(event.seeds) > 1 else {}),
            **({"precision": config.gan.precision} if config.gan.precision != "float32" else {}),
            "protocol": _protocol(event.config),
            "time": estimate,
            "run folder": str(event.workdir),
        }
        if event.resumed_from is not None:
            task, epochs = event.resumed_from
            facts["goes on"] = f"from {self._name(task)}, {epochs} of {event.epochs} epochs done"
        self._print(*_facts(facts))

    def on_task_start(self, event: TaskStart) -> None:
        """Opens the task's bar."""
        self._task, self._epoch, self._metrics = event, event.first_epoch, {}
        self._follow(event.task, "train")
        left = f"epochs {event.first_epoch + 1} to {event.epochs}" if event.first_epoch else f"{event.epochs} epochs"
        steps = f"{left} of {event.steps:,} steps" if event.epochs > 1 else f"{event.steps:,} steps"
        plan = f"; {steps}" if event.epochs * event.steps > 1 else ""  # Else it has no mini-batches.
        widths = f", widths {'-'.join(map(str, event.widths))}" if event.widths else ""
        compiling = "; compiling first, or loading what was compiled before" if event.compiles else ""
        self._show(f"classes {', '.join(event.classes)}{plan}{widths}{compiling}", always=True)

    def on_progress(self, event: Progress) -> None:
        """Moves the bar."""
        self._follow(event.task, event.phase)
        share = event.done / event.total if event.total else 1.0
        if event.phase == "train" and event.epoch is not None and self._task is not None:  # Of one epoch, not of all.
            self._epoch = event.epoch
            share = (event.epoch + share) / self._task.epochs
        self._move(share)

    def on_epoch_end(self, event: EpochEnd) -> None:
        """Moves the bar, and shows the epoch's losses from now on."""
        self._follow(event.task, "train")
        self._epoch, self._metrics = event.epoch, event.metrics
        if self._task is not None:
            self._move((event.epoch + 1) / self._task.epochs)

    def on_task_end(self, event: TaskEnd) -> None:
        """Closes the bar and prints what the task did to accuracy and capacity."""
        self.close()
        n, first = len(event.class_names), event.task == 0
        whose = f", seed {event.seed}," if self._several else ""
        self._print(
            "",
            f"{self._name(event.task)}{whose} learnt in {_time(event.seconds)}",
            *_indent(_accuracy_rows(event.class_names, event.accuracy)),
            "",
            *_indent(_averages(n, event.protocol, event.average, {} if first else event.forgetting)),
            "",
            *_indent(_capacity(event.capacity)),
            *([f"  widths from now on: {'-'.join(map(str, event.widths))}", ""] if event.widths else []),
        )

    def on_run_end(self, event: RunEnd) -> None:
        """Says how it ended, and where the files are."""
        self.close()
        if event.already_finished:
            first = ["this run is finished already: nothing was trained (another --workdir starts a new one)"]
        else:
            sitting, whole = self._clock() - self._begun, sum(event.summary.seconds.values())
            in_all = f" ({_time(whole)} with the sittings before)" if whole > sitting + 1 else ""
            first = [f"finished in {_time(sitting)}{in_all}"]
        summary = event.summary
        if summary.averages:
            first += _averages(summary.final, summary.protocol, summary.averages[summary.final], summary.forgetting)
        self._print(*first, *_facts({"run folder": str(event.workdir)} | event.files))

    def on_note(self, text: str) -> None:
        """Prints the note above the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(f"note: {text}", file=self._err, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Ends the bar, if there is one; what is printed next begins on a line of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._number = self._phase = None

    def _follow(self, task: int, phase: str) -> None:
        """Turns to a phase of a task, if it is another than the present one."""
        if (task, phase) == (self._number, self._phase):
            return
        if task != self._number:
            self.close()
            self._paces = {}
            if self._err.isatty():
                # A postfix that is not text is left alone by tqdm, which would put a comma before it.
                self._bar = tqdm(
                    total=_UNITS,
                    desc=self._name(task),
                    file=self._err,
                    leave=False,  # The task's numbers take its place.
                    **_shape(self._err),
                    bar_format="{desc} |{bar:16}| {postfix[0]}",
                    postfix=[""],
                )
        self._number, self._phase = task, phase
        if phase != "train" or phase not in self._paces:  # Training goes on where a replay between epochs broke in.
            self._paces[phase] = _Pace()

    def _move(self, share: float) -> None:
        if self._phase is not None:
            self._paces[self._phase].add(self._clock(), share)
        if self._bar is not None:
            self._bar.n = round(_UNITS * min(max(share, 0.0), 1.0))
        self._show(", ".join(self._parts(share)))

    def _parts(self, share: float) -> Iterable[str]:
        """What stands beside the bar, piece by piece; the most important first, as narrow terminals cut the rest."""
        task = self._task if self._phase == "train" else None
        rate = self._paces[self._phase].rate if self._phase in self._paces else None
        if task is not None and task.epochs > 1:
            yield f"epoch {min(self._epoch + 1, task.epochs)}/{task.epochs}"
        else:
            yield f"{self._phase} {share:.0%}"
        if rate:
            yield f"{_time((1 - share) / rate)} left"
        if task is not None:
            yield from (text.format(self._metrics[name]) for name, text in _SHOWN.items() if name in self._metrics)
            if rate and task.epochs * task.steps > 1:
                yield f"{rate * task.epochs * task.steps * task.images_per_step:,.0f} images/s"

    def _show(self, text: str, *, always: bool = False) -> None:
        if self._bar is not None:
            self._bar.postfix[0] = text
            self._bar.refresh()
        elif always or self._clock() - self._last_line >= self._interval:
            self._last_line = self._clock()
            print(f"{self._name(self._number or 0)}: {text}", file=self._err, flush=True)

    def _name(self, task: int) -> str:
        """A task by its number, which counts from 0 as it does in the files, and by its place."""
        return f"task {task}" + (f" ({task + 1} of {self._n_tasks})" if self._n_tasks else "")

    def _print(self, *lines: str) -> None:
        print("\n".join(lines), file=self._out, flush=True)


class _Pace:
    """How fast a phase goes, over the last half minute: the first seconds, spent compiling, must not count for long."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()

    def add(self, now: float, share: float) -> None:
        self._points.append((now, share))
        while len(self._points) > 2 and now - self._points[1][0] > 30:
            self._points.popleft()

    @property
    def rate(self) -> float | None:
        """The share done in a second; None while nothing can be said."""
        if len(self._points) < 2:
            return None
        (begun, before), (now, after) = self._points[0], self._points[-1]
        return (after - before) / (now - begun) if now > begun and after > before else None


def _facts(facts: Mapping[str, str]) -> list[str]:
    """`name  value`, aligned, long values wrapped."""
    indent = max(map(len, facts)) + 2
    lines: list[str] = []
    for name, value in facts.items():
        # A path is left whole, whatever its length, so that it can be copied.
        parts = textwrap.wrap(value, _WIDTH - indent, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"{name:{indent}}{parts[0]}", *(" " * indent + part for part in parts[1:])]
    return lines


def _accuracy_rows(names: Sequence[str], accuracy: Mapping[str, Sequence[float | None]]) -> list[str]:
    """A column for each class seen; broken into several blocks where there are many."""
    header = "accuracy, %"
    first = max(len(header), *map(len, accuracy))
    width = max(6, *(len(name) + 2 for name in names))
    at_once = max(1, (_WIDTH - first - 2) // width)
    lines: list[str] = []
    for start in range(0, len(names), at_once):
        part = slice(start, start + at_once)
        lines.append(f"{header:{first}}" + "".join(f"{name:>{width}}" for name in names[part]))
        for reading, values in accuracy.items():
            lines.append(f"{reading:{first}}" + "".join(f"{_percent(value):>{width}}" for value in values[part]))
    return lines


def _averages(
    n_classes: int, protocol: str, average: Mapping[str, Mapping[str, float]], forgetting: Mapping[str, float | None]
) -> list[str]:
    """A_t and forgetting (if any is given) of both readings, with the protocol's name."""
    values = ", ".join(
        f"{reading} {_percent(mean.get('macro'))} % (micro {_percent(mean.get('micro'))})"
        for reading, mean in average.items()
    )
    lines = [f"A_{n_classes}, {protocol} protocol: {values}"]
    if forgetting:
        falls = ", ".join(f"{reading} {_percent(value)} points" for reading, value in forgetting.items())
        lines.append(f"forgetting: {falls}")
    return lines


def _capacity(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of layers; its columns are those of the rows."""
    if not rows:
        return []
    columns = [column for column in rows[0] if column != "task"]
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[f"{v:,}" if isinstance(v := row.get(column), int) else str(v) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths)) for line in cells]


def _shape(terminal: TextIO) -> dict[str, Any]:
    """How tqdm is to fit its bar into a terminal; in containers and scripts some say that they are 0 wide."""
    try:
        sized = os.get_terminal_size(terminal.fileno()).columns > 0
    except (OSError, ValueError):
        sized = False
    return {"dynamic_ncols": True} if sized else {"ncols": _WIDTH, "nrows": 20}


def _indent(lines: Iterable[str]) -> list[str]:
    return ["  " + line for line in lines]


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"  # NaN: a class without test images


def _time(seconds: float) -> str:
    """`0:07`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rough(seconds: float) -> str:
    """An estimate, no more precise than it can be."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def _protocol(config: Config) -> str:
    if config.method in KEEPS_IMAGES:
        return "strict (the last epoch of each task counts; this baseline keeps real images of past tasks)"
    return _PROTOCOLS[config.protocol]
