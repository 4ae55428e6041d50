"""Settings are chosen by the training images of the first tasks only."""

import re

import numpy as np
import pytest
from support import presets, small_runs

from benchmarks import records
from dgm_jax import Learner, data
from dgm_jax.config import PRESETS
from dgm_jax.errors import ConfigError, UserError
from studies import choosing, tune

CONFIG = small_runs.small(image_size=8, epochs=2)


def test_a_change_in_words():
    config = choosing.changed(CONFIG, "epochs=3,auxiliary_generator=true,replay=fresh,replay_steps=null")
    assert (config.gan.epochs, config.gan.auxiliary_generator, config.replay.replay, config.replay.replay_steps) == (
        3,
        True,
        "fresh",
        None,
    )
    assert choosing.changed(CONFIG, "") == CONFIG


@pytest.mark.parametrize(
    "change, error, text",
    [
        ("epoch=3", UserError, "epoch=3: there is no setting 'epoch' for method 'dgm'; did you mean 'epochs'?"),
        ("warm", UserError, "warm: 'warm' is no change; expected NAME=VALUE, e.g. warm_start=true"),
        ("replay=new", ConfigError, "replay='new' is unknown"),
        ("epochs=0", ConfigError, "epochs=0 must be greater than 0"),
        ("seed=3", UserError, "seed=3: seed is not changed here; give --seeds"),
        ("epochs=3,held_out=0.2", UserError, "held_out is not changed here; a quarter is held out"),
    ],
)
def test_changes_that_are_refused(change, error, text):
    with pytest.raises(error, match=re.escape(text)):
        choosing.changed(CONFIG, change)


def test_settings_without_effect_on_another_method_are_reset():
    preset = CONFIG.with_changes(warm_start=True, critic_condition="projection")
    config = choosing.changed(preset, "batch_size=16,method=joint")
    assert (config.method, config.gan.batch_size, config.gates.warm_start, config.gan.critic_condition) == (
        "joint",
        16,
        False,
        "none",
    )


def test_only_training_images_of_two_classes_are_seen():
    whole = data.load("digits")
    seen = choosing.first_tasks(whole, 40)
    assert seen.labels == (0, 1)
    training = {image.tobytes() for image in whole.x_train[np.isin(whole.y_train, (0, 1))]}
    assert all(image.tobytes() in training for image in (*seen.x_train, *seen.x_test))
    assert not {i.tobytes() for i in seen.x_train} & {i.tobytes() for i in seen.x_test}
    assert np.bincount(seen.y_train).tolist() == [30, 30]


@pytest.mark.slow
def test_records_are_kept_and_not_measured_twice(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG})
    file = tmp_path / "tune.jsonl"
    argv = ["digits", "--train-per-class", "40", "--seeds", "0", "--try", "generator_width=4", "--out", str(file)]
    tune.main(argv)
    first = records.read(file)
    assert [(entry["change"], entry["settings"]) for entry in first] == [
        ("", {}),
        ("generator_width=4", {"generator_width": 4}),
    ]
    for entry in first:
        assert set(entry["accuracy"]) == {"consolidated", "auxiliary"}
        (last,) = entry["accuracy"]["consolidated"]
        assert 0 <= last <= 1 and len(entry["weights"]) == 1
    monkeypatch.setattr(choosing, "learn", _measured_again)
    tune.main(argv)
    assert records.read(file) == first
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG.with_changes(sparsity_weight=9.0)})
    with pytest.raises(AssertionError, match="measured again"):  # The preset has changed: no record is of it.
        tune.main(argv)


@pytest.mark.slow
def test_each_change_reaches_the_learner(tmp_path, monkeypatch):
    learnt = []

    class Watched(Learner):
        def __init__(self, config, **options):
            learnt.append((config.seed, config.networks.generator_width, config.gan.epochs))
            super().__init__(config, **options)

    monkeypatch.setattr(choosing, "Learner", Watched)
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG})
    argv = ["digits", "--train-per-class", "40", "--seeds", "0,3", "--base", "epochs=1", "--try", "generator_width=4"]
    tune.main([*argv, "--out", str(tmp_path / "tune.jsonl")])
    width = CONFIG.networks.generator_width
    assert learnt == [(0, width, 1), (3, width, 1), (0, 4, 1), (3, 4, 1)]


def test_more_tasks_than_classes_are_refused():
    with pytest.raises(UserError, match="^--tasks 11 is more than the 10 classes that digits has$"):
        choosing.first_tasks(data.load("digits"), 40, tasks=11)


def test_best_is_the_preset_best_of_the_data(tmp_path):
    options = choosing.Options(data="digits", preset="best", base="epochs=7", out=tmp_path / "tune.jsonl")
    assert choosing.Plan(options).base == presets.config("best-digits").with_changes(epochs=7)


def test_a_change_without_effect_on_tasks_of_one_class_is_refused(tmp_path):
    change = "critic_condition=projection"
    with pytest.raises(UserError, match=f"^{change}: has no effect here, where each task has one class$"):
        tune.main(["digits", "--try", change, "--out", str(tmp_path / "tune.jsonl")])
    assert not list(tmp_path.iterdir())


def _measured_again(*_):
    raise AssertionError("measured again")


def test_baselines_are_tuned_too():
    seen = choosing.first_tasks(data.load("digits"), 40).resized(8)
    found = choosing.learn(choosing.changed(CONFIG, "method=finetune"), seen, [0, 1])
    assert list(found["accuracy"]) == ["classifier"]
    assert found["accuracy"]["classifier"] == pytest.approx([0.5, 0.5], abs=0.1)  # It knows only the newest class.
