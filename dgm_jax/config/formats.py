"""Settings as files hold them: reads a file of settings, and brings settings of earlier versions up to date."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgm_jax.config.choices import Method
from dgm_jax.config.settings import GROUPS, Config, places_of, unread_defaults
from dgm_jax.errors import ConfigError, OtherConfiguration

FORMAT_VERSION = 2  # Of config.json. Format 1 had no groups, and every run had the settings of all methods.

_OWN_IN_FORMAT_1: dict[str, tuple[Method, ...]] = {
    "memory_size": ("er", "icarl"),
    "ewc_weight": ("ewc",),
    "alignment_weight": ("mergan",),
}
_LAST_COMMIT = "c36b15c"  # The last one with the settings of REMOVED; files of its runs still name them.
# The settings that earlier versions had, with their defaults, which are what all runs do now.
REMOVED: dict[str, Any] = {
    "adversarial_loss": "wasserstein",
    "penalty": "gradient",
    "critic_steps": 1,
    "critic_shift": 0,
    "discriminator_norm": "batch",
    "gate_learning_rate": None,
    "gate_reach": None,
    "scale_schedule": "linear",
    "replay_confidence": 1.0,
    "consolidation_real": 0.0,
    "consolidation_turn": 0.0,
    "consolidation_average": 0.0,
    "distillation_weight": 0.0,
}
_WITHOUT_EFFECT = ("checkpoint_epochs",)  # Settings of earlier versions on which no result depends.


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as config.json or summary.json has them, in the present format, as `dataclasses.asdict` gives it.

    Settings of format 1 are put into their groups. Settings that the method did not read are left out, and so are
    removed ones that had their default value; removed ones that had another value stand under "removed". A removed
    setting on which no result depends is left out, whatever its value.
    """
    settings = {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT}
    if any(isinstance(value, Mapping) for value in settings.values()):
        return settings
    method = settings.get("method", "dgm")
    places, unread = places_of(), unread_defaults(method)
    nested: dict[str, Any] = {}
    for name, value in {"precision": "float32", **settings}.items():  # The first runs had no other.
        if name in unread or method not in _OWN_IN_FORMAT_1.get(name, (method,)):
            continue
        if name in REMOVED:
            if value != REMOVED[name]:
                nested.setdefault("removed", {})[name] = value
        elif group := "method_settings" if name in _OWN_IN_FORMAT_1 else places.get(name):
            nested.setdefault(group, {})[name] = value
        else:
            nested[name] = value
    return nested


def require_none_removed(settings: Mapping[str, Any], folder: object) -> None:
    """Refuses the settings of an earlier run that needs a removed setting: no run of this version equals that one.

    Args:
      settings: from `upgraded`.
      folder: where the run lies, for the message.

    Raises:
      OtherConfiguration: if a removed setting was not at its default.
    """
    changed = [f"{name}={value!r}" for name, value in settings.get("removed", {}).items()]
    if changed:
        raise OtherConfiguration(
            f"{folder} holds a run with {', '.join(changed)}, removed after commit {_LAST_COMMIT}; check "
            "out that commit to continue the run, or choose another folder"
        )


def read_file(path: Path) -> dict[str, Any]:
    """Reads settings from a JSON or TOML file; the config.json of a run is one.

    Raises:
      ConfigError: if the file cannot be read, or a newer version wrote it.
      OtherConfiguration: if it is of a run that needs a removed setting.
    """
    try:
        text = path.read_text("utf-8")
        found = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(
            f"{path} cannot be read ({why}); expected settings as JSON, or as TOML if the name ends in .toml"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no settings; expected names and values, e.g. epochs = 3")
    if not isinstance(found.get("config"), dict):
        return found
    version = found.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int):
        raise ConfigError(f"{path}: format_version={version!r} must be a whole number")
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{path} was written in format {version}, this version of dgm_jax reads up to {FORMAT_VERSION}; "
            "upgrade dgm_jax"
        )
    settings = upgraded(found["config"])
    require_none_removed(settings, path)
    return settings


def with_file(config: Config, found: Mapping[str, Any], path: Path) -> Config:
    """The settings with those from a file in their places.

    Args:
      config: the settings, with the method's own.
      found: from `read_file`; settings stand in their groups, or directly.
      path: of the file, for messages.

    Raises:
      ConfigError: if there is no such setting, a value cannot work, or the method does not read the setting.
    """
    places = places_of(type(config.method_settings))
    changes: dict[str, Any] = {}
    for name, value in found.items():
        if not isinstance(value, Mapping):
            if name in GROUPS and name not in places:
                raise ConfigError(f"{path}: {name}={value!r} must be a group of settings, with names and values")
            changes[name] = value
            continue
        if name not in GROUPS:
            raise ConfigError(f"{path}: there is no group {name!r}; the groups are {', '.join(GROUPS)}")
        for inner in value:
            if places.get(inner, name) != name:
                right = f"in group {places[inner]!r}" if places[inner] else "outside of groups"
                raise ConfigError(f"{path}: setting {inner!r} stands in group {name!r}; it belongs {right}")
        changes |= value
    try:
        config = config.with_changes(**changes)
        config.check_method_reads_all()
        return config
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
