"""Records of studies: settings as differences from a preset, and nothing is measured twice."""

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, records
from dgm_jax.config import Config
from dgm_jax.runs.folder import Workdir

_TOO_LONG = ("calibration", "capacity", "confusion", "forgetting_by_class", "privacy")  # A run's folder has them.
_NAMED_APART = ("seed", "variant")  # A record has these beside its settings.


def differences(config: Config, preset: Config) -> dict[str, Any]:
    """Returns the settings that differ from those of a preset."""
    base = preset.for_method(config.method, type(config.method_settings)()).flat() | {"method": "dgm"}
    return _without_names({name: value for name, value in config.flat().items() if value != base[name]})


def fingerprint(config: Config) -> str:
    """Returns eight characters that differ between different settings, seed and variant apart.

    A preset may change; two records of one preset and equal differences then still have different fingerprints.
    Settings at their default do not count, so that a setting that is added or removed later changes no fingerprint.
    """
    defaults = Config(method_settings=type(config.method_settings)()).flat()
    settings = {name: value for name, value in config.flat().items() if value != defaults[name]}
    text = json.dumps(_without_names(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def once(
    file: Path,
    entry: Mapping[str, Any],
    config: Config,
    preset: tuple[str, Config],
    measure: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns the record that a file has of this entry; if there is none, measures it and adds a line.

    Args:
      file: JSON Lines.
      entry: what names the record: data, seeds and so on.
      config: the settings; a record with others does not count.
      preset: the name and the settings of the preset as whose differences the settings are written.
      measure: returns what the record says besides.
    """
    named = {**entry, "fingerprint": fingerprint(config)}
    for known in records.read(file):
        if all(name in known and known[name] == value for name, value in named.items()):
            return known
    file.parent.mkdir(parents=True, exist_ok=True)  # Before the work: a folder that cannot be made must not cost it.
    begun = time.perf_counter()
    measured = measure()
    minutes = (time.perf_counter() - begun) / 60
    settings = {"preset": preset[0], "settings": differences(config, preset[1])}
    record = {**named, **settings, **measured, "minutes": minutes, **machine.where()}
    records.append(file, record)
    return record


def add_run(workdir: Path, file: Path) -> None:
    """Adds a finished run of an experiment to a file: what its summary says, without the longest parts of it."""
    summary = json.loads(Workdir(workdir).summary.read_text())
    last = [row for row in summary.get("capacity", []) if row["task"] == summary["finished_tasks"] - 1]
    if last:
        reused = sum(row["reused"] for row in last) / sum(row["used"] for row in last)
        summary["reused_by_the_last_task"] = reused
    kept = {name: value for name, value in summary.items() if name not in _TOO_LONG}
    machine.keep(file, run=workdir.name, **kept)


def add_table(folder: Path, file: Path, checkout: Path) -> None:
    """Adds the rows of a table, and its comparisons in pairs, from the folder that holds its `table.json`.

    Args:
      folder: of the table.
      file: JSON Lines. A row that it has already is added again: of equal rows, the last counts.
      checkout: the working tree that made the runs, which names the commit.
    """
    table = json.loads((folder / "table.json").read_text())
    for row in [row for row in table["rows"] if "reading" in row] + table["differences"]:
        known = {name: _short(value) for name, value in row.items() if value not in (None, "")}
        records.append(file, known | machine.where() | {"commit": machine.commit(checkout)})


def spread(shares: Sequence[float]) -> str:
    """Returns the mean of shares in %, and their standard deviation if there are several."""
    deviation = f" +- {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{deviation} %"


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _without_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _NAMED_APART}
