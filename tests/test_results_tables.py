"""The tables of the pages of results say what the records of tables say (`results/table.jsonl`)."""

import re
from pathlib import Path

import pytest
from support.results_pages import PAGES, ROOT, Record, Row, read, require_equal, rows_with, tables

_FIRST = "method on "  # The first header of such a table, before the name of the data in the command.
_PLAIN = {"average": "average_incremental", "forgetting": "forgetting", "auxiliary head": "A_final"}


def measured() -> dict[tuple[str, str, str], Record]:
    """The newest row of each data set, method and reading."""
    rows = [record for record in read("table") if "reading" in record]
    return {(row["data"], row["method"], row["reading"]): row for row in rows}


def stated() -> list[tuple[Path, str, Row]]:
    """Each row of each page, with the name of its data: in its table's first header, or in its first cell."""
    found = [
        (page, header.removeprefix(_FIRST), row)
        for page in sorted(PAGES.glob("*.md"))
        for table in tables(page)
        if table and (header := next(iter(table[0]))).startswith(_FIRST)
        for row in table
    ]
    page = ROOT / "README.md"
    return found + [(page, row.pop("data"), row) for row in rows_with(page, "data", "reading")]


ROWS = [
    pytest.param(data, row, id=f"{page.stem} {data} {next(iter(row.values()))} {row['reading']}")
    for page, data, row in stated()
]


@pytest.mark.parametrize("data, row", ROWS)
def test_a_row_says_what_was_measured(data, row):
    method = next(iter(row.values())).partition(":")[0]
    record = measured()[data, method, row["reading"]]
    accuracies = [what for what in row if re.fullmatch(r"A_(\d+|T)", what)]
    assert accuracies, row
    for what, field in zip(accuracies[::-1], ("A_final", "A_half")):
        mean, _, bounds = row[what].partition(" [")
        _require(mean, record, field, 100)
        if bounds:
            low, high = bounds.strip("]").split(", ")
            _require(low, record, "A_final_low", 100)
            _require(high, record, "A_final_high", 100)
    for what, field in _PLAIN.items():
        if what in row:
            _require(row[what], record, field, 100)
    for what, field, factor in (
        ("/ joint", "A_final_by_joint", 1),
        ("kB", "memory_bytes", 1e-3),
        ("minutes", "minutes", 1),
    ):
        if what in row:
            _require(row[what], record, field, factor)
    assert row["seeds"] == str(len(record["seeds"].split()))
    assert {*row} <= {next(iter(row)), "reading", "seeds", *accuracies, *_PLAIN, "/ joint", "kB", "minutes"}


def _require(cell: str, record: Record, field: str, factor: float) -> None:
    """Requires that a cell says the field's mean and, if it says one, its deviation over seeds."""
    if cell.strip("*") == "–":
        assert record.get(field) is None, (field, record)
        return
    mean, _, deviation = cell.partition(" ± ")
    require_equal(mean, [factor * record[field]], field)
    if deviation:
        require_equal(deviation, [factor * record[f"{field}_sd"]], field)


def test_the_pages_have_rows():
    assert len(ROWS) > 10
