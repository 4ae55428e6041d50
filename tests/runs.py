"""Runs that are watched, stopped and compared."""

import csv
import gc
import json
import os
import signal
from pathlib import Path

import helpers
import pytest

from dgm_jax.runs.events import Callback

TINY = helpers.small("dgma", image_size=8)


class Stop(Callback):
    """Ends the run as Ctrl-C (or worse) would, at the end of an epoch or in the middle of a phase."""

    def __init__(self, where, task, epoch=None, how=KeyboardInterrupt):
        self.place, self.how = (where, task, epoch), how

    def _at(self, *place):
        if place == self.place:
            if self.how is KeyboardInterrupt:
                raise KeyboardInterrupt
            os.kill(os.getpid(), self.how)

    def on_epoch_end(self, event):
        self._at("epoch end", event.task, event.epoch)

    def on_progress(self, event):
        if event.done < event.total:
            self._at(event.phase, event.task, event.epoch)


class Log(Callback):
    """Keeps what it hears."""

    def __init__(self):
        self.events = []

    def heard(self, kind):
        return [event for name, event in self.events if name == kind]

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda event: self.events.append((name, event))
        return super().__getattribute__(name)


def interrupt(config, workdir, *place, **options):
    with pytest.raises(KeyboardInterrupt):
        helpers.fit(config, workdir, Stop(*place), **options)
    return workdir


def lose_a_ctrl_c() -> None:
    """Ctrl-C while garbage is collected: Python prints what is raised there, and goes on."""

    def interrupt(phase, _):
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(interrupt)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(interrupt)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def assert_same_results(a: Path, b: Path):
    """Everything two runs leave behind is equal bit for bit, but for their seconds."""
    first, second = helpers.newest(a), helpers.newest(b)
    assert first.step == second.step
    helpers.assert_equal_trees(first.tree, second.tree)
    assert first.metadata["memory"] == second.metadata["memory"]
    for name in ("accuracy_matrix.csv", "capacity.csv"):
        assert (a / name).read_text() == (b / name).read_text()
    configs = [json.loads((workdir / "config.json").read_text()) for workdir in (a, b)]
    for config in configs:
        config.pop("before", None)  # Settings that the run went on without.
    assert configs[0] == configs[1]
    assert lines(a) == lines(b)
    pictures = sorted(path.name for path in (a / "samples").iterdir())
    assert pictures == sorted(path.name for path in (b / "samples").iterdir())
    for name in pictures:
        assert (a / "samples" / name).read_bytes() == (b / "samples" / name).read_bytes()
    summaries = [json.loads((workdir / "summary.json").read_text()) for workdir in (a, b)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]
