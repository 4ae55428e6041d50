"""A file of records has one line for each, in order."""

from benchmarks import records


def test_records_are_added_as_lines(tmp_path):
    file = tmp_path / "runs.jsonl"
    assert records.read(file) == []
    first = {"run": "digits", "accuracy": [0.5, 0.25], "note": "Jähnichen"}
    records.append(file, first)
    records.append(file, {"run": "mnist"})
    assert records.read(file) == [first, {"run": "mnist"}]
    assert len(file.read_text().splitlines()) == 2
