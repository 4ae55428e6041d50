"""A record names its settings as differences from a preset, and they can be restored from it."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import records
from dgm_jax.config import PRESETS, preset
from studies import results

RESULTS = Path(__file__).parents[2] / "results"


def test_differences_restore_the_settings():
    config = preset("best-digits", "dgmw").with_changes(epochs=7, seed=3)
    assert results.differences(config, "best-digits") == {"epochs": 7}
    for name in ("digits", "mnist"):
        base = preset(name, "dgmw")
        assert base.with_changes(**results.differences(config, name), seed=3) == config


@pytest.mark.parametrize("name, data", [("best-digits", "digits"), ("mnist", "mnist"), ("svhn", "svhn")])
def test_the_nearest_preset(name, data):
    config = dataclasses.replace(PRESETS[name]["dgma"], seed=5, epochs=9)
    assert results.nearest_preset(config, data) == name


def test_a_fingerprint_tells_settings_apart_but_not_seeds():
    config = preset("digits", "dgma")
    assert results.fingerprint(config) == results.fingerprint(config.with_changes(seed=4))
    assert results.fingerprint(config) != results.fingerprint(config.with_changes(epochs=4))


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.jsonl")), ids=lambda file: file.name)
def test_the_records_at_hand_are_complete(file):
    """Each says what was measured on; all files together stay small enough to read."""
    for record in records.read(file):
        assert {"machine", "device", "versions"} & set(record)
        assert len(str(record)) < 5000
    assert sum(len(each.read_text().splitlines()) for each in RESULTS.glob("*.jsonl")) <= 1500
