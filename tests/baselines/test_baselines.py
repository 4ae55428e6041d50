"""Baselines: each learns, is resumed to the same end, and does what its paper says."""

import dataclasses
import io
import itertools
import json
import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401
from runs import Log

from dgm_jax import load_memory
from dgm_jax.config import GENERATIVE, KEEPS_IMAGES
from dgm_jax.data.stream import PastTaskError
from dgm_jax.errors import ConfigError, NoMemory, NotFinite
from dgm_jax.methods import METHODS, classifier, ewc, icarl, mergan
from dgm_jax.methods.er import ExperienceReplay
from dgm_jax.methods.generative import UnmaskedGenerator
from dgm_jax.methods.learner import BaselineLearner, load_method
from dgm_jax.methods.method import Setting, Watch
from dgm_jax.models import dcgan
from dgm_jax.reporting.console import ConsoleProgress
from dgm_jax.runs.events import Callback
from dgm_jax.training.classifier import init_classifier, started
from dgm_jax.training.epoch import padded

CONFIG = helpers.small(
    image_size=8, epochs=2, consolidation_steps=60, consolidation_samples=24, memory_size=12, discriminator_width=8
)
methods = pytest.mark.parametrize("method", METHODS)


def _config(method, **changes):
    return CONFIG.with_changes(method=method, **changes)


def _fit(config, workdir, *callbacks):
    return BaselineLearner(config, devices=1, callbacks=callbacks).fit(helpers.stream(config), workdir)


class Stop(Callback):
    def __init__(self, task, phase=None):
        self.place = (task, phase)

    def on_progress(self, event):
        if (event.task, event.phase) == self.place:
            raise KeyboardInterrupt


@methods
def test_interrupted_is_uninterrupted(method, tmp_path):
    """Of a task cut off the earlier ones stay, and the end is the same bit for bit."""
    config = _config(method)
    whole = _fit(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _fit(config, tmp_path / "stopped", Stop(2, "train"))
    assert json.loads((tmp_path / "stopped" / "summary.json").read_text())["finished_tasks"] == 2
    resumed = _fit(config, tmp_path / "stopped")
    for name in ("A_1", "A_2", "A_3", "forgetting", "confusion", "bytes", "method", "paper"):
        assert resumed[name] == whole[name], name
    trees = [helpers.newest(tmp_path / name).tree for name in ("whole", "stopped")]
    helpers.assert_equal_trees(*trees)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "stopped")]
    kinds = [json.loads(line)["kind"] for line in lines[0].splitlines()]
    of_a_task = [*["epoch"] * (config.gan.epochs if method in GENERATIVE else 0), "task"]
    assert lines[0] == lines[1] and kinds == 3 * of_a_task
    again = _fit(config, tmp_path / "whole")  # Finished: nothing is trained.
    assert again["seconds"] == whole["seconds"]


@methods
def test_what_is_loaded_classifies_as_the_run_did(method, tmp_path):
    config = _config(method)
    summary = _fit(config, tmp_path)
    stream = helpers.stream(config)
    loaded = load_method(config, stream, tmp_path)
    stream.begin(2)
    images, labels = stream.test(2)
    predictions = loaded.logits(2, images).argmax(axis=1)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (labels, predictions), 1)
    assert confusion.tolist() == summary["confusion"]["classifier"]
    assert summary["bytes"]["memory"] == loaded.memory_bytes()


@methods
def test_what_a_run_says_while_it_learns(method, tmp_path):
    """Epochs and their losses where there are several, steps and theirs where not; always how fast it goes."""
    log, err, ticks = Log(), io.StringIO(), itertools.count()
    console = ConsoleProgress(out=io.StringIO(), err=err, interval=0, clock=lambda: next(ticks))
    config = _config(method)
    _fit(config, tmp_path, log, console)
    starts, ends = log.heard("on_task_start"), log.heard("on_task_end")
    trained = [event for event in log.heard("on_progress") if (event.task, event.phase) == (1, "train")]
    if method in GENERATIVE:
        assert [(event.epochs, event.steps) for event in starts] == 3 * [(2, 24 // config.gan.batch_size)]
        assert [(event.epoch, event.done, event.total) for event in trained] == [(0, 3, 3), (1, 3, 3)]
        epochs = log.heard("on_epoch_end")
        assert [(event.task, event.epoch) for event in epochs] == [(t, e) for t in range(3) for e in range(2)]
        assert all({"critic_loss", "generator_loss"} <= set(event.metrics) for event in epochs)
        assert not any({"scale", "open_share"} & set(event.metrics) for event in epochs)
        assert all(("alignment_term" in event.metrics) == (method == "mergan") for event in epochs)
        assert all(set(event.metrics) == {"consolidation_loss", "consolidation_accuracy"} for event in ends)
        shown = r"task 1 \(2 of 3\): epoch 2/2, [^\n]* left, critic [-\d.e]+, generator [-\d.e]+, .* [1-9]\d* images/s"
    else:
        assert [(event.epochs, event.steps) for event in starts] == 3 * [(1, 60)]
        assert [(event.epoch, event.done, event.total) for event in trained] == [(None, 50, 60), (None, 60, 60)]
        first, last = (event.metrics["classifier_loss"] for event in trained)
        assert ends[1].metrics == {"consolidation_loss": pytest.approx((50 * first + 10 * last) / 60)}
        assert not log.heard("on_epoch_end")
        shown = r"task 1 \(2 of 3\): train 100%, 0:00 left, classifier [-\d.e]+, [1-9]\d* images/s"
    assert re.search(shown, err.getvalue()), err.getvalue()


def test_the_loss_that_is_told_is_the_mean_of_the_steps_since():
    told = []

    class Keeps(Watch):
        def moved(self, phase, done, total, *, epoch=None, metrics=None):
            told.append((done, metrics["classifier_loss"]))

        def consolidated(self, metrics):
            told.append(metrics["consolidation_loss"])

    config = _config("finetune")
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    sources = (padded(images, np.arange(8, dtype=np.int32) % 3, 8),)
    seen, key = np.ones(3, bool), jax.random.key(0)
    of = {"config": config, "loss": classifier.classification}

    def fresh():
        params = init_classifier(jax.random.key(1), config, channels=1, n_classes=3)
        return jax.device_put(started(params.params, params.statistics))

    state, each = fresh(), []
    for step in range(60):  # One by one.
        state, loss = classifier._steps(state, sources, seen, key, None, step, step + 1, **of)
        each.append(float(loss))
    classifier.train(fresh(), sources, seen, key, config, Keeps())
    assert max(each) > 1.05 * min(each)
    expected = [(50, np.mean(each[:50])), (60, np.mean(each[50:])), np.mean(each)]
    np.testing.assert_allclose(np.hstack(told), np.hstack(expected), rtol=1e-4)


def test_the_ceiling_is_above_the_floor(tmp_path):
    budget = {"consolidation_steps": 200}
    joint, finetune, er = (
        _fit(_config(method, **budget), tmp_path / method)["A_3"]["classifier"]["macro"]
        for method in ("joint", "finetune", "er")
    )
    assert joint > 0.8 and er > 0.6
    assert finetune == pytest.approx(1 / 3, abs=0.05)  # The newest class alone.


@pytest.mark.parametrize("method", ["finetune", "ewc", "dgr", "mergan", "mergan-jtr"])
def test_no_real_image_of_an_old_class_is_kept(method, tmp_path):
    """Nothing that is saved is an image, by its type, or holds the pixels of one, scaled."""
    config = _config(method)
    _fit(config, tmp_path)
    stream = helpers.stream(config)
    stream.begin(0)
    whole = np.concatenate([stream.train(0)[0].reshape(24, -1) / 127.5 - 1] * 2, axis=1)
    for leaf in jax.tree.leaves(helpers.newest(tmp_path).tree):
        leaf = np.asarray(leaf)
        assert leaf.dtype != np.uint8
        values = set(np.round(leaf.ravel().astype(float), 5).tolist())
        if leaf.size >= 64 and len(values) > 32:
            assert not all(set(np.round(image, 5).tolist()) <= values for image in whole)


def test_a_stream_still_refuses_old_images(tmp_path):
    stream = helpers.stream(_config("joint"))
    BaselineLearner(_config("joint"), devices=1).fit(stream, tmp_path)
    with pytest.raises(PastTaskError):
        stream.train(0)


def _setting(config, counts=((24,), (24,), (24,))):
    return Setting(config, jax.local_devices()[:1], "pmap", (8, 8, 1), (8, 8, 1), ((0,), (1,), (2,)), counts)


def test_the_reservoir_is_a_fair_sample():
    """Of 300 images met, in three tasks, each is kept equally often."""
    kept = np.zeros(300)
    for seed in range(200):
        method = ExperienceReplay(_setting(_config("er", seed=seed, memory_size=30)))
        for task in range(3):
            numbers = np.arange(100 * task, 100 * task + 100)
            images = np.zeros((100, 8, 8, 1), np.uint8)
            images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers % 256, numbers // 256
            method._let_in(images, np.full(100, task, np.int32), np.random.default_rng([seed, task]))
        assert len(method.images) == 30 and method.met == 300
        kept[method.images[:, 0, 0, 0] + 256 * method.images[:, 0, 1, 0].astype(int)] += 1
    shares = kept.reshape(3, 100).sum(axis=1) / kept.sum()
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)


def test_herding_by_hand():
    features = np.array([[0.0], [1.0], [2.0], [9.0]])  # Mean 3.
    # 2 is closest to 3; then (2 + 1) / 2, (2 + 0) / 2 or (2 + 9) / 2: 1.5 is closest; then (3 + 9) / 3 = 4.
    assert icarl.herded(features, 3).tolist() == [2, 1, 3]


def test_icarl_keeps_equally_many_of_each_class(tmp_path):
    config = _config("icarl", memory_size=13)
    _fit(config, tmp_path)
    method = load_method(config, helpers.stream(config), tmp_path)
    assert [len(own) for own in method.exemplars] == [4, 4, 4]


def test_springs_hold_what_was_needed():
    """The penalty's gradient is weight * F * (theta - theta*)."""
    anchor = {"params": {"a": jnp.array([1.0, 2.0])}, "fisher": {"a": jnp.array([3.0, 0.0])}, "weight": 5.0}
    output = type("Output", (), {"logits": jnp.zeros((1, 2))})()
    labels, seen = jnp.zeros(1, jnp.int32), jnp.ones(2, bool)
    gradient = jax.grad(lambda p: ewc._with_springs(p, output, None, labels, seen, anchor))(
        {"a": jnp.array([2.0, 7.0])}
    )
    np.testing.assert_allclose(gradient["a"], [15.0, 0.0])


def _judge(images):
    """A random classifier of three classes on 8x8 images, what it says of `images`, and that in training mode."""
    params, statistics = dcgan.init_discriminator(jax.random.key(0), width=8, image_size=8, channels=1, n_classes=3)
    params["classifier"]["kernel"] *= 20  # Confident.
    return params, statistics, dcgan.discriminate(params, statistics, images, train=False)[0].logits


def test_the_fisher_information_is_the_mean_square_of_scores():
    """Of labels drawn from the classifier's own distribution over the classes seen, one image after the other."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    images = pixels / np.float32(127.5) - 1
    params, statistics, logits = _judge(images)
    seen, key = np.array([True, True, False]), jax.random.key(5)
    actual = ewc._fisher(params, statistics, pixels, seen, key, network="dcgan")
    total = jax.tree.map(np.zeros_like, params)
    for image, own, k in zip(images, logits, jax.random.split(key, 6), strict=True):
        label = int(jax.random.categorical(k, jnp.where(seen, own, -1e30)))
        assert label < 2

        def log_likelihood(params, image=image, label=label):
            two = dcgan.discriminate(params, statistics, image[None], train=False)[0].logits[0, :2]
            return two[label] - jnp.log(jnp.sum(jnp.exp(two)))

        total = jax.tree.map(lambda t, g: t + np.asarray(g) ** 2 / 6, total, jax.grad(log_likelihood)(params))
    assert np.any(total["classifier"]["kernel"] > 1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), actual, total)


def test_distillation_by_hand():
    """Old classes are drawn to the old network's sigmoids, new ones to the labels, unseen ones count for nothing."""
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    params, statistics, before = _judge(images)
    labels, seen = np.array([1, 0, 1, 1]), np.array([True, True, False])
    anchor = {"params": params, "statistics": statistics, "old": np.array([True, False, False])}
    now = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    output = type("Output", (), {"logits": now})()
    actual = icarl._with_distillation(None, output, images, labels, seen, anchor, network="dcgan")
    target = np.stack([1 / (1 + np.exp(-np.asarray(before)[:, 0])), labels == 1], axis=1)
    p = 1 / (1 + np.exp(-now[:, :2]))
    expected = -np.mean(np.sum(target * np.log(p) + (1 - target) * np.log(1 - p), axis=1))
    assert float(actual) == pytest.approx(expected, rel=1e-5)
    assert not np.allclose(target[:, 0], labels == 0, atol=0.05)  # Else nothing was distilled.


def test_generative_replay_is_labelled_by_the_solver(monkeypatch):
    config = _config("dgr")
    stream = helpers.stream(config)
    method = METHODS["dgr"](_setting(config, tuple(stream.train_counts(t) for t in range(3))))
    stream.begin(0)
    method.learn(0, *stream.train(0), jax.random.key(0), Watch())
    stream.begin(1)
    images, labels = stream.train(1)
    learnt = []
    monkeypatch.setattr(method, "consolidate", lambda task, data, *_: learnt.append(data))
    monkeypatch.setattr(method, "train_generator", lambda task, data, *_: learnt.append(data))
    said = np.arange(24) % 2
    monkeypatch.setattr(method, "logits", lambda task, drawn: np.eye(3)[said[: len(drawn)]])
    method.learn(1, images, labels, jax.random.key(1), Watch())
    for data in learnt:  # New images first, then as many replayed ones.
        assert data.count == 48
        np.testing.assert_array_equal(data.images[:24], images)
        np.testing.assert_array_equal(data.labels[:48], [*labels, *said])
    assert len(learnt) == 2


@pytest.mark.parametrize("n_old, devices", [(9, 1), (9, 8), (40, 2), (46, 1)])
def test_all_old_classes_are_aligned_in_turn_however_the_batch_is_split(n_old, devices):
    whole = mergan.AlignedStep(config=CONFIG, optimisers=None, generator=None)
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


def test_alignment_holds_the_generator(tmp_path):
    """The stronger, the less the images of the first class change while the second is learnt."""
    drift = []
    for weight in (0.0, 1000.0):
        config = _config("mergan", alignment_weight=weight, epochs=4)
        stream = helpers.stream(config)
        counts = tuple(stream.train_counts(t) for t in range(3))
        method = METHODS["mergan"](_setting(config, counts))
        drawn = []
        for task in range(2):
            stream.begin(task)
            method.learn(task, *stream.train(task), jax.random.key(task), Watch())
            drawn.append(method.memory.draw(0, 16, jax.random.key(9)))
        drift.append(np.mean((drawn[1] - drawn[0]) ** 2))
    assert drift[1] < 0.3 * drift[0]


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"method": "dgm"}, "^method='dgm' is no baseline; choose one of joint, finetune, "),
        ({"method": "er", "precision": "tf32"}, "^precision='tf32', but a CPU has no such numbers"),
        ({"method": "er", "protocol": "paper", "held_out": 0.2}, "^protocol='paper': baselines know strict alone$"),
    ],
)
def test_settings_that_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        BaselineLearner(CONFIG.with_changes(**changes), devices=1)


@pytest.mark.parametrize("changes, text", [({"method": "gan"}, "method='gan' is unknown; choose one of dgm, joint, ")])
def test_an_unknown_method_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        CONFIG.with_changes(**changes)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(NoMemory, match="holds no checkpoint of er; run it first"):
        load_method(_config("er"), helpers.stream(CONFIG), tmp_path / "none")


@pytest.mark.parametrize(
    "method, changes",
    [("finetune", {"consolidation_learning_rate": 1e38}), ("mergan", {"generator_learning_rate": 1e38})],
)
def test_training_that_breaks_down_is_refused_and_nothing_of_it_is_saved(method, changes, tmp_path):
    config = _config(method)
    with pytest.raises(KeyboardInterrupt):
        _fit(config, tmp_path, Stop(1, "train"))
    saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    learner = BaselineLearner(config.with_changes(**changes), devices=1)
    with pytest.raises(
        NotFinite, match=f"^{method}: .* is not finite (after|in) task 1, .*seed 0; the tasks before are saved"
    ):
        learner.fit(helpers.stream(config), tmp_path, resume_anyway=True)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == saved


def test_baselines_work_on_the_residual_pair_with_several_classes_a_task(tmp_path):
    summaries = {}
    for method in ("joint", "mergan", "icarl"):
        config = _config(method, network="resnet", reinitialise_discriminator=False)
        stream = helpers.stream(config, labels=helpers.SIX, classes_per_task=2)
        summaries[method] = BaselineLearner(config, devices=1).fit(stream, tmp_path / method)
        assert [name for name in summaries[method] if name.startswith("A_")] == ["A_2", "A_4", "A_6"]
    loaded = load_method(
        _config("mergan", network="resnet", reinitialise_discriminator=False), stream, tmp_path / "mergan"
    )
    stream.begin(2)
    pixels, labels = stream.test(2)
    right = np.mean(loaded.logits(2, pixels).argmax(axis=1) == labels)
    assert right == pytest.approx(summaries["mergan"]["A_6"]["classifier"]["micro"])


def test_icarl_needs_room_for_each_class(tmp_path):
    with pytest.raises(
        ConfigError, match="^memory_size=2, but icarl keeps an image of each of 3 classes; give at least 3"
    ):
        _fit(_config("icarl", memory_size=2), tmp_path)


def test_a_baseline_has_no_memory_to_load(tmp_path):
    _fit(_config("finetune"), tmp_path)
    with pytest.raises(NoMemory, match="is the run of a baseline; only dgm's memory can be drawn from$"):
        load_memory(tmp_path)


def test_which_methods_draw_and_which_keep_images():
    assert {m for m, kind in METHODS.items() if issubclass(kind, UnmaskedGenerator)} | {"dgm"} == set(GENERATIVE)
    config = _config("joint")
    kept = {
        method
        for method, kind in METHODS.items()
        if {"images", "exemplars"} & set(vars(kind(_setting(config.with_changes(method=method)))))
    }
    assert kept == set(KEEPS_IMAGES)
