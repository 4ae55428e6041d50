"""Results of benchmarks that are measured once and kept: a JSON file with a list of entries."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from dgm_jax.system.files import write_json


def spread(shares: Sequence[float]) -> str:
    """The mean of shares and, of several, their standard deviation, in %."""
    deviation = f" +- {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{deviation} %"


def of(file: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the file holds for these settings; nothing if there is no file."""
    results: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return [
        entry for entry in results if all(name in entry and entry[name] == value for name, value in settings.items())
    ]


def once(file: Path, settings: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what the file holds for these settings; if nothing, measures it and adds it, with minutes and machine."""
    known = of(file, settings)
    if known:
        return known[0]
    file.parent.mkdir(parents=True, exist_ok=True)  # Before the work, not after it.
    begun = time.perf_counter()
    measured = measure()
    minutes = (time.perf_counter() - begun) / 60
    results = of(file, {})
    where = {"machine": machine.describe(), "commit": machine.commit()}
    results.append({**settings, **measured, "minutes": minutes, **where})
    write_json(file, results)
    return results[-1]
