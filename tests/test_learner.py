"""The loop over tasks: going on after any interruption, what a run leaves behind, and what it refuses."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import chex
import helpers
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401

from dgm_jax import Learner, checkpoint, load_memory
from dgm_jax import run as training_run
from dgm_jax.callbacks import Callback
from dgm_jax.config import Config
from dgm_jax.errors import ConfigError, NotFinite, OtherConfiguration
from dgm_jax.training import task as training

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


@pytest.fixture
def step_by_step(monkeypatch):
    """Host and device meet after every step, so that a run can be stopped anywhere."""
    monkeypatch.setattr(training, "_SECONDS_PER_CALL", 0.0)


def _interrupt(config, workdir, *place, **options):
    with pytest.raises(KeyboardInterrupt):
        helpers.fit(config, workdir, Stop(*place), **options)
    return workdir


def _lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _table(path):
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
    assert _lines(a) == _lines(b)
    pictures = sorted(path.name for path in (a / "samples").iterdir())
    assert pictures == sorted(path.name for path in (b / "samples").iterdir())
    for name in pictures:
        assert (a / "samples" / name).read_bytes() == (b / "samples" / name).read_bytes()
    summaries = [json.loads((workdir / "summary.json").read_text()) for workdir in (a, b)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]


class TestResume:
    @pytest.mark.parametrize("variant", ["dgma", "dgmw"])
    @pytest.mark.parametrize("place", [("epoch end", 1, 0), ("train", 1, 1)], ids=["epoch-end", "mid-epoch"])
    def test_interrupted_is_uninterrupted(self, variant, place, tmp_path, step_by_step):
        config = helpers.small(variant)
        whole = helpers.finished(config).workdir
        _interrupt(config, tmp_path, *place)
        assert not json.loads((tmp_path / "summary.json").read_text())["finished"]
        log = Log()
        helpers.fit(config, tmp_path, log)
        (start,) = log.heard("on_run_start")
        assert start.resumed_from == (1, max(place[2], 0))
        assert [event.first_epoch for event in log.heard("on_task_start")] == [place[2], 0]
        assert_same_results(tmp_path, whole)

    @pytest.mark.parametrize("place", [("train", 0, 0), ("consolidate", 0), ("consolidate", 2)], ids=str)
    def test_interrupted_before_the_first_checkpoint_or_in_consolidation(self, place, tmp_path, step_by_step):
        _interrupt(TINY, tmp_path, *place)
        helpers.fit(TINY, tmp_path)
        assert_same_results(tmp_path, helpers.finished(TINY).workdir)

    def test_interrupted_again_and_again(self, tmp_path, step_by_step):
        for place in (("epoch end", 0, 1), ("train", 1, 0), ("epoch end", 1, 2), ("train", 2, 2)):
            _interrupt(TINY, tmp_path, *place)
        helpers.fit(TINY, tmp_path)
        assert_same_results(tmp_path, helpers.finished(TINY).workdir)

    @pytest.mark.parametrize(
        "variant, stream", [("dgma", {}), ("dgmw", {"labels": helpers.SIX, "classes_per_task": 2})]
    )
    def test_with_all_that_goes_beyond_the_paper(self, variant, stream, tmp_path, step_by_step):
        config = helpers.beyond(variant)
        _interrupt(config, tmp_path, "train", 1, 2, **stream)
        _interrupt(config, tmp_path, "consolidate", 1, **stream)
        _interrupt(config, tmp_path, "epoch end", 2, 0, **stream)
        helpers.fit(config, tmp_path, **stream)
        whole = helpers.finished(config, **stream)
        assert_same_results(tmp_path, whole.workdir)
        begun_as = json.loads((tmp_path / "summary.json").read_text())["begun_as"]
        assert [len(own) for own in begun_as] == [0, *(len(task.classes) for task in whole.memories[-1].tasks[1:])]

    @pytest.mark.parametrize(
        "changes",
        [
            {"replay": "fresh"},
            {"reinitialise_discriminator": False},
            {"protocol": "paper", "held_out": 0.25},
            {"warm_start": True},
            {"critic_shift": 1},
            {"replay_confidence": 0.5},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_what_other_settings_must_remember(self, changes, tmp_path, step_by_step):
        config = dataclasses.replace(TINY, **changes)
        whole = helpers.finished(config).workdir
        _interrupt(config, tmp_path, "train", 1, 2)
        helpers.fit(config, tmp_path)
        assert_same_results(tmp_path, whole)
        plain = helpers.newest(helpers.finished(TINY).workdir).tree
        with pytest.raises(AssertionError):  # The setting does something.
            helpers.assert_equal_trees(plain["auxiliary"], helpers.newest(whole).tree["auxiliary"])

    @pytest.mark.parametrize(
        "changes",
        [{"distillation_weight": 1.0}, {"consolidation_smoothing": 0.1}, {"consolidation_average": 0.5}],
        ids=lambda changes: next(iter(changes)),
    )
    def test_what_the_classifier_learns_by(self, changes):
        """Each setting changes what it learns, and nothing of the memory."""
        plain, other = (
            helpers.newest(helpers.finished(dataclasses.replace(TINY, **own)).workdir).tree for own in ({}, changes)
        )
        helpers.assert_equal_trees(plain["memory"], other["memory"])
        with pytest.raises(AssertionError):
            helpers.assert_equal_trees(plain["classifier"]["params"], other["classifier"]["params"])

    def test_killed(self, tmp_path):
        code = "training._SECONDS_PER_CALL = 0.0\nhelpers.fit(config, workdir, Stop('train', 1, 1, signal.SIGKILL))"
        status, error = _child(code, tmp_path)
        assert status == -signal.SIGKILL, error
        helpers.fit(TINY, tmp_path)
        assert_same_results(tmp_path, helpers.finished(TINY).workdir)

    def test_killed_before_the_checkpoints_of_a_task_are_cleared_away(self, tmp_path):
        """They go with those of the next task."""
        workdir = helpers.copied(helpers.finished(TINY).workdir, tmp_path / "run")
        checkpoints = workdir / "checkpoints"
        for step in (1_999_999, 2_999_999):
            shutil.rmtree(checkpoints / f"{step:010d}")
        left = checkpoint.restore(checkpoints, 999_999, on_damage=print)
        checkpoint.save(checkpoints, 2, left.tree, left.metadata)
        (workdir / "summary.json").unlink()
        helpers.fit(TINY, workdir)
        assert checkpoint.steps(checkpoints) == [999_999, 1_999_999, 2_999_999]

    def test_killed_after_the_last_task_was_saved(self, tmp_path):
        """What lies there of its epochs goes, although nothing is left to learn."""
        workdir = helpers.copied(helpers.finished(TINY).workdir, tmp_path / "run")
        checkpoints = workdir / "checkpoints"
        before = checkpoint.restore(checkpoints, 1_999_999, on_damage=print)
        checkpoint.save(checkpoints, 2_000_002, before.tree, before.metadata)
        helpers.fit(TINY, workdir)
        assert checkpoint.steps(checkpoints) == [999_999, 1_999_999, 2_999_999]
        assert_same_results(workdir, helpers.finished(TINY).workdir)

    def test_a_damaged_checkpoint_is_passed_over(self, tmp_path):
        _interrupt(TINY, tmp_path, "epoch end", 1, 2)
        damaged = helpers.flip_a_byte(tmp_path)
        log = Log()
        helpers.fit(TINY, tmp_path, log)
        (note,) = log.heard("on_note")
        assert note.startswith(f"{damaged} is damaged: ") and note.endswith("is used in its place.")
        assert log.heard("on_run_start")[0].resumed_from == (1, 1)
        assert_same_results(tmp_path, helpers.finished(TINY).workdir)

    def test_a_torn_line_of_metrics_is_mended(self, tmp_path):
        _interrupt(TINY, tmp_path, "epoch end", 1, 1)
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"task": 1, "ep')
        helpers.fit(TINY, tmp_path)
        assert_same_results(tmp_path, helpers.finished(TINY).workdir)


class TestFinishedRun:
    def test_is_reported_and_not_redone(self, tmp_path):
        workdir = helpers.copied(helpers.finished(TINY).workdir, tmp_path / "copy")
        stamps = {path: path.stat().st_mtime_ns for path in workdir.glob("checkpoints/*/*")}
        log = Log()
        summary = helpers.fit(TINY, workdir, log)
        assert [name for name, _ in log.events] == ["on_run_end"]
        (end,) = log.heard("on_run_end")
        assert end.already_finished and end.workdir == workdir and end.summary == summary
        found = json.loads((workdir / "summary.json").read_text())
        del found["seconds"], summary["seconds"]
        assert found == summary
        assert stamps == {path: path.stat().st_mtime_ns for path in workdir.glob("checkpoints/*/*")}

    def test_whose_summary_is_missing_gets_it_again(self, tmp_path):
        workdir = helpers.copied(helpers.finished(TINY).workdir, tmp_path / "copy")
        (workdir / "summary.json").unlink()
        helpers.fit(TINY, workdir)
        assert_same_results(workdir, helpers.finished(TINY).workdir)


class TestOtherConfiguration:
    def test_lists_the_differences(self, tmp_path):
        workdir = helpers.copied(helpers.finished(TINY).workdir, tmp_path / "copy")
        other = dataclasses.replace(TINY, epochs=9, seed=4)
        with pytest.raises(OtherConfiguration) as caught:
            helpers.fit(other, workdir)
        assert "seed is 0, now 4; " in str(caught.value) and "epochs is 3, now 9" in str(caught.value)
        with pytest.raises(OtherConfiguration, match=re.escape("the tasks [[0], [1], [2]], now they are [[2]")):
            helpers.fit(TINY, workdir, class_order=(2, 1, 0))

    def test_resume_anyway(self, tmp_path):
        _interrupt(TINY, tmp_path, "epoch end", 1, 1)
        longer = dataclasses.replace(TINY, epochs=4)
        log = Log()
        summary = helpers.fit(longer, tmp_path, log, resume_anyway=True)
        assert log.heard("on_run_start")[0].resumed_from == (1, 1)
        assert summary["config"]["epochs"] == 4
        assert json.loads((tmp_path / "config.json").read_text())["config"]["epochs"] == 4
        assert [line["epoch"] for line in _lines(tmp_path) if "epoch" in line] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]


class TestRefusals:
    @pytest.mark.parametrize(
        "changes, text",
        [
            (
                {"batch_size": 25},
                "batch_size=25, but task 0 has only 24 training images; use at most 24",
            ),
            (
                {"noise_dim": 3},
                "noise_dim=3 has no room for the one-hot of 3 classes; make it larger",
            ),
        ],
    )
    def test_settings_that_do_not_fit_the_stream(self, changes, text, tmp_path):
        with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
            helpers.fit(dataclasses.replace(TINY, **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_images_of_another_size(self, tmp_path):
        text = "image_size=8, but the images are 16x16; resize the data set: dataset.resized(8)"
        stream = helpers.stream(helpers.small("dgma"))
        with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
            Learner(TINY, devices=1).fit(stream, tmp_path)

    def test_a_stream_of_another_protocol(self, tmp_path):
        stream = helpers.stream(dataclasses.replace(TINY, protocol="paper", held_out=0.25))
        with pytest.raises(ConfigError, match="^protocol='strict', but the stream was made for 'paper'$"):
            Learner(TINY, devices=1).fit(stream, tmp_path)

    @pytest.mark.parametrize("devices", [0, -1, 99])
    def test_devices_that_are_not_there(self, devices):
        with pytest.raises(ConfigError, match=f"^devices={devices}, but "):
            Learner(TINY, devices=devices)

    def test_a_baseline_is_not_run_as_dgm(self):
        with pytest.raises(ConfigError, match="^method='er' is a baseline; run it with BaselineLearner$"):
            Learner(dataclasses.replace(TINY, method="er"), devices=1)

    def test_a_precision_that_the_platform_lacks(self):
        with pytest.raises(ConfigError, match="^precision='tf32', but a CPU has no such numbers; use float32 or bf16$"):
            Learner(dataclasses.replace(TINY, precision="tf32"), devices=1)

    def test_a_loss_that_is_not_finite(self, tmp_path):
        _interrupt(TINY, tmp_path, "epoch end", 1, 1)
        kept = helpers.newest(tmp_path)
        broken = dataclasses.replace(TINY, sparsity_weight=2e38)
        with pytest.raises(NotFinite) as caught:
            helpers.fit(broken, tmp_path, resume_anyway=True)
        folder = tmp_path / "checkpoints" / f"{kept.step:010d}"
        assert re.match(
            r"^\w+ became (nan|inf|-inf) in task 1, epoch 1, seed 0; the last good checkpoint is "
            rf"{re.escape(str(folder))}\. ",
            str(caught.value),
        )
        assert folder.is_dir()
        after = helpers.newest(tmp_path)
        assert after.step == kept.step
        helpers.assert_equal_trees(after.tree, kept.tree)
        helpers.fit(TINY, tmp_path, resume_anyway=True)
        assert_same_results(tmp_path, helpers.finished(TINY).workdir)


@pytest.mark.parametrize(
    ("told", "per_task", "said"),
    [
        ({}, [2, 1], 1),
        ({}, 1, 0),
        ({"auxiliary_generator": True}, [2, 1], 0),
        ({"critic_condition": "projection"}, [2, 1], 0),
    ],
)
def test_that_nothing_tells_the_generator_the_class_is_said_at_the_beginning(told, per_task, said, tmp_path):
    class Begun(Callback):
        def on_run_start(self, event):
            raise KeyboardInterrupt

    log = Log()
    with pytest.raises(KeyboardInterrupt):
        helpers.fit(dataclasses.replace(TINY, **told), tmp_path, log, Begun(), classes_per_task=per_task)
    assert sum("nothing tells the generator" in note for note in log.heard("on_note")) == said


class TestWhatARunLeaves:
    def test_files(self):
        workdir = helpers.finished(TINY).workdir
        names = {path.name for path in workdir.iterdir()} - {".lock"}
        assert names == {
            "accuracy_matrix.csv",
            "capacity.csv",
            "checkpoints",
            "config.json",
            "metrics.jsonl",
            "report.html",
            "samples",
            "summary.json",
        }
        assert sorted(path.name for path in (workdir / "samples").iterdir()) == [
            f"after_task_{t:02d}.{kind}" for t in range(3) for kind in ("npz", "png")
        ]
        assert checkpoint.steps(workdir / "checkpoints") == [999_999, 1_999_999, 2_999_999]

    def test_numbers_agree(self):
        workdir = helpers.finished(TINY).workdir
        summary = json.loads((workdir / "summary.json").read_text())
        rows = _table(workdir / "accuracy_matrix.csv")
        for reading in ("consolidated", "auxiliary"):
            own = [row for row in rows if row["reading"] == reading]
            for t, row in enumerate(own):
                values = [float(row[str(label)]) for label in helpers.LABELS if row[str(label)]]
                assert len(values) == t + 1
                assert summary[f"A_{t + 1}"][reading]["macro"] == pytest.approx(np.mean(values), abs=1e-6)
        ends = [line for line in _lines(workdir) if "epoch" not in line]
        assert [line["average"] for line in ends] == [summary[f"A_{t}"] for t in (1, 2, 3)]
        memory = load_memory(workdir)
        assert summary["widths"] == list(memory.widths)
        assert summary["bytes"]["memory"] == memory.bytes()
        assert summary["bytes"]["images_replaced"] == 3 * 24 * 8 * 8
        used = _table(workdir / "capacity.csv")
        assert [int(row["used"]) for row in used] == [int(m.sum()) for task in memory.tasks for m in task.masks]

    @pytest.mark.parametrize(
        "config", [TINY, dataclasses.replace(TINY, protocol="paper", held_out=0.25)], ids=lambda c: c.protocol
    )
    def test_every_file_names_the_protocol(self, config):
        workdir, protocol = helpers.finished(config).workdir, config.protocol
        for name in ("config.json", "summary.json"):
            assert json.loads((workdir / name).read_text())["protocol"] == protocol
        lines = _lines(workdir)
        assert lines and all(line["protocol"] == protocol for line in lines)
        for name in ("accuracy_matrix.csv", "capacity.csv"):
            rows = _table(workdir / name)
            assert rows and all(row["protocol"] == protocol for row in rows)
        if protocol == "paper":  # It chose an epoch by real images of old classes.
            assert all("validation_accuracy" in line for line in lines if "epoch" in line)

    def test_unequal_tasks_and_labels_of_any_numbers(self):
        workdir = helpers.unequal().workdir
        summary = json.loads((workdir / "summary.json").read_text())
        assert summary["tasks"] == [[12, 900, -3], [70, 5], [41]]
        assert [name for name in summary if name.startswith("A_")] == ["A_3", "A_5", "A_6"]
        assert load_memory(workdir).labels == (12, 900, -3, 70, 5, 41)
        rows = _table(workdir / "accuracy_matrix.csv")
        assert list(rows[0]) == ["protocol", "reading", "after_task", "12", "900", "-3", "70", "5", "41"]
        assert [sum(row[label] != "" for label in list(row)[3:]) for row in rows] == [3, 5, 6] * 2
        assert np.sum(summary["confusion"]["consolidated"]) == len(helpers.digits(8, helpers.SIX).y_test)


def test_a_training_step_is_compiled_once(tmp_path, monkeypatch):
    chex.clear_trace_counter()
    traces = []

    def run_steps(*arguments, **options):
        traces.append(1)
        return original(*arguments, **options)

    original = training.run_steps
    monkeypatch.setattr(training, "run_steps", chex.assert_max_traces(run_steps, n=1))
    log = Log()
    helpers.fit(dataclasses.replace(TINY, epochs=1), tmp_path, log)
    tasks = log.heard("on_task_start")
    assert len(tasks) == 3 and len({event.physical_widths for event in tasks}) == 1
    assert len({event.widths for event in tasks}) > 1  # The network has grown within its arrays.
    assert traces == [1]


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
def test_a_short_run_learns(variant, tmp_path):
    config = Config(
        variant=variant,
        image_size=8,
        noise_dim=16,
        generator_width=24,
        discriminator_width=16,
        epochs=40,
        batch_size=16,
        scale_max=1e3,
        headroom=4,
        consolidation_steps=200,
        consolidation_samples=200,
        checkpoint_epochs=40,
    )
    summary = helpers.fit(config, tmp_path, labels=(0, 1, 2, 3))
    for reading in ("consolidated", "auxiliary"):  # Chance is 0.25; three seeds gave 0.75 to 0.85.
        assert summary["A_4"][reading]["macro"] > 0.65, reading
    assert summary["widths"][0] > 24  # It has grown.


def _child(code, workdir):
    """Runs `code` in a Python of its own, with `config` = TINY and `workdir`; gives its status, and what it said."""
    child = helpers.start(
        "import dataclasses, json, signal, helpers\n"
        "from pathlib import Path\n"
        "from test_learner import TINY as config, Learner, Stop, training\n"
        f"workdir = Path({str(workdir)!r})\n{code}\n"
    )
    _, error = child.communicate(timeout=300)
    return child.returncode, error


@pytest.mark.parametrize(
    "changes, each",
    [
        ({"epochs": 9, "replay_steps": None}, 24),  # 9 * 3 * 3 * 8 / 3 = 216 picks a class: as many as the task has.
        ({"epochs": 1, "replay_steps": 1}, 8),  # 1 * 3 * 1 * 8 / 3
        ({"epochs": 9, "replay_steps": 1, "replay": "fresh"}, 8),  # Drawn anew in each of the 9.
    ],
)
def test_no_more_is_replayed_than_will_be_picked(changes, each):
    config = dataclasses.replace(TINY, **changes)
    asked = []

    class Counted:
        def images(self, index, n, key):
            asked.append((index, n))
            return np.zeros((n, 8, 8, 1), np.uint8)

    run = object.__new__(training_run.Run)
    run.config, run.stream, run.memory = config, helpers.stream(config), Counted()
    run._key, run.classifier = lambda *_: None, None
    replayed = run.replay(2, 0, lambda n: None)
    assert asked == [(0, each), (1, each)]
    assert replayed.counts.tolist() == [each, each]
