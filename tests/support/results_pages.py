"""Tables of pages, and the records in `results/` that they are held to."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import records

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "results"
NOTEBOOK = ROOT / "studies" / "NOTEBOOK.md"
Row = dict[str, str]
Record = dict[str, Any]


def read(name: str) -> list[Record]:
    return records.read(ROOT / "results" / f"{name}.jsonl")


def tables(page: Path) -> list[list[Row]]:
    """The tables of a page; each row is a dict from header to cell, without marks of emphasis and code."""
    found: list[list[Row]] = []
    header: list[str] = []
    for line in page.read_text().splitlines():
        cells = [cell.strip(" *`") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            header = []
        elif not header:
            header = cells
            found.append([])
        elif not set(line) <= set("|-"):
            found[-1].append(dict(zip(header, cells, strict=True)))
    return found


def rows_with(page: Path, *headers: str) -> list[Row]:
    """The rows of all tables that have these columns."""
    return [row for table in tables(page) for row in table if set(headers) <= set(row)]


def numbers(cell: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?![\d.])", cell)]


def require_equal(cell: str, values: Sequence[float], what: str) -> None:
    """Requires that a cell says the mean of the values, to its decimals, and their deviation if it says one."""
    text = cell.replace(",", "").replace("*", "").replace("%", "")
    mean, _, deviation = (part.strip() for part in text.partition("±"))
    half = 0.5 * 10 ** -len(mean.partition(".")[2]) + 1e-4
    assert float(mean) == pytest.approx(statistics.mean(values), abs=half), what
    if deviation:
        assert len(values) > 2, what
        assert float(deviation) == pytest.approx(statistics.stdev(values), abs=half), what
