"""Settings: values of another kind, and pairs that cannot work together, are refused before anything begins."""

import re

import numpy as np
import pytest

from dgm_jax.config import PRESETS, Config, without_removed
from dgm_jax.config.removed import REMOVED
from dgm_jax.errors import ConfigError, OtherConfiguration


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
        ({"method": "mergan", "critic_condition": "projection"}, "critic_condition='projection' does nothing for"),
        (
            {"method": "er", "consolidation_smoothing": 0.5},
            "does nothing for method 'er', but for dgm, dgr, mergan, mergan-jtr",
        ),
        ({"method": "er", "scale_lead": 1}, "scale_lead=1 does nothing for method 'er', but for dgm"),
        ({"method": "mergan", "replay": "fresh"}, "replay='fresh' does nothing for method 'mergan'"),
        ({"scale_max": float("inf")}, "scale_max=inf must be a finite number"),
        ({"ewc_weight": float("nan")}, "ewc_weight=nan must be a finite number"),
        ({"method": "er", "generator_average": 0.9}, "generator_average=0.9 does nothing for method 'er', but for dgm"),
        ({"method": "mergan", "warm_start": True}, "warm_start=True does nothing for method 'mergan'"),
    ],
)
def test_refused(settings, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        Config().with_changes(**settings)


def test_numbers_of_numpy_are_numbers():
    config = Config().with_changes(seed=np.int64(3), penalty_weight=1, mask_share=np.float32(0.5))
    assert (config.seed, config.gan.penalty_weight, config.gates.mask_share) == (3, 1, 0.5)


@pytest.mark.parametrize("method", ["joint", "er", "mergan"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_settings_of_a_preset_for_another_method(preset, method):
    """What would do nothing is at its default, so that it is not refused; all else stays."""
    config = PRESETS[preset]["dgma"]
    other = config.for_method(method)
    changed = {name for name, value in config.flat().items() if getattr(other, name) != value}
    idle = {"warm_start", "generator_average", "critic_condition", "consolidation_smoothing", "scale_lead", "replay"}
    assert other.method == method and changed <= {"method", *idle}
    assert ("warm_start" in changed) == config.gates.warm_start


def test_a_preset_keeps_its_settings_for_its_own_method():
    config = PRESETS["best-mnist"]["dgmw"]
    assert config.for_method("dgm") == config


def test_settings_that_were_removed_are_dropped_from_old_files():
    old = Config().with_changes(epochs=7).flat() | REMOVED
    assert Config().with_changes(**without_removed(old, "run")) == Config().with_changes(epochs=7)
    assert not set(REMOVED) & set(Config.__dataclass_fields__)


def test_a_run_that_needs_a_removed_setting_is_refused():
    text = "run holds a run with penalty='r1', critic_steps=2, removed after commit c36b15c; go on with"
    with pytest.raises(OtherConfiguration, match=f"^{re.escape(text)}"):
        without_removed({"epochs": 7, "critic_steps": 2, "penalty": "r1"}, "run")
