"""The benchmark of stock Flax networks at a tiny size, through its command line."""

import jax
import pytest

from benchmarks import flax_conv, records
from dgm_jax.errors import UserError


@pytest.fixture
def compiled_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_size_is_measured_and_written(compiled_fast, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(flax_conv, "SIZES", (flax_conv.Size("tiny", (2, 4, 4, 1), (2,), 3, 2),))
    monkeypatch.setattr(flax_conv, "SECONDS", 0.01)
    file = tmp_path / "flax_conv.jsonl"
    flax_conv.main(out=file)
    rows = records.read(file)
    assert [(row["size"], row["loss"]) for row in rows] == [
        ("tiny", "cross-entropy"),
        ("tiny", "with gradient penalty"),
    ]
    for row in rows:
        assert row["images"] == [2, 4, 4, 1] and row["channels"] == [2] and (row["window"], row["stride"]) == (3, 2)
        assert min(row["ratio"], row["ratio_in_scan"], *row["milliseconds"].values()) > 0
        assert row["loss_difference"] < 1e-6 and row["rounds"] >= 3 and row["machine"]["cores"] > 0
    assert capsys.readouterr().out.count("tiny") == 2


def test_an_unknown_size_is_refused():
    with pytest.raises(UserError, match="--sizes huge: unknown; choose from small, middle, wide"):
        flax_conv.main(sizes=["huge"])
