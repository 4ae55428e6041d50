"""What a run prints: its settings, a live bar for each task, the results after each task, and where the files are.

Results go to standard output and progress to standard error. Both are plain lines without control codes where these are
not terminals but pipes or files.
"""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

from dgm_jax.config import KEEPS_IMAGES, Config
from dgm_jax.reporting.bar import Bar, console
from dgm_jax.runs import events

_SHOWN_METRICS = {
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


class ConsoleProgress(events.Callback):
    """Prints what happens in a run: results on `out`, progress on `err`."""

    def __init__(
        self,
        *,
        out: TextIO | None = None,
        err: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prints nothing yet.

        Args:
          out: where results go; standard output by default.
          err: where progress goes; standard error by default.
          interval: seconds between two lines of progress if `err` is not a terminal.
          clock: returns the time in seconds.
        """
        self._out, self._err = console(out or sys.stdout), console(err or sys.stderr)
        self._interval, self._clock = interval, clock
        self._start_time = clock()
        self._run: events.RunStart | None = None
        self._task: events.TaskStart | None = None
        self._bar: Bar | None = None
        self._bar_task: int | None = None
        self._epoch = 0
        self._metrics: Mapping[str, float] = {}

    def on_run_start(self, event: events.RunStart) -> None:
        """Prints what will be learnt, from which data, and on which devices."""
        self._start_time, self._run, config = self._clock(), event, event.config
        fewest, most = min(event.train_counts), max(event.train_counts)
        per_task = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        counts = f"{sum(event.train_counts):,} training images ({per_task} a task), {event.test_count:,} for testing"
        facts = {"device": ", ".join(event.devices)}
        if event.platform == "cpu":
            facts[""] = _CPU
        facts["data"] = f"{event.dataset}: {counts}"
        facts["tasks"] = f"{len(event.tasks)}, with the classes {' | '.join(map(', '.join, event.tasks))}"
        if config.method == "dgm":
            facts["variant"] = config.gates.variant
        else:
            facts["method"] = f"{config.method} (a baseline)"
        if len(event.seeds) > 1:
            facts["seeds"] = f"{', '.join(map(str, event.seeds))}, side by side"
        if config.gan.precision not in ("float32", "auto"):  # auto: of a method that trains nothing.
            facts["precision"] = config.gan.precision
        facts["protocol"] = _protocol(config)
        seconds = event.estimated_seconds
        facts["time"] = (
            "unknown until some epochs are done"
            if seconds is None
            else f"roughly {_rough_time(seconds)}, and what compiling takes"
        )
        facts["run folder"] = str(event.workdir)
        if event.resumed_from is not None:
            task, epochs = event.resumed_from
            facts["resuming"] = f"{self._task_name(task)}, {epochs} of {event.epochs} epochs are done"
        self._print(*_aligned(facts, self._out.width))

    def on_task_start(self, event: events.TaskStart) -> None:
        """Opens the bar of the task."""
        self._task, self._epoch, self._metrics = event, event.first_epoch, {}
        plan = ["compiling, or loading compiled programs"] if event.compiles else []
        plan.append(f"classes {', '.join(event.classes)}")
        if event.epochs * event.steps > 1:  # A single step means that the method does not train in mini-batches.
            steps = f"{event.steps:,} steps"
            epochs = (
                f"epochs {event.first_epoch + 1} to {event.epochs}" if event.first_epoch else f"{event.epochs} epochs"
            )
            plan.append(f"{epochs} of {steps}" if event.epochs > 1 else steps)
        if event.widths:
            plan.append(f"widths {'-'.join(map(str, event.widths))}")
        self._bar_for(event.task, "train").show("; ".join(plan), always=True)

    def on_progress(self, event: events.Progress) -> None:
        """Advances the bar."""
        share = event.done / event.total if event.total else 1.0
        if event.phase == "train" and event.epoch is not None and self._task is not None:
            self._epoch = event.epoch
            share = (event.epoch + share) / self._task.epochs
        self._advance(event.task, event.phase, share)

    def on_epoch_end(self, event: events.EpochEnd) -> None:
        """Advances the bar, and shows the losses of this epoch until the next one ends."""
        self._epoch, self._metrics = event.epoch, event.metrics
        self._advance(event.task, "train", (event.epoch + 1) / self._task.epochs if self._task else 0.0)

    def on_task_end(self, event: events.TaskEnd) -> None:
        """Closes the bar, and prints accuracies and the use of the network."""
        self.close()
        seed = f", seed {event.seed}," if self._run is not None and len(self._run.seeds) > 1 else ""
        self._print("", f"{self._task_name(event.task)}{seed} learnt in {_time(event.seconds)}")
        if event.average:
            self._print(*_accuracy_tables(event.class_names, event.accuracy, self._out.width))
            forgetting = event.forgetting if event.task else {}
            self._print("", _average_table(len(event.class_names), event.protocol, event.average, forgetting))
        else:
            self._print("  accuracy was not measured after this task (--evaluate-every)")
        if event.capacity:
            headers = [name for name in event.capacity[0] if name != "task"]
            rows = [[f"{row[name]:,}" for name in headers] for row in event.capacity]
            self._print("", _table([name.replace("_", " ") for name in headers], rows))
        if event.widths:
            self._print(f"  widths from now on: {'-'.join(map(str, event.widths))}")

    def on_run_end(self, event: events.RunEnd) -> None:
        """Prints the final accuracies, and where the files are."""
        self.close()
        summary = event.summary
        if event.already_finished:
            self._print("already finished, nothing was trained (choose another --workdir to start a new run)")
        else:
            seconds, total = self._clock() - self._start_time, sum(summary.seconds.values())
            earlier = f" ({_time(total)} with earlier sessions)" if total > seconds + 1 else ""
            self._print("", f"finished in {_time(seconds)}{earlier}")
        if summary.averages:
            average = summary.averages[summary.final]
            self._print(_average_table(summary.final, summary.protocol, average, summary.forgetting), "")
        self._print(*_aligned({"run folder": str(event.workdir), **event.files}, self._out.width))

    def on_note(self, text: str) -> None:
        """Prints a note; it stands above the bar, if there is one."""
        self._err.print(f"note: {text}", soft_wrap=True)

    def close(self) -> None:
        """Removes the bar from the screen, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._bar_task = None

    def _bar_for(self, task: int, phase: str) -> Bar:
        """The bar of a task, showing a phase of it."""
        if self._bar is None or task != self._bar_task:
            self.close()
            self._bar, self._bar_task = Bar(self._task_name(task), self._err, self._interval, self._clock), task
        # Replay between two epochs interrupts training, which then continues; other phases start anew.
        self._bar.select(phase, resume=phase == "train")
        return self._bar

    def _advance(self, task: int, phase: str, share: float) -> None:
        """Shows how far a phase is, the most important facts first: narrow terminals cut off the rest."""
        bar = self._bar_for(task, phase)
        bar.advance_to(share)
        speed, plan = bar.speed, self._task if phase == "train" else None
        if plan is not None and plan.epochs > 1:
            parts = [f"epoch {min(self._epoch + 1, plan.epochs)}/{plan.epochs}"]
        else:
            parts = [f"{phase} {share:.0%}"]
        if speed:
            parts.append(f"{_time((1 - share) / speed)} left")
        if plan is not None:
            parts += [
                text.format(self._metrics[name]) for name, text in _SHOWN_METRICS.items() if name in self._metrics
            ]
            if speed and plan.epochs * plan.steps > 1:
                parts.append(f"{speed * plan.epochs * plan.steps * plan.images_per_step:,.0f} images/s")
        bar.show(", ".join(parts))

    def _task_name(self, task: int) -> str:
        """The number of a task, which counts from 0 as in the files, and its place among all tasks."""
        return f"task {task}" + (f" ({task + 1} of {len(self._run.tasks)})" if self._run else "")

    def _print(self, *parts: RenderableType) -> None:
        for part in parts:
            self._out.print(part, soft_wrap=True)


@contextmanager
def progress_bar(
    total: int,
    description: str,
    *,
    err: TextIO | None = None,
    interval: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], None]]:
    """Shows how much of a total is done while the block runs.

    Args:
      total: how many items there are, at least 1.
      description: what is done, e.g. "writing images".
      err: where progress goes; standard error by default.
      interval: seconds between two lines of progress if `err` is not a terminal.
      clock: returns the time in seconds.

    Yields:
      A function to call with the number of items that were finished since its last call.
    """
    done, bar = 0, Bar(description, console(err or sys.stderr), interval, clock)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        bar.advance_to(done / total)
        left = f", {_time((1 - done / total) / bar.speed)} left" if bar.speed else ""
        bar.show(f"{done:,} of {total:,}{left}")

    try:
        bar.select(description, resume=True)
        yield advance
    finally:
        bar.close()


def _aligned(facts: Mapping[str, str], width: int) -> list[str]:
    """Lines of names and values; long values are wrapped, but never within a path, so that it can be copied."""
    indent = max(map(len, facts)) + 2
    lines: list[str] = []
    for name, value in facts.items():
        parts = textwrap.wrap(value, max(width - indent, 20), break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"{name:{indent}}{parts[0]}", *(" " * indent + part for part in parts[1:])]
    return lines


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = 0, gap: int = 2) -> Padding:
    """An indented table without rules, with columns at least `width` wide; a first column of names is on the left."""
    table = Table(box=None, padding=(0, 0, 0, gap), pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        names = number == 0 and not rows[0][0].isdecimal()
        table.add_column(header, justify="left" if names else "right", min_width=0 if names else width, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return Padding(table, (0, 0, 0, 2), expand=False)


def _accuracy_tables(
    names: Sequence[str], accuracy: Mapping[str, Sequence[float | None]], width: int
) -> Iterator[Padding]:
    """A column for each class seen, in several tables if there are too many for one."""
    header = "accuracy, %"
    column = max(6, *(len(name) + 2 for name in names))
    columns = max(1, (width - 2 - max(map(len, (header, *accuracy)))) // column)
    for start in range(0, len(names), columns):
        part = slice(start, start + columns)
        rows = [[reading, *map(_percent, values[part])] for reading, values in accuracy.items()]
        yield _table([header, *names[part]], rows, width=column - 1, gap=1)


def _average_table(
    n_classes: int, protocol: str, average: Mapping[str, Mapping[str, float]], forgetting: Mapping[str, float | None]
) -> Padding:
    """A_t and, if given, forgetting of every reading."""
    headers = [f"A_{n_classes} ({protocol} protocol), %", "macro", "micro"]
    rows = [[reading, _percent(means["macro"]), _percent(means["micro"])] for reading, means in average.items()]
    if forgetting:
        headers.append("forgetting, points")
        for row in rows:
            row.append(_percent(forgetting.get(row[0])))
    return _table(headers, rows)


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"  # NaN: the class has no test images.


def _time(seconds: float) -> str:
    """`0:07`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rough_time(seconds: float) -> str:
    """An estimate, rounded to what it is worth."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def _protocol(config: Config) -> str:
    if config.method in KEEPS_IMAGES:
        return "strict (the last epoch of each task counts; this baseline keeps real images of past tasks)"
    return _PROTOCOLS[config.protocol]
