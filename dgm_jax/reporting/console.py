"""What a run prints: its settings, a live bar for each task, the results after each task, and where the files are.

Results go to standard output and progress to standard error. Both are plain lines without control codes where these are
not terminals but pipes or files.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import RenderableType

from dgm_jax.config import KEEPS_IMAGES, TRAINS, Config
from dgm_jax.reporting import text_tables
from dgm_jax.reporting.bar import Bar, console
from dgm_jax.reporting.text_tables import rough_time, time_of
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
_MOST_LINES = 4  # Of what is said of the tasks, in which all classes are named.
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
        trains = config.method in TRAINS
        if event.platform == "cpu" and trains:
            facts[""] = _CPU
        facts["data"] = f"{event.dataset}: {counts}"
        last = f" to {len(event.tasks) - 1}" if len(event.tasks) > 1 else ""
        classes = " | ".join(map(", ".join, event.tasks))
        facts["tasks"] = f"{len(event.tasks)}, counted from 0{last}, with the classes {classes}"
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
        if seconds is not None:
            facts["time"] = f"roughly {rough_time(seconds)}, and what compiling takes"
        elif trains:
            facts["time"] = "unknown until some epochs are done"
        facts["run folder"] = str(event.workdir)
        if event.resumed_from is not None:
            task, epochs = event.resumed_from
            facts["resuming"] = f"{self._task_name(task)}, {epochs} of {event.epochs} epochs are done"
        self._print(*text_tables.aligned(facts, self._out.width, _MOST_LINES))

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
        title = f"{self._title(event)} learnt in {time_of(event.seconds)}"
        self._print(*text_tables.task_report(title, event, self._out.width))

    def on_run_end(self, event: events.RunEnd) -> None:
        """Prints the final accuracies, and where the files are."""
        self.close()
        summary = event.summary
        if event.already_finished:
            self._print("already finished, nothing was trained (choose another --workdir to start a new run)")
        else:
            seconds, total = self._clock() - self._start_time, sum(summary.seconds.values())
            earlier = f" ({time_of(total)} with earlier sessions)" if total > seconds + 1 else ""
            self._print("", f"finished in {time_of(seconds)}{earlier}")
        if summary.averages:
            average = summary.averages[summary.final]
            self._print(text_tables.average_table(summary.final, summary.protocol, average, summary.forgetting), "")
        self._print(*text_tables.aligned({"run folder": str(event.workdir), **event.files}, self._out.width))

    def on_seeds_end(self, summary: Mapping[str, Any], report: Sequence[str]) -> None:
        """Prints the report on several seeds."""
        self._print(*report)

    def on_note(self, text: str) -> None:
        """Prints a note; it stands above the bar, if there is one."""
        self._err.print(f"note: {text}", soft_wrap=True)

    def say(self, text: str) -> None:
        """Prints what happens before and beside the events of a run."""
        self._print(text)

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
            parts.append(f"{time_of((1 - share) / speed)} left")
        if plan is not None:
            parts += [
                text.format(self._metrics[name]) for name, text in _SHOWN_METRICS.items() if name in self._metrics
            ]
            if speed and plan.epochs * plan.steps > 1:
                parts.append(f"{speed * plan.epochs * plan.steps * plan.images_per_step:,.0f} images/s")
        bar.show(", ".join(parts))

    def _task_name(self, task: int) -> str:
        """The number of a task, which counts from 0 as in files, options and messages, and that of the last one."""
        return f"task {task}" + (f" (of 0 to {len(self._run.tasks) - 1})" if self._run else "")

    def _title(self, event: events.TaskEnd) -> str:
        """Which task it was, and of which seed if there are several."""
        seed = f", seed {event.seed}," if self._run is not None and len(self._run.seeds) > 1 else ""
        return f"{self._task_name(event.task)}{seed}"

    def _print(self, *parts: RenderableType) -> None:
        for part in parts:
            self._out.print(part, soft_wrap=True)


class QuietConsole(ConsoleProgress):
    """Prints results only: a line for each task, and in the end the last accuracies; and notes, on `err`."""

    def say(self, text: str) -> None:
        """Prints nothing."""

    def on_run_start(self, event: events.RunStart) -> None:
        """Prints nothing."""
        self._run = event

    def on_task_start(self, event: events.TaskStart) -> None:
        """Prints nothing."""

    def on_progress(self, event: events.Progress) -> None:
        """Prints nothing."""

    def on_epoch_end(self, event: events.EpochEnd) -> None:
        """Prints nothing."""

    def on_task_end(self, event: events.TaskEnd) -> None:
        """Prints the accuracy over all classes so far."""
        means = [f"{reading} {text_tables.percent(of['macro'])} %" for reading, of in event.average.items()]
        said = f"A_{len(event.class_names)}: {', '.join(means)}" if means else "accuracy was not measured"
        self._print(f"{self._title(event)} {said}")

    def on_run_end(self, event: events.RunEnd) -> None:
        """Prints the final accuracies and the run's folder."""
        summary = event.summary
        if summary.averages:
            average = summary.averages[summary.final]
            self._print(text_tables.average_table(summary.final, summary.protocol, average, summary.forgetting))
        self._print(f"run folder  {event.workdir}")


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
        left = f", {time_of((1 - done / total) / bar.speed)} left" if bar.speed else ""
        bar.show(f"{done:,} of {total:,}{left}")

    try:
        bar.select(description, resume=True)
        yield advance
    finally:
        bar.close()


def _protocol(config: Config) -> str:
    if config.method not in TRAINS:
        return "strict (no image of a past task is read)"
    if config.method in KEEPS_IMAGES:
        return "strict (the last epoch of each task counts; this baseline keeps real images of past tasks)"
    return _PROTOCOLS[config.protocol]
