"""What two runs left behind, compared bit for bit."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dgm_jax.runs import checkpoints
from support import small_runs


def assert_equal_trees(a: Any, b: Any) -> None:
    """Bit for bit, NaN and the sign of zero included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), (_, y) in zip(jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        name = jax.tree_util.keystr(path)
        assert (x.shape, x.dtype) == (y.shape, y.dtype), name
        assert x.tobytes() == y.tobytes(), f"{name} differs in {np.sum(x != y)} of {x.size} entries"


def flip_a_byte(workdir: Path) -> Path:
    """Damages the newest checkpoint: one bit of its largest file. Returns its folder."""
    folder = small_runs.newest(workdir).folder
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return folder


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def assert_same_results(a: Path, b: Path):
    """Everything two runs leave behind is equal bit for bit, but for their seconds."""
    first, second = small_runs.newest(a), small_runs.newest(b)
    assert checkpoints.position(first) == checkpoints.position(second)
    assert_equal_trees(first.tree, second.tree)
    assert first.metadata["memory"] == second.metadata["memory"]
    for name in ("accuracy_matrix.csv", "capacity.csv", "predictions.npz"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    configs = [json.loads((workdir / "config.json").read_text()) for workdir in (a, b)]
    for config in configs:
        config.pop("before", None)  # Settings that the run went on without.
    assert configs[0] == configs[1]
    assert lines(a) == lines(b)
    pictures = sorted(path.name for path in (a / "samples").iterdir())
    assert pictures == sorted(path.name for path in (b / "samples").iterdir())
    for name in pictures:
        assert (a / "samples" / name).read_bytes() == (b / "samples" / name).read_bytes()
    summaries = [json.loads((workdir / "summary.json").read_text()) for workdir in (a, b)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]
