"""The loop over tasks: that it learns, what a run leaves behind, and what it refuses."""

import dataclasses
import json
import re

import chex
import numpy as np
import pytest
from support import checks, small_runs
from support.checks import assert_same_results, lines, table
from support.marks import slow_but
from support.stopping import TINY, Log, interrupt

from dgm_jax import Learner, data, load_memory
from dgm_jax.config import GENERATIVE, TRAINS, Config
from dgm_jax.errors import ConfigError, NotFinite
from dgm_jax.methods import METHODS
from dgm_jax.runs.events import Callback
from dgm_jax.training import trainer


def test_a_training_step_is_compiled_once(tmp_path, monkeypatch):
    chex.clear_trace_counter()
    traces = []

    def run_steps(*arguments, **options):
        traces.append(1)
        return original(*arguments, **options)

    original = trainer.run_steps
    monkeypatch.setattr(trainer, "run_steps", chex.assert_max_traces(run_steps, n=1))
    log = Log()
    small_runs.fit(TINY.with_changes(epochs=1), tmp_path, log)
    tasks = log.heard("on_task_start")
    assert len(tasks) == 3 and len({event.physical_widths for event in tasks}) == 1
    assert len({event.widths for event in tasks}) > 1  # The network has grown within its arrays.
    assert traces == [1]


@pytest.mark.parametrize("variant", slow_but(["dgma", "dgmw"], "dgma"))
def test_a_short_run_learns(variant, tmp_path):
    config = Config().with_changes(
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
        checkpoint_seconds=1e6,
    )
    summary = small_runs.fit(config, tmp_path, labels=(0, 1, 2, 3))
    for reading in ("consolidated", "auxiliary"):  # Chance is 0.25; three seeds gave 0.75 to 0.85.
        assert summary["A_4"][reading]["macro"] > 0.65, reading
    assert summary["widths"][0] > 24  # It has grown.


class TestWhatARunLeaves:
    def test_files(self):
        workdir = small_runs.finished(TINY).workdir
        names = {path.name for path in workdir.iterdir()} - {".lock"}
        assert names == {
            "accuracy_matrix.csv",
            "capacity.csv",
            "checkpoints",
            "config.json",
            "metrics.jsonl",
            "predictions.npz",
            "report.html",
            "samples",
            "summary.json",
        }
        assert sorted(path.name for path in (workdir / "samples").iterdir()) == [
            f"after_task_{t:02d}.{kind}" for t in range(3) for kind in ("npz", "png")
        ]
        assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["0", "1", "2"]

    def test_numbers_agree(self):
        workdir = small_runs.finished(TINY).workdir
        summary = json.loads((workdir / "summary.json").read_text())
        rows = table(workdir / "accuracy_matrix.csv")
        for reading in ("consolidated", "auxiliary"):
            own = [row for row in rows if row["reading"] == reading]
            for t, row in enumerate(own):
                values = [float(row[str(label)]) for label in small_runs.LABELS if row[str(label)]]
                assert len(values) == t + 1
                assert summary[f"A_{t + 1}"][reading]["macro"] == pytest.approx(np.mean(values), abs=1e-6)
        ends = [line for line in lines(workdir) if "epoch" not in line]
        assert [line["average"] for line in ends] == [summary[f"A_{t}"] for t in (1, 2, 3)]
        memory = load_memory(workdir)
        assert summary["widths"] == list(memory.widths)
        assert summary["bytes"]["memory"] == memory.bytes()
        assert summary["bytes"]["images_replaced"] == 3 * 24 * 8 * 8
        used = table(workdir / "capacity.csv")
        assert [int(row["used"]) for row in used] == [int(m.sum()) for task in memory.tasks for m in task.masks]

    def test_the_precision_that_was_chosen(self):
        assert TINY.gan.precision == "auto"
        for name in ("config.json", "summary.json"):
            found = json.loads((small_runs.finished(TINY).workdir / name).read_text())
            assert found["config"]["gan"]["precision"] == "float32"  # Tests run on CPUs.

    @pytest.mark.parametrize(
        "config", [TINY, TINY.with_changes(protocol="paper", held_out=0.25)], ids=lambda c: c.protocol
    )
    def test_every_file_names_the_protocol(self, config):
        workdir, protocol = small_runs.finished(config).workdir, config.protocol
        for name in ("config.json", "summary.json"):
            assert json.loads((workdir / name).read_text())["protocol"] == protocol
        logged = lines(workdir)
        assert logged and all(line["protocol"] == protocol for line in logged)
        for name in ("accuracy_matrix.csv", "capacity.csv"):
            rows = table(workdir / name)
            assert rows and all(row["protocol"] == protocol for row in rows)
        if protocol == "paper":  # It chose an epoch by real images of old classes.
            assert all("validation_accuracy" in line for line in logged if "epoch" in line)

    def test_unequal_tasks_and_labels_of_any_numbers(self):
        workdir = small_runs.unequal().workdir
        summary = json.loads((workdir / "summary.json").read_text())
        assert summary["tasks"] == [[12, 900, -3], [70, 5], [41]]
        assert [name for name in summary if name.startswith("A_")] == ["A_3", "A_5", "A_6"]
        assert load_memory(workdir).labels == (12, 900, -3, 70, 5, 41)
        rows = table(workdir / "accuracy_matrix.csv")
        assert list(rows[0]) == ["protocol", "reading", "after_task", "12", "900", "-3", "70", "5", "41"]
        assert [sum(row[label] != "" for label in list(row)[3:]) for row in rows] == [3, 5, 6] * 2
        assert np.sum(summary["confusion"]["consolidated"]) == len(small_runs.digits(8, small_runs.SIX).y_test)


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
        small_runs.fit(TINY.with_changes(**told), tmp_path, log, Begun(), classes_per_task=per_task)
    assert sum("nothing tells the generator" in note for note in log.heard("on_note")) == said


@pytest.mark.parametrize("method", slow_but(list(METHODS), "dgm", "icarl", "dgr"))
def test_classes_smaller_than_a_mini_batch_are_learnt(method, tmp_path):
    """Of 2, 24 and 5 images, with 8 in a mini-batch: each is learnt, and the run says so."""
    config, log = small_runs.small("dgma", method, image_size=8, epochs=2), Log()
    whole = small_runs.digits(8)
    kept = np.concatenate([np.flatnonzero(whole.y_train == label)[:n] for label, n in ((0, 2), (1, 24), (2, 5))])
    unequal = dataclasses.replace(whole, x_train=whole.x_train[kept], y_train=whole.y_train[kept])
    summary = Learner(config, devices=1, callbacks=[log]).fit(data.class_incremental(unequal), tmp_path)
    assert summary["finished"]
    notes = log.heard("on_note")
    assert any(note.startswith("classes have 2 to 24 training images; earlier classes are replayed") for note in notes)
    text = "2 tasks have fewer training images than a mini-batch (8), so that images repeat within it: 0, 2; a smaller"
    assert any(note.startswith(text) for note in notes) == (method in TRAINS)
    few = "a task is learnt in 2 iterations only, so that drawn images are likely to be poor; give more --epochs (200"
    assert any(note.startswith(few) for note in notes) == (method in GENERATIVE)


def test_classes_of_one_size_get_no_note(tmp_path):
    log = Log()
    small_runs.fit(TINY, tmp_path, log)
    assert not [note for note in log.heard("on_note") if "training images" in note]


class TestRefusals:
    @pytest.mark.parametrize(
        "changes, text",
        [
            (
                {"noise_dim": 3},
                "noise_dim=3 has no room for the one-hot of 3 classes; make it larger, in a new --workdir",
            ),
        ],
    )
    def test_settings_that_do_not_fit_the_stream(self, changes, text, tmp_path):
        with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
            small_runs.fit(TINY.with_changes(**changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_images_of_another_size(self, tmp_path):
        text = "image_size=8, but the images are 16x16; resize the data set: dataset.resized(8)"
        stream = small_runs.stream(small_runs.small("dgma"))
        with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
            Learner(TINY, devices=1).fit(stream, tmp_path)

    def test_a_stream_of_another_protocol(self, tmp_path):
        stream = small_runs.stream(TINY.with_changes(protocol="paper", held_out=0.25))
        with pytest.raises(ConfigError, match="^protocol='strict', but the stream was made for 'paper'$"):
            Learner(TINY, devices=1).fit(stream, tmp_path)

    @pytest.mark.parametrize("devices", [0, -1, 99])
    def test_devices_that_are_not_there(self, devices):
        with pytest.raises(ConfigError, match=f"^devices={devices}, but "):
            Learner(TINY, devices=devices)

    def test_a_precision_that_the_platform_lacks(self):
        with pytest.raises(ConfigError, match="^precision='tf32', but a CPU has no such numbers; use float32 or bf16$"):
            Learner(TINY.with_changes(precision="tf32"), devices=1)

    def test_a_loss_that_is_not_finite(self, tmp_path):
        interrupt(TINY, tmp_path, "epoch end", 1, 1)
        kept = small_runs.newest(tmp_path)
        broken = TINY.with_changes(sparsity_weight=2e38)
        with pytest.raises(NotFinite) as caught:
            small_runs.fit(broken, tmp_path, resume_anyway=True)
        assert re.match(
            r"^dgm: \w+ became (nan|inf|-inf) in task 1, epoch 1, seed 0; the last good checkpoint is "
            rf"{re.escape(str(kept.folder))}\. ",
            str(caught.value),
        )
        after = small_runs.newest(tmp_path)
        assert after.folder == kept.folder
        checks.assert_equal_trees(after.tree, kept.tree)
        small_runs.fit(TINY, tmp_path, resume_anyway=True)
        assert_same_results(tmp_path, small_runs.finished(TINY).workdir)
