"""Baselines: each learns, is resumed to the same end, and does what its paper says."""

import dataclasses
import io
import itertools
import json
import re

import jax
import numpy as np
import pytest
from support import checks, small_runs
from support.marks import slow_but
from support.stopping import Log, interrupt

from dgm_jax import Learner, load_memory
from dgm_jax.config import GENERATIVE, KEEPS_IMAGES, TRAINS
from dgm_jax.data.stream import PastTaskError
from dgm_jax.errors import ConfigError, NoMemory, NotFinite
from dgm_jax.loading import load_method
from dgm_jax.methods import METHODS, classifying, mergan, separate
from dgm_jax.methods.dgm import DGM
from dgm_jax.methods.generative import UnmaskedGenerator
from dgm_jax.methods.method import TaskInput, Watch
from dgm_jax.reporting.console import ConsoleProgress
from dgm_jax.runs.session import new_method
from dgm_jax.training import trainer

SETTINGS = {
    "image_size": 8,
    "epochs": 2,
    "consolidation_steps": 60,
    "consolidation_samples": 24,
    "memory_size": 18,
    "discriminator_width": 8,
}
BASELINES = [method for method in METHODS if method in TRAINS and method != "dgm"]
COMPRESSED = {"memory_format": "jpeg", "mini_batches": "balanced"}  # For the methods that have such settings.
NEEDED = {  # What of a checkpoint a method needs to go on learning, besides labels and a few numbers.
    "joint": ["images"],
    "finetune": ["params", "statistics"],
    "er": ["header", "scans", "params", "statistics"],
    "icarl": ["header", "scans", "params", "statistics"],
    "gdumb": ["header", "scans"],
    "ewc": ["fisher", "params", "statistics"],
    "dgr": ["generator", "discriminator", "params", "statistics"],
    "mergan": ["generator", "discriminator"],
    "mergan-jtr": ["generator", "discriminator"],
}
baselines = pytest.mark.parametrize("method", BASELINES)


def some_baselines(*fast, slow=BASELINES):
    return pytest.mark.parametrize("method", slow_but([*fast, *(name for name in slow if name not in fast)], *fast))


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch):
    """Epochs of 25 steps, so that 60 steps are three of them."""
    monkeypatch.setattr(classifying, "_STEPS_PER_EPOCH", 25)


def _config(method, **changes):
    return small_runs.small(method=method, **(SETTINGS | changes))


def _fit(config, workdir, *callbacks, **options):
    return small_runs.fit(config, workdir, *callbacks, **options)


def _finished(config, to):
    """A copy of a whole run, which is made once, and its summary."""
    folder = small_runs.copied(small_runs.finished(config).workdir, to)
    return folder, json.loads((folder / "summary.json").read_text())


def _classifier(workdir):
    """The parameters of the newest classifier of a run."""
    tree = small_runs.newest(workdir).tree
    return tree.get("classifier", tree)["params"]


def _method(config):
    return new_method(config, small_runs.stream(config), jax.local_devices()[:1])


def _learn(method, state, task, stream, key):
    """Learns one task as the loop does, in one sitting."""
    stream.begin(task)
    given = TaskInput(key, state, *stream.train(task))
    training = method.begin(task, [given], Watch())
    for epoch in range(method.plan(task, [state]).epochs):
        method.train_epoch(training, epoch, Watch())
    return method.end(training, Watch())[0]


@some_baselines("icarl", "mergan", slow=["gdumb", "ewc", "dgr", "separate"])  # What they keep differs in kind.
@pytest.mark.parametrize("place", [("train", 2, 0), ("epoch end", 1, 1)], ids=["begin", "epoch-end"])
def test_interrupted_is_uninterrupted(method, place, tmp_path, monkeypatch):
    """Also within a task: the end is the same bit for bit."""
    config = _config(method, **COMPRESSED)
    _, whole = _finished(config, tmp_path / "whole")
    monkeypatch.setattr(trainer, "_SECONDS_PER_CALL", 0.0)  # Progress after every step.
    interrupt(config, tmp_path / "stopped", *place)
    assert json.loads((tmp_path / "stopped" / "summary.json").read_text())["finished_tasks"] == place[1]
    log = Log()
    resumed = _fit(config, tmp_path / "stopped", log)
    epochs_done = 1 if place[0] == "epoch end" else 0
    assert log.heard("on_run_start")[0].resumed_from == (place[1], epochs_done)
    for name in ("A_1", "A_2", "A_3", "forgetting", "confusion", "bytes", "method", "paper"):
        assert resumed[name] == whole[name], name
    trees = [small_runs.newest(tmp_path / name).tree for name in ("whole", "stopped")]
    checks.assert_equal_trees(*trees)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "stopped")]
    kinds = [json.loads(line)["kind"] for line in lines[0].splitlines()]
    assert lines[0] == lines[1] and kinds == 3 * [*["epoch"] * (2 if method in GENERATIVE else 3), "task"]
    log = Log()
    _fit(config, tmp_path / "whole", log)
    assert [name for name, _ in log.events] == ["on_run_end"]  # Finished: nothing is trained.


@some_baselines("ewc", "dgr", slow=["icarl", "mergan", "separate"])
def test_several_seeds_are_as_if_each_had_run_alone(method, tmp_path):
    config = _config(method, **COMPRESSED)
    streams = [small_runs.stream(config) for _ in range(2)]
    summary = Learner(config, devices=1).fit_seeds((0, 5), streams, tmp_path / "both")
    reading = METHODS[method].readings[0]
    accuracies = summary["A_3"][reading]["macro"]["values"]
    for seed, accuracy in zip((0, 5), accuracies, strict=True):
        _, alone = _finished(config.with_changes(seed=seed), tmp_path / f"alone{seed}")
        assert accuracy == pytest.approx(alone["A_3"][reading]["macro"], abs=0.15)
        mine, other = (_classifier(tmp_path / f) for f in (f"both/seed{seed}", f"alone{seed}"))
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=0.05)  # Alike to rounding, which training magnifies.


@some_baselines("er", "mergan-jtr")
def test_a_finished_run_continues_with_new_classes(method, tmp_path):
    config = _config(method)
    workdir, _ = _finished(config, tmp_path / "run")
    first = _classifier(workdir)
    log = Log()
    names = (7, 8, 9)
    summary = _fit(config, workdir, log, labels=(3, 4, 5), names=names)
    assert log.heard("on_run_start")[0].resumed_from == (3, 0)
    assert [event.task for event in log.heard("on_task_end")] == [3, 4, 5]
    assert summary["finished"] and [len(task) for task in summary["tasks"]] == [1] * 6
    assert len(_classifier(workdir)["classifier"]["bias"]) == 6 and len(first["classifier"]["bias"]) == 3


@baselines
def test_what_is_loaded_classifies_as_the_run_did_and_its_bytes_are_counted(method, tmp_path):
    config = _config(method, **COMPRESSED)
    workdir, summary = _finished(config, tmp_path / "run")
    stream = small_runs.stream(config)
    loaded, state = load_method(config, stream, workdir)
    stream.begin(2)
    images, labels = stream.test(2)
    predictor = loaded.reading(2, state) if hasattr(loaded, "reading") else state.classifier
    predictions = predictor.logits(images).argmax(axis=1)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (labels, predictions), 1)
    assert confusion.tolist() == summary["confusion"][METHODS[method].readings[0]]
    counted, tree = summary["bytes"]["memory"], small_runs.newest(workdir).tree
    assert counted == loaded.memory_bytes(state)
    assert counted["total"] == sum(size for part, size in counted.items() if part != "total")
    each = separate.generator_bytes(config, config.networks.generator_width, channels=1)
    if method == "separate":
        assert counted["total"] == 3 * each
    else:
        assert counted["total"] == sum(
            np.asarray(leaf).nbytes for name in NEEDED[method] for leaf in jax.tree.leaves(tree[name])
        )
    if "generator" in counted:
        assert counted["generator"] == each


@some_baselines("joint", "mergan")
def test_what_a_run_says_while_it_learns(method, tmp_path):
    """Epochs and their losses, and how fast it is."""
    log, err, ticks = Log(), io.StringIO(), itertools.count()
    console = ConsoleProgress(out=io.StringIO(), err=err, interval=0, clock=lambda: next(ticks))
    config = _config(method)
    _fit(config, tmp_path, log, console)
    starts, ends = log.heard("on_task_start"), log.heard("on_task_end")
    epochs = log.heard("on_epoch_end")
    trained = [event for event in log.heard("on_progress") if (event.task, event.phase) == (1, "train")]
    if method in GENERATIVE:
        assert [(event.epochs, event.steps) for event in starts] == 3 * [(2, 24 // config.gan.batch_size)]
        assert [(event.epoch, event.done, event.total) for event in trained if event.done == 3] == [
            (0, 3, 3),
            (1, 3, 3),
        ]
        assert all({"critic_loss", "generator_loss"} <= set(event.metrics) for event in epochs)
        assert not any({"scale", "open_share"} & set(event.metrics) for event in epochs)
        assert all(("alignment_term" in event.metrics) == (method == "mergan") for event in epochs)
        shown = (
            r"task 1 \(of 0 to 2\): epoch 2/2, [^\n]* left, critic [-\d.e]+, generator [-\d.e]+, .* [1-9]\d* images/s"
        )
    else:
        assert [(event.epochs, event.steps) for event in starts] == 3 * [(3, 25)]
        assert {(event.epoch, event.total) for event in trained} == {(0, 25), (1, 25), (2, 10)}
        assert all(set(event.metrics) == {"classifier_loss", "classifier_accuracy"} for event in epochs)
        losses = [event.metrics["classifier_loss"] for event in epochs if event.task == 1]
        mean = np.average(losses, weights=[25, 25, 10])
        assert ends[1].metrics["consolidation_loss"] == pytest.approx(mean, rel=1e-5)
        shown = r"task 1 \(of 0 to 2\): epoch 3/3, 0:00 left, classifier [-\d.e]+, [1-9]\d* images/s"
    assert [(event.task, event.epoch) for event in epochs] == [
        (t, e) for t in range(3) for e in range(starts[0].epochs)
    ]
    assert all(set(event.metrics) == {"consolidation_loss", "consolidation_accuracy"} for event in ends)
    assert re.search(shown, err.getvalue()), err.getvalue()


def test_the_ceiling_is_above_the_floor(tmp_path):
    budget = {"consolidation_steps": 200}
    joint, finetune, er = (
        _fit(_config(method, **budget), tmp_path / method)["A_3"]["classifier"]["macro"]
        for method in ("joint", "finetune", "er")
    )
    assert joint > 0.8 and er > 0.6
    assert finetune == pytest.approx(1 / 3, abs=0.05)  # The newest class alone.


@pytest.mark.parametrize("method", ["finetune", "ewc", "dgr", "mergan", "mergan-jtr", "separate"])
def test_no_real_image_of_an_old_class_is_kept(method, tmp_path):
    """Nothing that is saved is an image, by its type, or holds the pixels of one, scaled."""
    config = _config(method)
    workdir, _ = _finished(config, tmp_path / "run")
    stream = small_runs.stream(config)
    stream.begin(0)
    whole = np.concatenate([stream.train(0)[0].reshape(24, -1) / 127.5 - 1] * 2, axis=1)
    for leaf in jax.tree.leaves(small_runs.newest(workdir).tree):
        leaf = np.asarray(leaf)
        assert leaf.dtype != np.uint8
        values = set(np.round(leaf.ravel().astype(float), 5).tolist())
        if leaf.size >= 64 and len(values) > 32:
            assert not all(set(np.round(image, 5).tolist()) <= values for image in whole)


def test_a_stream_still_refuses_old_images(tmp_path):
    stream = small_runs.stream(_config("joint"))
    Learner(_config("joint"), devices=1).fit(stream, tmp_path)
    with pytest.raises(PastTaskError):
        stream.train(0)


def test_the_reservoir_is_a_fair_sample():
    """Of 300 images, in three tasks, each is kept equally often."""
    kept = np.zeros(300)
    method = _method(_config("er", memory_size=30))
    empty = method.new_state(jax.random.key(0))
    for seed in range(200):
        state = empty
        for task in range(3):
            numbers = np.arange(100 * task, 100 * task + 100)
            images = np.zeros((100, 8, 8, 1), np.uint8)
            images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers % 256, numbers // 256
            key = jax.random.fold_in(jax.random.key(seed), task)
            state = method.remember(task, state, images, np.full(100, task, np.int32), key)
        images = state.kept["images"]
        assert len(images) == 30 and state.kept["n_seen"] == 300
        kept[images[:, 0, 0, 0] + 256 * images[:, 0, 1, 0].astype(int)] += 1
    shares = kept.reshape(3, 100).sum(axis=1) / kept.sum()
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)


def test_icarl_keeps_equally_many_of_each_class(tmp_path):
    config = _config("icarl", memory_size=13)
    _fit(config, tmp_path)
    _, state = load_method(config, small_runs.stream(config), tmp_path)
    assert np.bincount(state.kept["labels"]).tolist() == [4, 4, 4]


def test_icarl_reads_the_exemplars_of_earlier_versions():
    method = _method(_config("icarl"))
    state = method.new_state(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    labels = np.array([0, 0, 1, 1, 1], np.int32)
    for n in (0, 5):
        expected = dataclasses.replace(state, kept={"images": images[:n], "labels": labels[:n]})
        tree, plain = method.to_tree(expected)
        old = {name: own for name, own in tree.items() if name not in expected.kept}
        old["exemplars"] = [images[:2], images[2:]] if n else []
        checks.assert_equal_trees(method.to_tree(method.from_tree(old, plain, 2))[0], tree)


@pytest.mark.parametrize("method, learns_from", [("joint", 24 + 24), ("gdumb", 18), ("finetune", 24)])
def test_what_a_task_begins_with(method, learns_from):
    """A classifier of before that knows nothing, unless it is fresh; all images, those that are kept, or the newest."""
    stream, method = small_runs.stream(_config(method)), _method(_config(method))
    state = method.new_state(jax.random.key(0))
    for task in range(2):
        stream.begin(task)
        given = TaskInput(jax.random.key(0), state, *stream.train(task))
        training = method.begin(task, [given], Watch())
        state = method.remember(task, training.inputs[0].state, given.images, given.labels, jax.random.key(1))
        state = dataclasses.replace(state, params=jax.tree.map(np.zeros_like, state.params))
    (source,), kernel = training.sources, training.classifier.params.classifier.kernel
    assert source.count == learns_from
    assert bool(np.any(kernel)) == method.starts_fresh == (learns_from != 24)
    counts = np.bincount(source.labels[: source.count]).tolist()
    assert counts == {48: [24, 24], 18: [9, 9], 24: [0, 24]}[learns_from]


def _after_one_task_of_dgr():
    config = _config("dgr")
    stream = small_runs.stream(config)
    method = _method(config)
    key = jax.random.key(0)
    state = _learn(method, method.new_state(key), 0, stream, key).state
    return method, stream, key, state


def test_generative_replay_is_labelled_by_the_solver():
    method, stream, key, state = _after_one_task_of_dgr()
    said = np.arange(24) % 2

    class Solver:
        def logits(self, images):
            return np.eye(3)[said[: len(images)]]

    state = dataclasses.replace(state, classifier=Solver())
    stream.begin(1)
    images, labels = stream.train(1)
    training = method.begin(1, [TaskInput(key, state, images, labels)], Watch())
    for data in (training.data[0], method.classifier_data(training, 0, state, {}), training.running._data):
        assert data.count == 48  # New images first, then as many replayed ones.
        np.testing.assert_array_equal(data.images[:24], images)
        np.testing.assert_array_equal(data.labels[:48], [*labels, *said])


def test_a_generator_without_masks_continues_as_the_task_before_left_it():
    method, stream, key, state = _after_one_task_of_dgr()
    stream.begin(1)
    training = method.begin(1, [TaskInput(key, state, *stream.train(1))], Watch())
    (begun,) = jax.device_get(training.running.states())
    kept = state.generator.tasks[0]
    checks.assert_equal_trees(begun.generator_statistics, kept.statistics)
    checks.assert_equal_trees(begun.generator.norms, kept.norms)
    checks.assert_equal_trees(begun.generator.kernels, state.generator.kernels)
    np.testing.assert_array_equal(begun.generator.heads, kept.heads[:1])
    fresh = method.new_state(key).generator
    assert fresh is None and np.any(kept.statistics[0].mean)  # Otherwise nothing was shown.


@pytest.mark.parametrize("n_old, devices", [(9, 1), (9, 8), (40, 2), (46, 1)])
def test_all_old_classes_are_aligned_in_turn_however_the_batch_is_split(n_old, devices):
    whole = mergan.AlignedStep(config=small_runs.SMALL, optimisers=None, generator=None)
    split = dataclasses.replace(whole, axis_name="devices")
    on_devices = jax.vmap(split.old_classes, in_axes=(0, None), axis_name="devices")
    counts = np.zeros(n_old, int)
    for iteration in range(100):
        noise = jax.random.normal(jax.random.key(iteration), (32, 80))
        classes = np.asarray(on_devices(noise.reshape(devices, -1, 80), n_old)).ravel()
        np.testing.assert_array_equal(classes, whole.old_classes(noise, n_old))
        own = np.bincount(classes, minlength=n_old)
        assert own.max() - own.min() <= 1
        counts += own
    expected = 3200 / n_old
    assert np.all(np.abs(counts - expected) < 0.3 * expected)
    assert not np.any(whole.old_classes(noise, 0))


def test_alignment_holds_the_generator():
    """The stronger, the less the images of the first class change while the second is learnt."""
    drift = []
    for weight in (0.0, 1000.0):
        config = _config("mergan", alignment_weight=weight, epochs=4)
        stream, method, key = small_runs.stream(config), _method(config), jax.random.key(0)
        state, drawn = method.new_state(key), []
        for task in range(2):
            state = _learn(method, state, task, stream, key).state
            drawn.append(state.generator.sample_index(0, 16, jax.random.key(9)))
        drift.append(np.mean((drawn[1] - drawn[0]) ** 2))
    assert drift[1] < 0.3 * drift[0]


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"precision": "tf32"}, "^precision='tf32', but a CPU has no such numbers"),
        ({"protocol": "paper", "held_out": 0.2}, "^protocol='paper' is not for method 'er'; use strict$"),
    ],
)
def test_settings_that_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        Learner(_config("er", **changes), devices=1)


@pytest.mark.parametrize("changes, text", [({"method": "gan"}, "method='gan' is unknown; choose one of dgm, joint, ")])
def test_an_unknown_method_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        small_runs.SMALL.with_changes(**changes)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(NoMemory, match="holds no checkpoint of er; run it first"):
        load_method(_config("er"), small_runs.stream(_config("er")), tmp_path / "none")


@pytest.mark.parametrize(
    "method, changes",
    [("finetune", {"consolidation_learning_rate": 1e38}), ("mergan", {"generator_learning_rate": 1e38})],
)
def test_training_that_breaks_down_is_refused_and_nothing_of_it_is_saved(method, changes, tmp_path):
    config = _config(method)
    interrupt(config, tmp_path, "epoch end", 1, 1)
    saved = sorted((tmp_path / "checkpoints").rglob("*"))
    with pytest.raises(NotFinite, match=f"^{method}: .* (task 1|after task 1).*, seed 0; the last good checkpoint is "):
        _fit(config.with_changes(**changes), tmp_path, resume_anyway=True)
    assert sorted((tmp_path / "checkpoints").rglob("*")) == saved


@pytest.mark.slow
def test_baselines_work_on_the_residual_pair_with_several_classes_a_task(tmp_path):
    summaries, options = {}, {"labels": small_runs.SIX, "classes_per_task": 2}
    for method in ("joint", "mergan", "icarl"):
        config = _config(method, network="resnet", reinitialise_discriminator=False)
        summaries[method] = _fit(config, tmp_path / method, **options)
        assert [name for name in summaries[method] if name.startswith("A_")] == ["A_2", "A_4", "A_6"]
    stream = small_runs.stream(config, **options)
    config = _config("mergan", network="resnet", reinitialise_discriminator=False)
    _, state = load_method(config, stream, tmp_path / "mergan")
    stream.begin(2)
    pixels, labels = stream.test(2)
    right = np.mean(state.classifier.logits(pixels).argmax(axis=1) == labels)
    assert right == pytest.approx(summaries["mergan"]["A_6"]["classifier"]["micro"])


@pytest.mark.parametrize("method", ["icarl", "gdumb"])
def test_a_balanced_memory_needs_room_for_each_class(method, tmp_path):
    with pytest.raises(
        ConfigError, match=f"^memory_size=2, but {method} keeps an image of each of 3 classes; give at least 3"
    ):
        _fit(_config(method, memory_size=2), tmp_path)


def test_a_baseline_has_no_memory_to_load(tmp_path):
    _fit(_config("finetune"), tmp_path)
    text = "is the run of a baseline; only memories of dgm and separate can be drawn from$"
    with pytest.raises(NoMemory, match=text):
        load_memory(tmp_path)


def test_which_methods_draw_and_which_keep_images():
    assert {m for m, kind in METHODS.items() if issubclass(kind, UnmaskedGenerator | DGM)} == set(GENERATIVE)
    kept = {
        name
        for name in BASELINES
        if "images" in _method(_config(name)).to_tree(_method(_config(name)).new_state(jax.random.key(0)))[0]
    }
    assert kept == set(KEEPS_IMAGES)
