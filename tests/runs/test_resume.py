"""Going on after any interruption: bit for bit what an uninterrupted run leaves, or a refusal that says why."""

import json
import re
import shutil
import signal

import pytest
from support import checks, children, small_runs
from support.checks import assert_same_results, lines
from support.marks import slow_but
from support.stopping import TINY, Log, interrupt

from dgm_jax import Learner
from dgm_jax.errors import OtherConfiguration, Terminated
from dgm_jax.system import checkpoint
from dgm_jax.training import trainer


@pytest.fixture
def step_by_step(monkeypatch):
    """Host and device meet after every step, so that a run can be stopped anywhere."""
    monkeypatch.setattr(trainer, "_SECONDS_PER_CALL", 0.0)


def leave_within_task(workdir, task, epochs_done):
    """As if a kill had come between saving a finished task and deleting what was saved within it."""
    left = checkpoint.read(workdir / "checkpoints" / "0")
    record = left.metadata["record"] | {"finished_tasks": task, "epochs_done": epochs_done}
    folder = workdir / "checkpoints" / "within_task" / str(task * 1_000_000 + epochs_done)
    checkpoint.save(folder, left.tree, left.metadata | {"record": record})


class TestResume:
    @pytest.mark.parametrize("variant", slow_but(["dgma", "dgmw"], "dgmw"))
    @pytest.mark.parametrize("place", [("epoch end", 1, 0), ("train", 1, 1)], ids=["epoch-end", "mid-epoch"])
    def test_interrupted_is_uninterrupted(self, variant, place, tmp_path, step_by_step):
        config = small_runs.small(variant)
        whole = small_runs.finished(config).workdir
        interrupt(config, tmp_path, *place)
        assert not json.loads((tmp_path / "summary.json").read_text())["finished"]
        log = Log()
        small_runs.fit(config, tmp_path, log)
        (start,) = log.heard("on_run_start")
        assert start.resumed_from == (1, max(place[2], 0))
        assert [event.first_epoch for event in log.heard("on_task_start")] == [place[2], 0]
        assert_same_results(tmp_path, whole)

    @pytest.mark.parametrize("place", [("train", 0, 0), ("consolidate", 0), ("consolidate", 2)], ids=str)
    def test_interrupted_before_the_first_checkpoint_or_in_consolidation(self, place, tmp_path, step_by_step):
        interrupt(TINY, tmp_path, *place)
        small_runs.fit(TINY, tmp_path)
        assert_same_results(tmp_path, small_runs.finished(TINY).workdir)

    @pytest.mark.slow
    def test_interrupted_again_and_again(self, tmp_path, step_by_step):
        for place in (("epoch end", 0, 1), ("train", 1, 0), ("epoch end", 1, 2), ("train", 2, 2)):
            interrupt(TINY, tmp_path, *place)
        small_runs.fit(TINY, tmp_path)
        assert_same_results(tmp_path, small_runs.finished(TINY).workdir)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "config, stream",
        [
            (small_runs.beyond("dgma", image_size=16), {}),
            (
                small_runs.beyond("dgmw", consolidation_network="resnet"),
                {"labels": small_runs.SIX, "classes_per_task": 2},
            ),
        ],
        ids=["dgma", "dgmw"],
    )
    def test_with_all_that_goes_beyond_the_paper(self, config, stream, tmp_path, step_by_step):
        interrupt(config, tmp_path, "train", 1, 2, **stream)
        interrupt(config, tmp_path, "consolidate", 1, **stream)
        interrupt(config, tmp_path, "epoch end", 2, 0, **stream)
        small_runs.fit(config, tmp_path, **stream)
        whole = small_runs.finished(config, **stream)
        assert_same_results(tmp_path, whole.workdir)
        begun_as = json.loads((tmp_path / "summary.json").read_text())["begun_as"]
        assert [len(own) for own in begun_as] == [0, *(len(task.classes) for task in whole.memories[-1].tasks[1:])]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes",
        [
            {"replay": "fresh"},
            {"reinitialise_discriminator": False},
            {"reinitialise_discriminator": False, "warm_start": True},
            {"protocol": "paper", "held_out": 0.25},
            {"warm_start": True},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_what_other_settings_must_remember(self, changes, tmp_path, step_by_step):
        config = TINY.with_changes(**changes)
        whole = small_runs.finished(config).workdir
        interrupt(config, tmp_path, "train", 1, 2)
        small_runs.fit(config, tmp_path)
        assert_same_results(tmp_path, whole)
        plain = small_runs.newest(small_runs.finished(TINY).workdir).tree
        with pytest.raises(AssertionError):  # The setting does something.
            checks.assert_equal_trees(plain["auxiliary"], small_runs.newest(whole).tree["auxiliary"])

    def test_what_the_classifier_learns_by(self):
        """Smoothing changes what it learns, and nothing of the memory."""
        changes = {"consolidation_smoothing": 0.1}
        plain, other = (
            small_runs.newest(small_runs.finished(TINY.with_changes(**own)).workdir).tree for own in ({}, changes)
        )
        checks.assert_equal_trees(plain["memory"], other["memory"])
        with pytest.raises(AssertionError):
            checks.assert_equal_trees(plain["classifier"]["params"], other["classifier"]["params"])

    @pytest.mark.parametrize(
        "stops_after", slow_but([1, 2, 3, 5], 2, 3)
    )  # Epochs: within a task, and at the end of one.
    def test_asked_to_stop(self, stops_after, tmp_path):
        """What was learnt is saved there, even if no checkpoint is due."""
        config, epochs = TINY.with_changes(checkpoint_seconds=1e6), []
        learner = Learner(config, devices=1, should_stop=lambda: epochs.append(1) or len(epochs) == stops_after)
        with pytest.raises(Terminated):
            learner.fit(small_runs.stream(config), tmp_path)
        assert len(epochs) == stops_after
        log = Log()
        small_runs.fit(config, tmp_path, log)
        assert len(log.heard("on_epoch_end")) == 3 * 3 - stops_after
        assert_same_results(tmp_path, small_runs.finished(config).workdir)

    def test_killed(self, tmp_path):
        code = "trainer._SECONDS_PER_CALL = 0.0\nsmall_runs.fit(config, workdir, Stop('train', 1, 1, signal.SIGKILL))"
        status, error = _child(code, tmp_path)
        assert status == -signal.SIGKILL, error
        small_runs.fit(TINY, tmp_path)
        assert_same_results(tmp_path, small_runs.finished(TINY).workdir)

    def test_killed_before_the_checkpoints_of_a_task_are_cleared_away(self, tmp_path):
        """They go when the run is resumed."""
        workdir = small_runs.copied(small_runs.finished(TINY).workdir, tmp_path / "run")
        for task in (1, 2):
            shutil.rmtree(workdir / "checkpoints" / str(task))
        leave_within_task(workdir, 0, 2)
        (workdir / "summary.json").unlink()
        small_runs.fit(TINY, workdir)
        assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["0", "1", "2"]

    def test_killed_after_the_last_task_was_saved(self, tmp_path):
        """What lies there of its epochs goes, although nothing is left to learn."""
        workdir = small_runs.copied(small_runs.finished(TINY).workdir, tmp_path / "run")
        leave_within_task(workdir, 2, 2)
        (workdir / "checkpoints" / "within_task" / ".2000003.partial").mkdir()
        small_runs.fit(TINY, workdir)
        assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["0", "1", "2"]
        assert_same_results(workdir, small_runs.finished(TINY).workdir)

    def test_a_damaged_checkpoint_is_passed_over(self, tmp_path):
        interrupt(TINY, tmp_path, "epoch end", 1, 2)
        damaged = checks.flip_a_byte(tmp_path)
        log = Log()
        small_runs.fit(TINY, tmp_path, log)
        (note,) = (note for note in log.heard("on_note") if "iterations only" not in note)
        assert note.startswith(f"{damaged} is damaged: ") and note.endswith("is used instead.")
        assert log.heard("on_run_start")[0].resumed_from == (1, 1)
        assert_same_results(tmp_path, small_runs.finished(TINY).workdir)

    def test_a_torn_line_of_metrics_is_mended(self, tmp_path):
        interrupt(TINY, tmp_path, "epoch end", 1, 1)
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"task": 1, "ep')
        small_runs.fit(TINY, tmp_path)
        assert_same_results(tmp_path, small_runs.finished(TINY).workdir)


class TestFinishedRun:
    def test_is_reported_and_not_redone(self, tmp_path):
        workdir = small_runs.copied(small_runs.finished(TINY).workdir, tmp_path / "copy")
        stamps = {path: path.stat().st_mtime_ns for path in workdir.glob("checkpoints/*/*")}
        log = Log()
        summary = small_runs.fit(TINY, workdir, log)
        assert [name for name, _ in log.events] == ["on_run_end"]
        (end,) = log.heard("on_run_end")
        assert end.already_finished and end.workdir == workdir and end.summary.to_json() == summary
        found = json.loads((workdir / "summary.json").read_text())
        del found["seconds"], summary["seconds"]
        assert found == summary
        assert stamps == {path: path.stat().st_mtime_ns for path in workdir.glob("checkpoints/*/*")}

    def test_whose_summary_is_missing_gets_it_again(self, tmp_path):
        workdir = small_runs.copied(small_runs.finished(TINY).workdir, tmp_path / "copy")
        (workdir / "summary.json").unlink()
        small_runs.fit(TINY, workdir)
        assert_same_results(workdir, small_runs.finished(TINY).workdir)


class TestOtherConfiguration:
    def test_lists_the_differences(self, tmp_path):
        workdir = small_runs.copied(small_runs.finished(TINY).workdir, tmp_path / "copy")
        other = TINY.with_changes(epochs=9, seed=4)
        with pytest.raises(OtherConfiguration) as caught:
            small_runs.fit(other, workdir)
        assert "seed is 0, now 4; " in str(caught.value) and "epochs is 3, now 9" in str(caught.value)
        with pytest.raises(OtherConfiguration, match=re.escape("the tasks [[0], [1], [2]], now they are [[2]")):
            small_runs.fit(TINY, workdir, class_order=(2, 1, 0))

    def test_resume_anyway(self, tmp_path):
        interrupt(TINY, tmp_path, "epoch end", 1, 1)
        longer = TINY.with_changes(epochs=4)
        log = Log()
        summary = small_runs.fit(longer, tmp_path, log, resume_anyway=True)
        assert log.heard("on_run_start")[0].resumed_from == (1, 1)
        assert summary["config"]["gan"]["epochs"] == 4
        assert json.loads((tmp_path / "config.json").read_text())["config"]["gan"]["epochs"] == 4
        assert [line["epoch"] for line in lines(tmp_path) if "epoch" in line] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]


def _child(code, workdir):
    """Runs `code` in a Python of its own, with `config` = TINY and `workdir`; gives its status, and what it said."""
    child = children.start(
        "import dataclasses, json, signal\n"
        "from support import small_runs\n"
        "from pathlib import Path\n"
        "from support.stopping import TINY as config, Stop\n"
        "from dgm_jax.training import trainer\n"
        f"workdir = Path({str(workdir)!r})\n{code}\n"
    )
    _, error = child.communicate(timeout=300)
    return child.returncode, error
