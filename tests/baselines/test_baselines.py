"""Baselines: each learns, is resumed to the same end, and does what its paper says."""

import dataclasses
import json

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401

from dgm_jax.baselines import METHODS, ewc, icarl
from dgm_jax.baselines.er import ExperienceReplay
from dgm_jax.baselines.learner import BaselineLearner, load_method
from dgm_jax.baselines.method import Setting
from dgm_jax.callbacks import Callback
from dgm_jax.data.stream import PastTaskError
from dgm_jax.errors import ConfigError, NoMemory, NotFinite

CONFIG = helpers.small(
    image_size=8, epochs=2, consolidation_steps=60, consolidation_samples=24, memory_size=12, discriminator_width=8
)
methods = pytest.mark.parametrize("method", METHODS)


def _config(method, **changes):
    return dataclasses.replace(CONFIG, method=method, **changes)


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
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == 3
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
    _fit(_config(method), tmp_path)
    for leaf in jax.tree.leaves(helpers.newest(tmp_path).tree):
        assert np.asarray(leaf).dtype != np.uint8


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
            method.learn(task, *stream.train(task), jax.random.key(task), lambda *_: None)
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
        BaselineLearner(dataclasses.replace(CONFIG, **changes), devices=1)


@pytest.mark.parametrize("changes, text", [({"method": "gan"}, "method='gan' is unknown; choose one of dgm, joint, ")])
def test_an_unknown_method_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        dataclasses.replace(CONFIG, **changes)


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
    learner = BaselineLearner(dataclasses.replace(config, **changes), devices=1)
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
