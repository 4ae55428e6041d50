"""Runs that are watched, or stopped in the middle."""

import gc
import os
import signal

import pytest

from dgm_jax.runs.events import Callback
from support import small_runs

TINY = small_runs.small("dgma", image_size=8)


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
        small_runs.fit(config, workdir, Stop(*place), **options)
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
