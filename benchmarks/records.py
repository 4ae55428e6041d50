"""Records of what was measured: a file of JSON Lines, one line for each run or measured entry.

`results/` holds such files, and `results/README.md` describes their fields.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgm_jax.system.files import append_line


def read(file: Path) -> list[dict[str, Any]]:
    """Returns the records of a file, in the order in which they were added; none if there is no file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def append(file: Path, record: Mapping[str, Any]) -> None:
    """Adds a record as one line; makes the file if it does not exist."""
    append_line(file, json.dumps(record, ensure_ascii=False))
