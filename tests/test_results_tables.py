"""The tables of the pages of results say what the records of tables say (`results/table.jsonl`)."""

import re
from pathlib import Path

import pytest
from support.results_pages import PAGES, ROOT, Record, Row, read, require_equal, rows_with, tables

from dgm_jax.config import best, preset
from dgm_jax.memory import demos
from dgm_jax.methods import METHODS
from dgm_jax.reporting.published import PUBLISHED

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
    cell, rows = next(iter(row.values())), measured()
    method = cell if (data, cell, row["reading"]) in rows else cell.partition(":")[0]  # An ablation has a colon.
    record = rows[data, method, row["reading"]]
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


def test_what_the_first_page_says_around_its_table():
    """The paper's numbers beside ours of the same reading, the epochs of both, and what it counts."""
    page = " ".join((ROOT / "README.md").read_text().split())
    epochs = [
        best("dgma", side=28, channels=1, per_class=6000, classes=10),
        best("dgmw", side=32, channels=3, per_class=5000, classes=10),
    ]
    found = re.search(
        r"The paper has (\S+) \(MNIST, (\d+) epochs a task\) and (\S+) \(CIFAR-10\) .* "
        r"ours has (\S+) \((\d+) epochs\) and (\S+) \((\d+)\)",
        page,
    )
    assert found
    published, ours, lengths = (found.group(1, 3), found.group(4, 6), found.group(2, 5, 7))
    for cell, data, method in zip(published, ("mnist", "cifar10"), ("dgma", "dgmw")):
        require_equal(cell, [PUBLISHED[data, method][1]], data)
    for cell, data, method in zip(ours, ("mnist", "cifar10"), ("dgma", "dgmw")):
        require_equal(cell, [100 * measured()[data, method, "auxiliary"]["A_final"]], data)
    assert [int(n) for n in lengths] == [
        preset("paper-mnist").gan.epochs,
        *(config.gan.epochs for config in epochs),
    ]
    assert len(METHODS) == 12 and "eleven other methods" in page
    assert (
        "from 500 images each" in page
        and "--train-per-class 500" in Path(demos.__file__).with_name("demos.txt").read_text()
    )
    assert "a hundred kills" in page and sum(record["kills"] for record in read("kills") if "note" not in record) == 100
