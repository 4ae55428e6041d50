"""What a scripted run says on the console."""

import io
from pathlib import Path
from typing import Any

import pytest

from dgm_jax.config import Config
from dgm_jax.reporting.console import ConsoleProgress, _rough, _time
from dgm_jax.runs.events import EpochEnd, Progress, RunEnd, RunStart, TaskEnd, TaskStart

METRICS = {
    "critic_loss": -0.3125,
    "generator_loss": 0.5,
    "classifier_loss": 0.0421,
    "sparsity": 0.7,
    "scale": 35000.0,
    "open_share": 0.338,
}
ROW = {"layer": 1, "width": 80, "gates": 80, "used": 34, "newly_reserved": 8, "reused": 26, "free": 1046}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Console:
    """A console whose clock moves only when told."""

    def __init__(self, err: io.StringIO | None = None) -> None:
        self.now = 0.0
        self.out, self.err = io.StringIO(), err or io.StringIO()
        self.progress = ConsoleProgress(out=self.out, err=self.err, clock=lambda: self.now)

    def lines(self) -> list[str]:
        return self.err.getvalue().splitlines()


def run_start(**changes) -> RunStart:
    event: dict[str, Any] = {
        "config": Config().with_changes(epochs=20),
        "workdir": Path("runs/a"),
        "devices": ["cpu:0"],
        "platform": "cpu",
        "dataset": "digits",
        "seeds": (3,),
        "tasks": (("0", "1"), ("2",)),
        "train_counts": (1290, 147),
        "test_count": 360,
        "estimated_seconds": 170.0,
        "resumed_from": None,
    }
    return RunStart(**(event | changes))


def task_start(task: int = 1, first_epoch: int = 0) -> TaskStart:
    return TaskStart(
        task=task,
        classes=("2",),
        epochs=20,
        first_epoch=first_epoch,
        steps=4,
        images_per_step=32,
        widths=(80, 40, 20),
        physical_widths=(80, 40, 20),
    )


def task_end(task: int = 1, names: tuple[str, ...] = ("0", "1", "2")) -> TaskEnd:
    return TaskEnd(
        task=task,
        seed=3,
        accuracy={"consolidated": [0.9861, 0.97, 1.0][: len(names)], "auxiliary": [0.5, 0.0, 1.0][: len(names)]},
        average={"consolidated": {"macro": 0.9854, "micro": 0.984}, "auxiliary": {"macro": 0.5, "micro": 0.48}},
        forgetting={"consolidated": 0.0123, "auxiliary": 0.4},
        class_names=names,
        capacity=[ROW],
        widths=(88, 44, 22),
        seconds=81.0,
        protocol="strict",
    )


def test_the_head_of_a_run() -> None:
    console = Console()
    console.progress.on_run_start(run_start())
    assert console.out.getvalue().splitlines() == [
        "device      cpu:0",
        '            training on the CPU; a GPU would be faster (python -m pip install "jax[cuda13]")',
        "data        digits: 1,437 training images (147 to 1,290 a task), 360 for testing",
        "tasks       2, of the classes 0, 1 | 2",
        "variant     dgma",
        "protocol    strict (the last epoch of each task counts; no image of a past task is read)",
        "time        roughly 3 minutes",
        "run folder  runs/a",
    ]


def test_the_head_of_a_run_that_goes_on_elsewhere() -> None:
    console = Console()
    paper = Config().with_changes(epochs=20, protocol="paper", held_out=0.1)
    event = run_start(config=paper, platform="gpu", devices=["cuda:0"], estimated_seconds=None, resumed_from=(1, 7))
    console.progress.on_run_start(event)
    text = console.out.getvalue()
    assert "device      cuda:0\n" in text
    assert "protocol    paper (epochs are chosen on REAL held-out images of past tasks;" in text
    assert "time        not known before the first epochs\n" in text
    assert "goes on     from task 1 (2 of 2), 7 of 20 epochs done\n" in text


def test_plain_lines_where_there_is_no_terminal() -> None:
    console = Console()
    progress = console.progress
    progress.on_run_start(run_start())
    progress.on_task_start(task_start())
    for epoch in range(20):
        for done in (2, 4):
            console.now += 0.5
            progress.on_progress(Progress(1, "train", done, 4, epoch))
        progress.on_epoch_end(EpochEnd(1, epoch, METRICS, 1.0))
    assert console.lines() == [
        "task 1 (2 of 2): classes 2; 20 epochs of 4 steps, widths 80-40-20",
        "task 1 (2 of 2): epoch 10/20, 0:10 left, critic -0.312, generator 0.5, classifier 0.0421, s 3.5e+04, "
        "open 34%, 128 images/s",
        "task 1 (2 of 2): epoch 20/20, 0:00 left, critic -0.312, generator 0.5, classifier 0.0421, s 3.5e+04, "
        "open 34%, 128 images/s",
    ]


def test_other_phases_are_named() -> None:
    console = Console()
    progress = console.progress
    progress.on_run_start(run_start())
    progress.on_task_start(task_start(first_epoch=7))
    for done in (100, 300):
        console.now += 10
        progress.on_progress(Progress(1, "consolidate", done, 400))
    assert console.lines() == [
        "task 1 (2 of 2): classes 2; epochs 8 to 20 of 4 steps, widths 80-40-20",
        "task 1 (2 of 2): consolidate 25%",
        "task 1 (2 of 2): consolidate 75%, 0:05 left",
    ]


def test_replay_between_epochs_does_not_reset_the_pace() -> None:
    console = Console()
    progress = console.progress
    progress.on_task_start(task_start())
    for epoch in range(20):
        console.now += 1
        progress.on_progress(Progress(1, "replay", 1, 1))
        progress.on_epoch_end(EpochEnd(1, epoch, {}, 1.0))
    console.now += 10
    progress.on_epoch_end(EpochEnd(1, 19, {}, 1.0))
    assert console.lines()[-1] == "task 1: epoch 20/20, 0:00 left, 84 images/s"  # 95 % of 2,560 images in 29 s.


def test_the_first_seconds_do_not_count_for_long() -> None:
    console = Console()
    progress = console.progress
    progress.on_task_start(task_start())
    for epoch, now in enumerate([100, 200, *range(201, 218)]):  # Two slow epochs, and then one a second.
        console.now = now
        progress.on_epoch_end(EpochEnd(1, epoch, {}, 1.0))
    console.now = 240
    progress.on_epoch_end(EpochEnd(1, 19, {}, 1.0))
    assert "0:00 left" in console.lines()[-1]


def test_after_a_task() -> None:
    console = Console()
    console.progress.on_run_start(run_start())
    console.out.truncate(0)
    console.out.seek(0)
    console.progress.on_task_end(task_end())
    assert console.out.getvalue().splitlines() == [
        "",
        "task 1 (2 of 2) learnt in 1:21",
        "  accuracy, %      0     1     2",
        "  consolidated  98.6  97.0 100.0",
        "  auxiliary     50.0   0.0 100.0",
        "",
        "  A_3, strict protocol: consolidated 98.5 % (micro 98.4), auxiliary 50.0 % (micro 48.0)",
        "  forgetting: consolidated 1.2 points, auxiliary 40.0 points",
        "",
        "  layer  width  gates  used  newly reserved  reused   free",
        "      1     80     80    34               8      26  1,046",
        "  widths from now on: 88-44-22",
        "",
    ]


def test_the_first_task_cannot_have_forgotten() -> None:
    console = Console()
    console.progress.on_task_end(task_end(task=0, names=("0",)))
    assert "forgetting" not in console.out.getvalue()


def test_many_classes_are_broken_into_blocks() -> None:
    console = Console()
    names = tuple(f"class {i}" for i in range(30))
    event = task_end(names=names)
    console.progress.on_task_end(TaskEnd(**(vars(event) | {"accuracy": {"consolidated": [0.5] * 29 + [float("nan")]}})))
    lines = console.out.getvalue().splitlines()
    assert max(map(len, lines)) <= 104
    assert sum(line.count("50.0") for line in lines if "protocol" not in line) == 29
    assert sum(line.count("class ") for line in lines) == 30
    assert any(line.endswith(" -") for line in lines), "a class without test images"


SUMMARY = {
    "protocol": "strict",
    "A_5": {"consolidated": {"macro": 0.99, "micro": 0.99}},
    "A_10": {"consolidated": {"macro": 0.951, "micro": 0.95}, "auxiliary": {"macro": 0.8, "micro": 0.7}},
    "forgetting": {"consolidated": 0.02},
}


@pytest.mark.parametrize("already", [False, True])
def test_the_end(already: bool) -> None:
    console = Console()
    console.progress.on_run_start(run_start())
    console.now = 192
    console.out.truncate(0)
    console.out.seek(0)
    console.progress.on_run_end(RunEnd(SUMMARY, Path("runs/a"), already, {"summary": "runs/a/summary.json"}))
    finished = "this run is finished already: nothing was trained (another --workdir starts a new one)"
    assert console.out.getvalue().splitlines() == [
        finished if already else "finished in 3:12",
        "A_10, strict protocol: consolidated 95.1 % (micro 95.0), auxiliary 80.0 % (micro 70.0)",
        "forgetting: consolidated 2.0 points",
        "run folder  runs/a",
        "summary     runs/a/summary.json",
    ]


def test_one_bar_a_task_on_a_terminal() -> None:
    console = Console(Terminal())
    progress = console.progress
    progress.on_run_start(run_start())
    progress.on_task_start(task_start())
    progress.on_progress(Progress(1, "replay", 10, 20))
    progress.on_epoch_end(EpochEnd(1, 9, METRICS, 1.0))
    progress.on_note("checkpoint 3 is damaged")
    progress.on_task_end(task_end())
    text = console.err.getvalue()
    assert text.count("\n") == 1, "the note's line"
    assert "task 1 (2 of 2) |" in text
    assert "replay 50%" in text
    assert "epoch 10/20, critic -0.312" in text
    assert "note: checkpoint 3 is damaged\n" in text
    assert text.endswith(" \r"), "the bar is wiped away, and what follows begins at the left"


def test_a_note_without_a_bar() -> None:
    console = Console()
    console.progress.on_note("checkpoint 3 is damaged")
    assert console.err.getvalue() == "note: checkpoint 3 is damaged\n"


def test_closing_twice_is_harmless() -> None:
    console = Console(Terminal())
    console.progress.on_task_start(task_start())
    console.progress.close()
    console.progress.close()
    assert console.err.getvalue().endswith(" \r")


def test_times() -> None:
    assert [_time(s) for s in (0, 7.4, 725, 3723)] == ["0:00", "0:07", "12:05", "1:02:03"]
    assert [_rough(s) for s in (3, 44, 100, 5399, 9000)] == [
        *("10 seconds", "40 seconds", "2 minutes", "90 minutes", "2.5 hours")
    ]


def test_several_seeds_are_told_apart() -> None:
    console = Console()
    console.progress.on_run_start(run_start(seeds=(0, 3)))
    console.progress.on_task_end(task_end())
    text = console.out.getvalue()
    assert "0, 3, side by side" in text
    assert "task 1 (2 of 2), seed 3, learnt in" in text
