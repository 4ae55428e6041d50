"""`evaluate_every`: what is measured is what a run that measures after each task has; what is not is missing."""

import csv
import io
import json

import pytest
from support import checks, small_runs
from support.stopping import Log

from dgm_jax import Learner
from dgm_jax.errors import OtherConfiguration
from dgm_jax.metrics import forgetting
from dgm_jax.reporting import page
from dgm_jax.reporting.console import ConsoleProgress
from dgm_jax.runs.events import Callback
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import NoRun, read, read_summary

LABELS = (0, 1, 2, 3, 4)  # A task each: measured after the second, the fourth and the last one.
MEASURED = (1, 3, 4)


def config(every, method="finetune", **changes):
    own = {"image_size": 8, "evaluate_every": every, "epochs": 1}
    return small_runs.small(method=method, **(own | changes)).with_changes(evaluate_every=every)


@pytest.fixture(scope="module", params=["finetune", "dgm"])
def both(request, tmp_path_factory):
    """(folder, events) of a run that measures after each task, and of one that does so after every second."""
    found = []
    for every in (1, 2):
        folder, log = tmp_path_factory.mktemp("run") / "run", Log()
        small_runs.fit(config(every, request.param), folder, log, labels=LABELS)
        found.append((folder, log))
    return found


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def accuracies(folder):
    """The rows of accuracy_matrix.csv, without its header."""
    return [*csv.reader((folder / "accuracy_matrix.csv").read_text().splitlines())][1:]


def test_what_is_measured_is_the_same_and_the_rest_is_missing(both):
    (each, _), (some, log) = both
    whole, thin = summary(each), summary(some)
    assert [name for name in thin if name.startswith("A_")] == ["A_2", "A_4", "A_5"]
    for name in ("A_2", "A_4", "A_5", "confusion", "bytes"):
        assert thin[name] == whole[name], name
    for reading, means in whole["average_incremental"].items():
        curve = [whole[f"A_{n}"][reading]["macro"] for n in range(1, 6)]
        assert means == pytest.approx({"from_1": sum(curve) / 5, "from_2": sum(curve[1:]) / 4})
        assert thin["average_incremental"][reading] == {"from_1": None, "from_2": None}
    assert "task_known" not in whole  # Each task has one class.
    rows, expected = (accuracies(run) for run in (some, each))
    assert len(rows) == len(expected) == 5 * len(thin["forgetting"])
    for row, full in zip(rows, expected, strict=True):
        assert row == full if int(row[2]) in MEASURED else row == [*full[:3], *[""] * 5]
    lines = checks.lines(some)
    assert [line["task"] for line in lines if "average" in line] == list(MEASURED)
    events = log.heard("on_task_end")
    assert [event.task for event in events if event.average] == list(MEASURED)
    assert all(not event.accuracy and not event.forgetting for event in events if event.task not in MEASURED)


def test_forgetting_is_over_what_was_measured(both):
    (each, _), (some, _) = both
    reading = next(iter(summary(some)["forgetting"]))
    rows = [row for row in accuracies(each) if row[1] == reading]
    matrix = [[float(cell) if cell else float("nan") for cell in row[3:]] for row in rows]
    # Classes 0 to 3 were measured before the last task; class 2 for the first time after the fourth.
    known = [max(matrix[t][c] for t in (1, 3) if c <= t) - matrix[4][c] for c in range(4)]
    assert summary(some)["forgetting"][reading] == pytest.approx(sum(known) / 4, abs=1e-6)
    assert forgetting([matrix[4]], [[0, 1, 2, 3, 4]]) == 0


def test_the_page_and_the_console_say_so(both):
    (each, _), (some, log) = both
    text = page.page(read(some))
    assert "measured after every 2 tasks and after the last one" in text
    assert "after every" not in page.page(read(each))
    assert read_summary(Workdir(some)).curve()[0] is None and None not in read_summary(Workdir(each)).curve()
    out = io.StringIO()
    console = ConsoleProgress(out=out, err=io.StringIO())
    for event in log.heard("on_task_end"):
        console.on_task_end(event)
    assert out.getvalue().count("accuracy was not measured after this task (--evaluate-every)") == 2
    assert out.getvalue().count("A_2 (strict") == 1 and "A_1 (" not in out.getvalue()


class Stops(Callback):
    def on_task_start(self, event):
        if event.task == 3:
            raise KeyboardInterrupt


def test_a_run_stopped_after_a_task_that_was_not_measured(tmp_path):
    """Nothing that was measured before stands for it; and it goes on as if nothing had happened."""
    with pytest.raises(KeyboardInterrupt):
        small_runs.fit(config(2), tmp_path, Stops(), labels=LABELS)
    found = summary(tmp_path)
    assert [name for name in found if name.startswith("A_")] == ["A_2"] and found["final"] == 3
    assert found["confusion"] == {} and list(found["forgetting"].values()) == [None]
    text = page.page(read(tmp_path))
    assert "In progress: 3 of 5 tasks" in text and "Accuracy was not measured after the newest task." in text
    with pytest.raises(OtherConfiguration, match="evaluate_every is 2, now 1. Choose another --workdir"):
        small_runs.fit(config(1), tmp_path, labels=LABELS)
    small_runs.fit(config(2), tmp_path, labels=LABELS)
    whole = small_runs.finished(config(2), labels=LABELS).workdir
    checks.assert_equal_trees(small_runs.newest(tmp_path).tree, small_runs.newest(whole).tree)
    different = {"seconds"}
    for name, value in summary(whole).items():
        assert name in different or summary(tmp_path)[name] == value, name
    assert checks.lines(tmp_path) == checks.lines(whole)


def test_a_summary_that_lacks_what_was_due_is_damaged(tmp_path):
    run = small_runs.copied(small_runs.finished(config(2), labels=LABELS).workdir, tmp_path / "run")
    content = summary(run)
    for name in ("A_4", "A_5"):
        left = {key: value for key, value in content.items() if key != name}
        (run / "summary.json").write_text(json.dumps(left))
        with pytest.raises(NoRun, match=f"cannot be read .KeyError: '{name}'"):
            read(run)


def test_a_run_that_continues_and_several_seeds(tmp_path):
    """The last task of a stage is measured, too; all seeds are measured after the same tasks."""
    own = config(3)
    small_runs.fit(own, tmp_path / "stages", labels=(0, 1))
    first = summary(tmp_path / "stages")
    assert "A_2" in first and "A_1" not in first and list(first["forgetting"].values()) == [None]
    found = small_runs.fit(own, tmp_path / "stages", labels=(2, 3))
    assert [name for name in found if name.startswith("A_")] == ["A_2", "A_3", "A_4"]
    streams = [small_runs.stream(own, LABELS[:4]) for _ in (0, 1)]
    seeds = Learner(own, devices=1).fit_seeds((0, 1), streams, tmp_path / "seeds")
    assert [name for name in seeds if name.startswith("A_")] == ["A_3", "A_4"]
    assert len(seeds["A_3"][next(iter(seeds["A_3"]))]["macro"]["values"]) == 2


def test_the_paper_protocol_chooses_epochs_all_the_same(tmp_path):
    own = config(2, "dgm", protocol="paper", held_out=0.25, epochs=2)
    found = small_runs.fit(own, tmp_path, labels=(0, 1, 2))
    epochs = [line for line in checks.lines(tmp_path) if line["kind"] == "epoch"]
    assert all("validation_accuracy" in line for line in epochs) and len(epochs) == 6
    assert [name for name in found if name.startswith("A_")] == ["A_2", "A_3"]
