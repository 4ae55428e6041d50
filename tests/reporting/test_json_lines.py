"""Events of a run as lines that programs read."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.run_events import METRICS, run_start, summary, task_end, task_start

from dgm_jax.reporting.console import ConsoleProgress, QuietConsole
from dgm_jax.reporting.json_lines import JsonLines
from dgm_jax.reporting.output import output
from dgm_jax.runs.events import Callback, EpochEnd, Progress, RunEnd


def played(*, quiet: bool) -> list[dict]:
    """The lines of a whole run."""
    out, now = io.StringIO(), [0.0]
    lines = JsonLines(quiet=quiet, out=out, interval=10, clock=lambda: now[0])
    lines.say("found digits")
    lines.on_run_start(run_start())
    lines.on_task_start(task_start())
    for second in (5, 12, 15, 23):
        now[0] = second
        lines.on_progress(Progress(1, "train", second, 30, 0))
    lines.on_epoch_end(EpochEnd(1, 9, METRICS | {"critic_loss": math.nan, "scale": np.float32(2)}, 1.0))
    lines.on_note("two\nlines")
    lines.on_task_end(task_end())
    lines.on_run_end(
        RunEnd(summary(bytes={"memory": {"total": 5}}), Path("runs/a"), False, {"summary": "runs/a/s.json"})
    )
    lines.on_seeds_end({"final": 10, "A_10": {"a": {"macro": {"mean": 0.5}}}}, ["seeds 0, 1"])
    lines.close()

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in out.getvalue().splitlines()]


def test_each_event_is_a_line():
    lines = played(quiet=False)
    events = ["message", "run_start", "task_start", "progress", "progress", "epoch_end", "note"]
    assert [line["event"] for line in lines] == [*events, "task_end", "run_end", "seeds_end"]
    assert lines[0]["time"] == "1970-01-01T00:00:00.000+00:00" and lines[-1]["time"] == "1970-01-01T00:00:23.000+00:00"
    found = {line["event"]: line for line in lines}
    start = found["run_start"]
    assert start["workdir"] == "runs/a" and start["tasks"] == [["0", "1"], ["2"]] and start["seeds"] == [3]
    assert start["config"]["gan"]["epochs"] == 20 and start["resumed_from"] is None
    assert [line["done"] for line in lines if line["event"] == "progress"] == [12, 23], (
        "not more than one in 10 seconds"
    )
    assert found["epoch_end"]["metrics"] == METRICS | {"critic_loss": None, "scale": 2.0}
    assert found["note"]["text"] == "two\nlines"
    end = task_end()
    assert found["task_end"]["average"] == end.average and found["task_end"]["capacity"] == end.capacity
    assert found["task_end"]["task"] == 1, "from 0"
    assert found["run_end"]["average"] == summary().averages[10] and found["run_end"]["bytes"] == {
        "memory": {"total": 5}
    }
    assert found["seeds_end"]["summary"]["A_10"]["a"]["macro"]["mean"] == 0.5


def test_quiet_leaves_out_all_but_results_and_notes():
    every = played(quiet=False)
    results = [line for line in every if line["event"] in ("task_end", "run_end", "seeds_end", "note")]
    assert played(quiet=True) == results


@pytest.mark.parametrize(
    ("log_format", "quiet", "kind"),
    [
        ("text", False, ConsoleProgress),
        ("text", True, QuietConsole),
        ("json", False, JsonLines),
        ("json", True, JsonLines),
    ],
)
def test_one_place_decides(log_format, quiet, kind, capsys):
    chosen = output(log_format, quiet=quiet)
    assert type(chosen) is kind
    chosen.say("found digits")
    shown = capsys.readouterr().out
    assert (shown == "") == quiet and shown.startswith("{") == (log_format == "json" and not quiet)


def test_no_event_is_left_out():
    events = {name for name in vars(Callback) if name.startswith("on_")}
    assert events <= set(vars(JsonLines)) and events <= set(vars(ConsoleProgress))
