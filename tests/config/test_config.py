"""Settings: values of another kind, and pairs that cannot work together, are refused before anything begins."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support import presets

from dgm_jax import Learner
from dgm_jax.config import Config, Features, Gan, MethodSettings, all_facts, flattened, require_none_removed, upgraded
from dgm_jax.config.formats import REMOVED
from dgm_jax.config.setting import help_of
from dgm_jax.config.settings import kinds_of
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.methods import METHODS, config_of, with_method_settings
from dgm_jax.methods.er import ReservoirSettings
from dgm_jax.methods.kept_images import KeptImagesSettings

FORMAT_1 = json.loads((Path(__file__).parents[1] / "fixtures" / "format-1" / "run" / "config.json").read_text())[
    "config"
]


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"warm_start": "False"}, "warm_start='False' must be true or false"),
        ({"batch_size": "abc"}, "batch_size='abc' must be a whole number"),
        ({"epochs": 2.5}, "epochs=2.5 must be a whole number"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"method": 3}, "method=3 must be a name"),
        ({"replay_steps": "far"}, "replay_steps='far' must be a whole number or None"),
        ({"penalty_weight": None}, "penalty_weight=None must be a number"),
        ({"consolidation_shift": 16}, "consolidation_shift=16 must be below half of image_size=32"),
        ({"warm_start": True, "anneal_within_epoch": True}, "warm_start=True begins with gates nearly open or closed"),
        ({"scale_max": float("inf")}, "scale_max=inf must be a finite number"),
        ({"scale_max": 0.5}, "scale_max=0.5 must be at least 1: gates start at 1 / scale_max"),
        ({"filters": 9}, "filters=9 and mirror=False have no effect for method 'dgm' without combined=True; add it"),
        ({"image_size": 20}, "image_size=20 must be 4 times a power of two: 8, 16, 32, 64 or 128"),
        ({"held_out": 1}, "held_out=1 must be at least 0 and below 1"),
        ({"seed": 2**32}, "seed=4294967296 must be at least 0 and below 4294967296"),
        ({"train_per_class": 0}, "train_per_class=0 must be greater than 0"),
        ({"network": "vgg"}, "network='vgg' is unknown; choose one of dcgan, resnet"),
        ({"epoch": 3}, "there is no setting 'epoch' for method 'dgm'; did you mean 'epochs'?"),
        ({"memory_size": 3}, "there is no setting 'memory_size' for method 'dgm'"),
        ({"gan": 3}, "gan=3 must be settings of class Gan"),
        ({"method_settings": ReservoirSettings(), "memory_size": 0}, "memory_size=0 must be greater than 0"),
    ],
)
def test_refused(settings, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        Config().with_changes(**settings)


def test_numbers_of_numpy_are_numbers():
    config = Config().with_changes(seed=np.int64(3), penalty_weight=1, mask_share=np.float32(0.5))
    assert (config.seed, config.gan.penalty_weight, config.gates.mask_share) == (3, 1, 0.5)


# ---- groups ----


def test_a_change_reaches_its_group_and_whole_groups_can_be_given():
    config = Config().with_changes(epochs=3, replay="fresh", seed=4, method_settings=ReservoirSettings(), memory_size=5)
    assert (config.gan.epochs, config.replay.replay, config.seed) == (3, "fresh", 4)
    assert config.method_settings == ReservoirSettings(memory_size=5)
    assert Config().with_changes(gan=Gan(epochs=3)) == Config(gan=Gan(epochs=3)) == Config().with_changes(epochs=3)
    assert Config().with_changes(gan=Gan(epochs=3), batch_size=8).gan == Gan(epochs=3, batch_size=8)


def test_flat_and_groups_say_the_same():
    config = presets.config("best-mnist", "dgmw")
    assert Config().with_changes(**config.flat()) == config
    assert flattened(dataclasses.asdict(config)) == config.flat()
    assert hash(config) == hash(Config().with_changes(**config.flat()))


def test_names_of_settings_are_unique_and_each_has_help():
    for method in METHODS.values():
        kinds = kinds_of(method.settings)
        names = [name for kind in kinds.values() for name in help_of(kind)]
        assert len(names) == len(set(names)) and set(names) == set(all_facts(method.settings))
    assert len(all_facts()) <= 56  # A method may add some.


def test_what_may_change_when_a_run_is_resumed():
    assert {name for name, facts in all_facts().items() if facts.changeable} == {
        "epochs",
        "generator_learning_rate",
        "discriminator_learning_rate",
        "clip_norm",
        "adversarial_weight",
        "penalty_weight",
        "sparsity_weight",
        "scale_max",
        "mask_share",
        "memory_limit_kb",
        "replay",
        "replay_steps",
        "consolidation_steps",
        "consolidation_samples",
        "consolidation_learning_rate",
        "consolidation_shift",
        "consolidation_flip",
        "consolidation_noise",
        "consolidation_smoothing",
        "checkpoint_seconds",
    }


# ---- presets ----


@pytest.mark.parametrize(
    "preset, variant, changes",
    [
        (
            "paper-mnist",
            "dgma",
            {
                "held_out": 0.15,
                "gate_position": "before_norm",
                "gate_gradient": "product",
            },
        ),
        (
            "digits",
            "dgma",
            {
                "discriminator_width": 16,
                "image_size": 16,
                "epochs": 100,
                "batch_size": 32,
                "critic_condition": "projection",
                "scale_max": 1e3,
                "mask_share": 0.5,
                "sparsity_weight": 0.2,
                "replay_steps": 1,
                "consolidation_samples": 1000,
                "consolidation_shift": 1,
            },
        ),
        (
            "best-cifar10",
            "dgmw",
            {
                "variant": "dgmw",
                "generator_width": 32,
                "noise_dim": 32,
                "reinitialise_discriminator": False,
                "epochs": 17,
                "batch_size": 16,
                "generator_learning_rate": 2e-4,
                "discriminator_learning_rate": 2e-4,
                "auxiliary_generator": True,
                "critic_condition": "projection",
                "generator_average": 0.98,
                "warm_start": True,
                "scale_lead": 1,
                "scale_max": 1e3,
                "mask_share": 0.5,
                "sparsity_weight": 0.08,
                "replay_steps": 1,
                "consolidation_steps": 19200,
                "consolidation_samples": 5000,
                "consolidation_shift": 3,
                "consolidation_flip": True,
                "consolidation_noise": 0.5,
                "consolidation_means": True,
                "consolidation_smoothing": 0.1,
                "combined": True,
                "mirror": True,
            },
        ),
        (
            "imagenet50",
            "dgmw",
            {
                "network": "resnet",
                "variant": "dgmw",
                "generator_width": 64,
                "discriminator_width": 64,
                "batch_size": 70,
                "generator_learning_rate": 2e-4,
                "discriminator_learning_rate": 2e-4,
                "penalty_weight": 0.6,
                "auxiliary_generator": True,
                "reconstruction_weight": 1.0,
                "reinitialise_discriminator": False,
                "sparsity_weight": 0.001,
                "scale_lead": 1,
                "scale_max": 1e3,
                "mask_share": 0.5,
                "replay_steps": 2,
                "consolidation_steps": 4000,
                "consolidation_shift": 2,
            },
        ),
    ],
)
def test_what_a_preset_sets(preset, variant, changes):
    config = presets.config(preset, variant).flat()
    assert {name: value for name, value in config.items() if value != Config().flat()[name]} == changes


READ_BY_ALL = {
    "method",
    "seed",
    "protocol",
    "checkpoint_seconds",
    "evaluate_every",
    "image_size",
    "train_per_class",
    "held_out",
    "network",
    "discriminator_width",
    "batch_size",
    "precision",
    "consolidation_steps",
    "consolidation_learning_rate",
    "consolidation_shift",
    "consolidation_flip",
    "consolidation_smoothing",
    "consolidation_network",
    "consolidation_width",
}


@pytest.mark.parametrize("method", ["joint", "er", "mergan"])
@pytest.mark.parametrize("preset", presets.NAMES)
def test_settings_of_a_preset_for_another_method(preset, method):
    """What the method does not read is at its default; all else stays."""
    config = presets.config(preset)
    other = config.for_method(method)
    other.check_method_reads_all()
    before, after = config.flat(), other.flat()
    assert all(after[name] == before[name] for name in READ_BY_ALL - {"method"})
    for name, facts in all_facts().items():
        read = facts.is_used_by(method)
        assert read == (name in READ_BY_ALL) or method == "mergan"
        assert name == "method" or after[name] == (before if read else Config().flat())[name]


def test_a_preset_keeps_its_settings_for_its_own_method():
    config = presets.config("best-mnist", "dgmw")
    assert config.for_method("dgm") == config


# ---- a method's own settings ----


@pytest.mark.parametrize(
    "config, text",
    [
        (
            Config(method="joint").with_changes(masks="random", scale_max=5.0),
            "scale_max=5.0 and masks='random' have no effect for method 'joint' (only for dgm); remove them",
        ),
        (
            Config(method="er").with_changes(penalty_weight=0.5, epochs=3, consolidation_samples=9),
            "epochs=3 and penalty_weight=0.5 have no effect for method 'er' (only for dgm, separate, dgr, "
            "mergan, mergan-jtr); consolidation_samples=9 has no effect for method 'er' (only for dgm, separate, "
            "mergan, mergan-jtr); remove them",
        ),
        (
            Config(method="joint").with_changes(filters=9),
            "filters=9 has no effect for method 'joint' (only for analytic, dgm, separate); remove it",
        ),
        (
            Config(method="mergan").with_changes(replay="fresh"),
            "replay='fresh' has no effect for method 'mergan' (only for dgm, separate); remove it",
        ),
        (
            Config(method="er", method_settings=KeptImagesSettings(memory_size=9)),
            "method_settings=KeptImagesSettings(memory_size=9, memory_format='raw') has no effect for method 'er', "
            "whose settings are of class ReservoirSettings; remove it",
        ),
    ],
)
def test_a_learner_refuses_settings_of_another_method(config, text):
    with pytest.raises(ConfigError) as error:
        Learner(config, devices=1)
    assert str(error.value) == text


def test_a_method_has_its_own_settings_at_their_defaults_if_none_are_given():
    assert Learner(Config(method="er"), devices=1).config == Config(
        method="er", method_settings=ReservoirSettings(memory_size=200)
    )
    assert with_method_settings(Config()) == Config()
    assert METHODS["dgm"].settings is MethodSettings


# ---- settings of earlier versions ----


def test_settings_of_format_1_get_their_groups():
    found = upgraded(FORMAT_1)
    assert found["gan"]["batch_size"] == 8 and found["gates"]["scale_max"] == 100.0 and found["method"] == "dgm"
    assert "own" not in found  # `dgm` never read memory_size and the others.
    assert config_of(FORMAT_1) == Config().with_changes(
        image_size=8,
        noise_dim=8,
        generator_width=3,
        discriminator_width=4,
        epochs=3,
        batch_size=8,
        precision="float32",  # The only one that there was.
        scale_max=100.0,
        consolidation_steps=6,
        consolidation_samples=16,
    )
    assert upgraded(found) == found


def test_a_baseline_of_format_1_keeps_only_what_it_read():
    old = FORMAT_1 | {"method": "er", "memory_size": 30, "masks": "random"}
    assert config_of(old) == Config(method="er", method_settings=ReservoirSettings(memory_size=30)).with_changes(
        image_size=8, discriminator_width=4, batch_size=8, precision="float32", consolidation_steps=6
    )


def test_settings_that_were_removed_are_dropped_from_old_files():
    old = {"method": "dgm", "epochs": 7} | REMOVED
    assert config_of(old) == Config().with_changes(epochs=7, precision="float32")
    assert not set(REMOVED) & set(all_facts())


@pytest.mark.parametrize("old", [{"method": "dgm", "epochs": 7}, {"method": "dgm", "gan": {"epochs": 7}}])
def test_when_an_earlier_version_saved_is_forgotten(old):
    """Checkpoints were saved every N epochs; no result depends on it."""
    assert config_of(old | {"checkpoint_epochs": 3}) == config_of(old)
    assert config_of(old).gan.epochs == 7


def test_a_run_that_needs_a_removed_setting_is_refused():
    text = "run holds a run with critic_steps=2, penalty='r1', removed after commit c36b15c; check out that commit"
    found = upgraded({"epochs": 7, "critic_steps": 2, "penalty": "r1"})
    with pytest.raises(OtherConfiguration, match=f"^{re.escape(text)}"):
        require_none_removed(found, "run")
    assert flattened(found) == {
        "epochs": 7,
        "critic_steps": 2,
        "penalty": "r1",
        "precision": "float32",
    }  # As a page shows it.


@pytest.mark.parametrize("change", [{"network": "resnet"}, {"consolidation_network": "resnet"}])
def test_the_residual_network_needs_two_images(change):
    with pytest.raises(ConfigError, match="^batch_size=1: the residual network normalises over the images"):
        Config().with_changes(batch_size=1, **change)
    Config().with_changes(batch_size=2, **change)
    Config().with_changes(batch_size=1)


def test_without_the_combined_reading_its_settings_go():
    """As the notes on privacy advise, whatever a preset chose for it; what is asked for by name is refused."""
    best = presets.config("best-cifar10", "dgmw")
    assert best.features.combined and best.features.mirror
    assert best.with_changes(combined=False).features == Features()
    with pytest.raises(ConfigError, match="filters=9 and mirror=False have no effect"):
        best.with_changes(combined=False, filters=9)
    assert best.for_method("analytic").features.mirror  # Which reads them, too.
