"""When checkpoints within a task are saved: by a clock, which is a fake one here, of the first process."""

from types import SimpleNamespace

import pytest
from support import small_runs

from dgm_jax.runs import session
from dgm_jax.runs.checkpoints import RunCheckpoints
from dgm_jax.runs.events import Callback
from dgm_jax.system import processes


class Clock(Callback):
    """An epoch takes 25 seconds, and nothing else takes any."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def on_epoch_end(self, event) -> None:
        self.now += 25


@pytest.fixture
def saves(monkeypatch, tmp_path):
    """Learns two tasks of six epochs; returns (task, epochs done) of what was saved within them."""

    def run(seconds: float) -> list[tuple[int, int]]:
        clock, saved, save = Clock(), [], RunCheckpoints.save_in_progress

        def noted(self, task, epochs_done, *rest) -> None:
            saved.append((task, epochs_done))
            save(self, task, epochs_done, *rest)

        monkeypatch.setattr(session, "time", SimpleNamespace(perf_counter=clock.perf_counter))
        monkeypatch.setattr(RunCheckpoints, "save_in_progress", noted)
        config = small_runs.small("dgma", image_size=8, epochs=6, checkpoint_seconds=seconds)
        small_runs.fit(config, tmp_path, clock, labels=(0, 1))
        return saved

    return run


def test_a_checkpoint_is_saved_once_the_last_one_is_old_enough(saves):
    assert saves(60) == [(0, 3), (1, 3)]  # After three epochs; three later the task is over.


def test_one_that_is_as_old_as_asked_is_old_enough(saves):
    assert saves(50) == [(0, 2), (0, 4), (1, 2), (1, 4)]


def test_every_epoch_or_none(saves):
    assert saves(0) == [(task, epochs) for task in (0, 1) for epochs in range(1, 6)]


def test_the_end_of_a_task_counts_as_a_save(saves):
    assert saves(130) == []


def test_the_clock_of_the_first_process_decides(saves, monkeypatch):
    """Here it says that the last checkpoint is old enough whenever it is asked."""
    monkeypatch.setattr(processes, "value_of_first", lambda own: 1)
    assert len(saves(1e6)) == 10
