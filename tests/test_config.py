"""Settings: values of another kind, and pairs that cannot work together, are refused before anything begins."""

import dataclasses
import re

import numpy as np
import pytest

from dgm_jax.config import PRESETS, Config
from dgm_jax.errors import ConfigError


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"warm_start": "False"}, "warm_start='False' must be true or false"),
        ({"batch_size": "abc"}, "batch_size='abc' must be a whole number"),
        ({"epochs": 2.5}, "epochs=2.5 must be a whole number"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"method": 3}, "method=3 must be a name"),
        ({"gate_reach": "far"}, "gate_reach='far' must be a number or None"),
        ({"penalty_weight": None}, "penalty_weight=None must be a number"),
        ({"critic_shift": 16}, "critic_shift=16 must be below half of image_size=32"),
        ({"masks": "random", "scale_schedule": "geometric"}, "scale_schedule='geometric' is for gates that learn"),
        ({"warm_start": True, "anneal_within_epoch": True}, "warm_start=True begins with gates nearly open or closed"),
        ({"penalty": "r1", "penalty_weight": 0}, "penalty='r1' does nothing with penalty_weight=0"),
        ({"method": "mergan", "critic_condition": "projection"}, "critic_condition='projection' does nothing for"),
        ({"method": "er", "consolidation_real": 0.5}, "consolidation_real=0.5 does nothing for method 'er'"),
        (
            {"method": "dgr", "consolidation_real": 0.5},
            "does nothing for method 'dgr', but for dgm, mergan, mergan-jtr",
        ),
        ({"method": "er", "scale_lead": 1}, "scale_lead=1 does nothing for method 'er', but for dgm"),
        ({"method": "mergan", "replay": "fresh"}, "replay='fresh' does nothing for method 'mergan'"),
        ({"scale_max": float("inf")}, "scale_max=inf must be a finite number"),
        ({"consolidation_turn": float("nan")}, "consolidation_turn=nan must be a finite number"),
        ({"replay_confidence": 1e-9}, "replay_confidence=1e-09 must be a share from 0.01 to 1"),
        (
            {"gate_learning_rate": 0.05, "gate_reach": 6.0, "anneal_within_epoch": True},
            "anneal_within_epoch brings s down again",
        ),
        ({"gate_learning_rate": 0.05}, "unless gate_reach holds it: give that too"),
        ({"scale_schedule": "geometric", "anneal_within_epoch": True}, "anneal_within_epoch would go down"),
        ({"method": "er", "generator_average": 0.9}, "generator_average=0.9 does nothing for method 'er', but for dgm"),
        ({"method": "joint", "critic_steps": 2}, "critic_steps=2 does nothing for method 'joint'"),
        ({"method": "mergan", "gate_reach": 3.0}, "gate_reach=3.0 does nothing for method 'mergan'"),
    ],
)
def test_refused(settings, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        Config(**settings)


def test_numbers_of_numpy_are_numbers():
    config = Config(seed=np.int64(3), penalty_weight=1, mask_share=np.float32(0.5))
    assert (config.seed, config.penalty_weight, config.mask_share) == (3, 1, 0.5)


@pytest.mark.parametrize("method", ["joint", "er", "mergan"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_settings_of_a_preset_for_another_method(preset, method):
    """What would do nothing is at its default, so that it is not refused; all else stays."""
    config = PRESETS[preset]["dgma"]
    other = config.for_method(method)
    changed = {name for name, value in dataclasses.asdict(config).items() if getattr(other, name) != value}
    idle = {"warm_start", "generator_average", "critic_condition", "consolidation_smoothing", "scale_lead", "replay"}
    assert other.method == method and changed <= {"method", *idle}
    assert ("warm_start" in changed) == config.warm_start


def test_a_preset_keeps_its_settings_for_its_own_method():
    config = PRESETS["best-mnist"]["dgmw"]
    assert config.for_method("dgm") == config
