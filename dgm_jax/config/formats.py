"""Settings as files hold them: reads a file of settings, and brings settings of earlier versions up to date."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgm_jax.config.choices import Method
from dgm_jax.config.removed import REMOVED, require_none_removed
from dgm_jax.config.settings import GROUPS, Config, UnknownSetting, group_of, unread_defaults
from dgm_jax.errors import ConfigError

FORMAT_VERSION = 2  # Of config.json. Format 1 had no groups, and every run had the settings of all methods.

_OWN_IN_FORMAT_1: dict[str, tuple[Method, ...]] = {
    "memory_size": ("er", "icarl"),
    "ewc_weight": ("ewc",),
    "alignment_weight": ("mergan",),
}


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as config.json or summary.json has them, in the present format, as `dataclasses.asdict` gives it.

    Settings of format 1 are put into their groups. Settings that the method did not read are left out, and so are
    removed ones that had their default value; removed ones that had another value stand under "removed".
    """
    if any(isinstance(value, Mapping) for value in settings.values()):
        return dict(settings)
    method = settings.get("method", "dgm")
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        if name in unread_defaults(method) or method not in _OWN_IN_FORMAT_1.get(name, (method,)):
            continue
        if name in REMOVED:
            if value != REMOVED[name]:
                nested.setdefault("removed", {})[name] = value
            continue
        group = "own" if name in _OWN_IN_FORMAT_1 else group_of(name)
        if group:
            nested.setdefault(group, {})[name] = value
        else:
            nested[name] = value
    return nested


def read_file(path: Path) -> dict[str, Any]:
    """Reads settings from a JSON or TOML file; the config.json of a run is one.

    Raises:
      ConfigError: if the file cannot be read, or a newer version wrote it.
      OtherConfiguration: if it is of a run that needs a removed setting.
    """
    try:
        text = path.read_text()
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
      UnknownSetting: if there is no such setting.
      ConfigError: if a value cannot work, or the method does not read the setting.
    """
    changes: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            if name not in GROUPS:
                raise ConfigError(f"{path}: there is no group {name!r}; the groups are {', '.join(GROUPS)}")
            for inner in value:
                place = group_of(inner, type(config.own))
                if place is not None and place != name:
                    right = f"in group {place!r}" if place else "outside of groups"
                    raise ConfigError(f"{path}: setting {inner!r} stands in group {name!r}; it belongs {right}")
            changes |= value
        elif name in GROUPS and group_of(name) is None:
            raise ConfigError(f"{path}: {name}={value!r} must be a group of settings, with names and values")
        else:
            changes[name] = value
    try:
        config = config.with_changes(**changes)
        config.check_method_reads_all()
        return config
    except UnknownSetting as error:
        raise UnknownSetting(error.name, f"{path}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
