"""The settings of a run as its page shows them: those that differ from a preset first, then all in their groups."""

import itertools
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgm_jax.config import PRESETS, Config, MethodSettings, best
from dgm_jax.config.settings import kinds_of, places_of
from dgm_jax.runs.reading import RunFiles

# What says which run it is, and when it saves, but not how it learns.
_NO_CHOICE = ("seed", "method", "variant", "checkpoint_seconds")

# What a run writes in place of "auto", the precision of all presets, on CPUs and GPUs.
_DEVICES_OWN = ("float32", "tf32")


@dataclass(frozen=True)
class FromPreset:
    """What a run changed of a preset."""

    preset: str
    is_named: bool  # By the command that began the run; otherwise it is the preset with the fewest differences.
    # By setting: the value of the run, and that of the preset ("–": no preset sets it, only one method has it).
    differences: dict[str, tuple[Any, Any]]


def from_preset(run: RunFiles) -> FromPreset | None:
    """The differences from the preset that the run's command names, or else from the nearest one.

    None if there is no preset for what the run learns with.
    """
    differences = {name: _differences(run, preset) for name, preset in _presets(run).items()}
    if not differences:
        return None
    words = _first_command(run.commands)
    named = _named_preset(words)
    if named in differences:
        return FromPreset(named, True, differences[named])

    def distance(name: str) -> tuple[int, bool, bool]:
        """Of equally near ones, that of the experiment, then that of the data."""
        of_experiment = name in words or f"experiments.{name}" in words
        return len(differences[name]), not of_experiment, not str(run.stream["dataset"]).startswith(name)

    nearest = min(differences, key=distance)
    return FromPreset(nearest, False, differences[nearest])


def grouped(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by the titles of their groups; a method's own settings come first, because no preset has them."""
    places, kinds = places_of(), kinds_of(MethodSettings)
    titles = {group: (kind.__doc__ or "").partition("\n")[0].removesuffix(".") for group, kind in kinds.items()}
    own = "Settings that only this method has"
    titles |= {"": "Run", "method_settings": own}
    found: dict[str, dict[str, Any]] = {title: {} for title in (own, *titles.values())}
    for name, value in config.items():
        found[titles[places.get(name, "method_settings")]][name] = value
    return {title: settings for title, settings in found.items() if settings}


def _presets(run: RunFiles) -> dict[str, Config]:
    variant = run.config.get("variant", "dgma")  # Not every method reads it.
    found = {name: variants[variant] for name, variants in PRESETS.items() if variant in variants}
    shape, counts = run.stream.get("image_shape"), run.stream.get("train_counts")
    if shape and counts:  # Runs of earlier versions lack them.
        of_classes = [count for task in counts for count in task]
        side = 0 if run.are_vectors else shape[0]
        per_class = int(statistics.median(of_classes))
        found["best"] = best(variant, side=side, channels=shape[-1], per_class=per_class, classes=len(of_classes))
    return found


def _differences(run: RunFiles, preset: Config) -> dict[str, tuple[Any, Any]]:
    values = preset.flat()
    if run.config.get("precision") in _DEVICES_OWN and not any("--precision" in command for command in run.commands):
        values["precision"] = run.config["precision"]
    return {
        name: (value, values.get(name, "–"))
        for name, value in run.config.items()
        if name not in _NO_CHOICE and value != values.get(name, "–")
    }


def _first_command(commands: Sequence[str]) -> list[str]:
    """The words of the command that began the run."""
    try:
        return shlex.split(commands[0]) if commands else []
    except ValueError:  # A quote that is not closed: the file was edited.
        return []


def _named_preset(words: Sequence[str]) -> str | None:
    """The preset that a command names."""
    for word, following in itertools.pairwise([*words, ""]):
        if word == "--preset":
            return following
        if word.startswith("--preset="):
            return word.removeprefix("--preset=")
    return None
