"""What a scripted run prints on the console."""

import io
import re
from pathlib import Path

import pytest
from support.run_events import METRICS, run_start, summary, task_end, task_start

from dgm_jax.config import Config
from dgm_jax.reporting.console import ConsoleProgress, QuietConsole, progress_bar
from dgm_jax.reporting.text_tables import SCREEN, rough_time, time_of
from dgm_jax.runs.events import EpochEnd, Progress, RunEnd, TaskEnd


@pytest.fixture(autouse=True)
def capable_terminal(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


def shown(text: str) -> list[str]:
    """The lines that a terminal shows at the end; the cursor must then be on an empty line."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\n|\r)", text):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            continue
        elif match := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(match[1])
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part and not part.startswith("\x1b"):
            lines[row] += part
    assert lines[row] == ""
    return [line.rstrip() for line in lines if line.strip()]


class Console:
    """A console whose clock the test sets."""

    def __init__(self, err: io.StringIO | None = None) -> None:
        self.now = 0.0
        self.out, self.err = io.StringIO(), err or io.StringIO()
        self.progress = ConsoleProgress(out=self.out, err=self.err, clock=lambda: self.now)

    def lines(self) -> list[str]:
        return self.err.getvalue().splitlines()


def test_the_head_of_a_run() -> None:
    console = Console()
    console.progress.on_run_start(run_start())
    assert console.out.getvalue().splitlines() == [
        "device      cpu:0",
        '            training on the CPU; a GPU would be faster (python -m pip install "jax[cuda13]")',
        "data        digits: 1,437 training images (147 to 1,290 a task), 360 for testing",
        "tasks       2, counted from 0 to 1, with the classes 0, 1 | 2",
        "variant     dgma",
        "protocol    strict (the last epoch of each task counts; no image of a past task is read)",
        "time        roughly 3 minutes, and what compiling takes",
        "run folder  runs/a",
    ]


def test_the_head_of_a_run_that_trains_nothing() -> None:
    """It has no epochs, and a GPU would not help much."""
    console = Console()
    config = Config().with_changes(method="analytic")
    console.progress.on_run_start(run_start(config=config, estimated_seconds=None))
    text = console.out.getvalue()
    assert "method      analytic (a baseline)\nprotocol    strict (no image of a past task is read)\nrun folder" in text
    assert "GPU" not in text and "time" not in text


def test_the_head_of_a_run_that_is_resumed_on_another_machine() -> None:
    console = Console()
    paper = Config().with_changes(epochs=20, protocol="paper", held_out=0.1)
    event = run_start(config=paper, platform="gpu", devices=["cuda:0"], estimated_seconds=None, resumed_from=(1, 7))
    console.progress.on_run_start(event)
    text = console.out.getvalue()
    assert "device      cuda:0\n" in text
    assert "protocol    paper (epochs are chosen on REAL held-out images of past tasks;" in text
    assert "time        unknown until some epochs are done\n" in text
    assert "resuming    task 1 (of 0 to 1), 7 of 20 epochs are done\n" in text


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
        "task 1 (of 0 to 1): classes 2; 20 epochs of 4 steps; widths 80-40-20",
        "task 1 (of 0 to 1): epoch 10/20, 0:10 left, critic -0.312, generator 0.5, classifier 0.0421, s 3.5e+04, "
        "open 34%, 128 images/s",
        "task 1 (of 0 to 1): epoch 20/20, 0:00 left, critic -0.312, generator 0.5, classifier 0.0421, s 3.5e+04, "
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
        "task 1 (of 0 to 1): classes 2; epochs 8 to 20 of 4 steps; widths 80-40-20",
        "task 1 (of 0 to 1): consolidate 25%",
        "task 1 (of 0 to 1): consolidate 75%, 0:05 left",
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
    assert console.lines()[-1] == "task 1: epoch 20/20, 0:00 left, 128 images/s"  # 95 % of 2,560 images in 19 s.


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
        "task 1 (of 0 to 1) learnt in 1:21",
        "  A_3 (strict protocol), %  macro  micro  forgetting, points",
        "  consolidated               98.5   98.4                 1.2",
        "  auxiliary                  50.0   48.0                40.0",
        "",
        "  accuracy, %      0     1     2",
        "  consolidated  98.6  97.0 100.0",
        "  auxiliary     50.0   0.0 100.0",
        "  gates: 68 used (16 new, 52 reused), 2,092 free; widths from now on: 88-44-22",
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
    assert max(map(len, lines)) <= 100
    assert sum(line.count("50.0") for line in lines[lines.index("", 1) :]) == 29
    assert sum(line.count("class ") for line in lines) == 30
    assert any(line.endswith(" -") for line in lines), "a class without test images"


@pytest.mark.parametrize("n_classes", [1, 10, 20, 60, 100, 1000])
@pytest.mark.parametrize("n_readings", [1, 2, 4])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_task_takes_one_screen(n_classes: int, n_readings: int, width: int, monkeypatch) -> None:
    """Beyond it, the lowest accuracies are shown, which matter first; and the text says where all of them are."""
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console()
    console.progress._out.width = width
    readings = ["consolidated", "auxiliary", "analytic", "combined"][:n_readings]
    names = tuple(f"class{i}" for i in range(n_classes))
    values = [(7 * i % n_classes) / n_classes for i in range(n_classes)]  # Each value once.
    means = {"macro": 0.5, "micro": 0.5}
    own = {"accuracy": {r: values for r in readings}, "average": {r: means for r in readings}, "class_names": names}
    console.progress.on_task_end(TaskEnd(**(vars(task_end()) | own)))
    text = console.out.getvalue()
    lines = text.splitlines()
    assert len(lines) <= SCREEN and max(map(len, lines)) <= width
    shown = [name for line in lines for name in line.split() if name.startswith("class") and name[5:].isdecimal()]
    assert len(set(shown)) == len(shown) > 0 and shown == sorted(shown, key=lambda name: int(name[5:]))
    lowest = sorted(range(n_classes), key=values.__getitem__)[: len(shown)]
    assert {int(name[5:]) for name in shown} == set(lowest)
    said = f"the {len(shown)} of {n_classes} classes with the lowest accuracy; all: accuracy_matrix.csv"
    assert (said in text) == (len(shown) < n_classes)
    assert text.count("combined") in (0, 2) or "accuracy_matrix.csv" in text or len(shown) == n_classes


def test_the_head_names_only_some_of_many_classes() -> None:
    console = Console()
    console.progress.on_run_start(
        run_start(tasks=tuple((f"class {i}",) for i in range(1000)), train_counts=(5,) * 1000)
    )
    lines = console.out.getvalue().splitlines()
    assert len(lines) <= SCREEN and max(map(len, lines)) <= 100
    assert "tasks       1000, counted from 0 to 999, with the classes class 0 | class 1 |" in lines[3]
    assert any(line.endswith("[...]") for line in lines)


def test_quiet_prints_results_only() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = QuietConsole(out=out, err=err, interval=0)
    console.say("found digits")
    console.on_run_start(run_start())
    console.on_task_start(task_start())
    console.on_progress(Progress(1, "train", 2, 4, 0))
    console.on_epoch_end(EpochEnd(1, 9, METRICS, 1.0))
    assert out.getvalue() == err.getvalue() == ""
    console.on_note("checkpoint 3 is damaged")
    console.on_task_end(task_end())
    console.on_task_end(TaskEnd(**(vars(task_end(0)) | {"average": {}, "accuracy": {}, "forgetting": {}})))
    console.on_run_end(RunEnd(summary(), Path("runs/a"), False, {"summary": "runs/a/summary.json"}))
    console.on_seeds_end({}, ["seeds 0, 1: A_10 95 %"])
    assert err.getvalue() == "note: checkpoint 3 is damaged\n"
    assert out.getvalue().splitlines() == [
        "task 1 (of 0 to 1) A_3: consolidated 98.5 %, auxiliary 50.0 %",
        "task 0 (of 0 to 1) accuracy was not measured",
        "  A_10 (strict protocol), %  macro  micro  forgetting, points",
        "  consolidated                95.1   95.0                 2.0",
        "  auxiliary                   80.0   70.0                10.0",
        "run folder  runs/a",
        "seeds 0, 1: A_10 95 %",
    ]


@pytest.mark.parametrize("already", [False, True])
def test_the_end(already: bool) -> None:
    console = Console()
    console.progress.on_run_start(run_start())
    console.now = 192
    console.out.truncate(0)
    console.out.seek(0)
    console.progress.on_run_end(RunEnd(summary(), Path("runs/a"), already, {"summary": "runs/a/summary.json"}))
    finished = "already finished, nothing was trained (choose another --workdir to start a new run)"
    assert console.out.getvalue().splitlines() == [
        *([finished] if already else ["", "finished in 3:12"]),
        "  A_10 (strict protocol), %  macro  micro  forgetting, points",
        "  consolidated                95.1   95.0                 2.0",
        "  auxiliary                   80.0   70.0                10.0",
        "",
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
    screen = shown(text)
    assert screen == ["note: checkpoint 3 is damaged"], "only the note is left"
    lines = without_codes(text).split("\r")
    assert any(line.startswith("task 1 (of 0 to 1)") and "replay 50%" in line for line in lines)
    assert "epoch 10/20, critic -0.312" in text


def test_a_note_without_a_bar() -> None:
    console = Console()
    console.progress.on_note("checkpoint 3 is damaged")
    assert console.err.getvalue() == "note: checkpoint 3 is damaged\n"


def test_closing_twice_is_harmless() -> None:
    console = Console(Terminal())
    console.progress.on_task_start(task_start())
    console.progress.close()
    console.progress.close()
    assert shown(console.err.getvalue()) == []


def test_the_cursor_is_visible_while_a_bar_is_shown() -> None:
    console = Console(Terminal())
    console.progress.on_task_start(task_start())
    text = console.err.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "a process that is killed cannot show it again"
    console.progress.close()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_bar_fits_into_one_line(width, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console(Terminal())
    console.progress.on_run_start(run_start())
    console.progress.on_task_start(task_start())
    console.progress.on_epoch_end(EpochEnd(1, 9, METRICS, 1.0))
    text = without_codes(console.err.getvalue())
    console.progress.close()
    lines = [line for line in re.split(r"[\r\n]", text) if line.strip()]
    assert all(line.startswith("task 1 (of 0 to 1) ") and len(line) <= width - 2 for line in lines), "room for ^C"
    assert "epoch 10/20" in lines[-1] or width == 40


def test_no_control_codes_without_a_terminal(monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "40")
    console, workdir = Console(), Path("a/" * 100 + "b")
    console.progress.on_run_start(run_start(workdir=workdir))
    console.progress.on_task_start(task_start())
    console.progress.on_progress(Progress(1, "replay", 10, 20))
    console.progress.on_note(f"{workdir} is [bold]long[/bold] :smile:")
    console.progress.on_task_end(task_end())
    console.progress.on_run_end(RunEnd(summary(), workdir))
    out, err = console.out.getvalue(), console.err.getvalue()
    assert "\x1b" not in out + err and "\r" not in out + err
    assert out.count(f"run folder  {workdir}\n") == 2
    assert err.endswith(f"note: {workdir} is [bold]long[/bold] :smile:\n")
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_progress_over_a_total() -> None:
    err, now = io.StringIO(), 0.0
    with progress_bar(2000, "writing images", err=err, clock=lambda: now) as advance:
        for _ in range(4):
            now += 8
            advance(500)
    assert err.getvalue().splitlines() == [
        "writing images: 1,000 of 2,000, 0:16 left",
        "writing images: 2,000 of 2,000, 0:00 left",
    ]
    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt), progress_bar(2000, "writing images", err=terminal) as advance:
        advance(500)
        raise KeyboardInterrupt
    assert "500 of 2,000" in terminal.getvalue() and shown(terminal.getvalue()) == []


def test_times() -> None:
    assert [time_of(s) for s in (0, 7.4, 725, 3723)] == ["0:00", "0:07", "12:05", "1:02:03"]
    rough = ["10 seconds", "40 seconds", "2 minutes", "90 minutes", "2.5 hours"]
    assert [rough_time(s) for s in (3, 44, 100, 5399, 9000)] == rough


def test_several_seeds_are_told_apart() -> None:
    console = Console()
    console.progress.on_run_start(run_start(seeds=(0, 3)))
    console.progress.on_task_end(task_end())
    text = console.out.getvalue()
    assert "0, 3, side by side" in text
    assert "task 1 (of 0 to 1), seed 3, learnt in" in text
