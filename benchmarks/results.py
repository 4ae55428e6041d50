"""Results of benchmarks that are measured once and kept: a JSON file with a list of entries."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine
from dgm_jax.files import write_json


def once(file: Path, settings: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what the file holds for these settings; if nothing, measures it and adds it, with minutes and machine."""
    results: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    for entry in results:
        if all(name in entry and entry[name] == value for name, value in settings.items()):
            return entry
    begun = time.perf_counter()
    measured = measure()
    minutes = (time.perf_counter() - begun) / 60
    results.append({**settings, **measured, "minutes": minutes, "machine": machine.describe()})
    write_json(file, results)
    return results[-1]
