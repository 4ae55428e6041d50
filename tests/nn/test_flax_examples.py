"""Runs the examples of docs/flax.md as they stand there."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "flax.md"
NNX, LINEN, EQUINOX, HAIKU = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def run(example):
    names: dict = {}
    exec(compile(example, str(PAGE), "exec"), names)
    return names


def accuracies(printed):
    return [float(share) for share in re.findall(r"^([\d.]+)% on task", printed, flags=re.MULTILINE)]


def test_nnx_keeps_its_first_task_through_growth_and_learns_the_second_as_well_as_alone(capsys):
    names = run(NNX)
    first, again, second = accuracies(capsys.readouterr().out)
    assert first == again > 95
    assert names["before"].tobytes() == names["after"].tobytes()
    alone = names["Classifier"](names["widths"], names["nnx"].Rngs(2))
    names["test"](names["use"](alone, names["learn"](alone, task=1)), task=1)
    assert second >= accuracies(capsys.readouterr().out)[0] - 2
    used = [int(names["first"].masks[name].sum()) for name in ("conv1", "conv2", "dense")]
    grown = [n + u for n, u in zip(names["widths"], used, strict=True)]
    model = names["model"]
    assert [layer.kernel.shape[-1] for layer in (model.conv1, model.conv2, model.dense)] == grown
    assert all(0 < u < n for u, n in zip(used, names["widths"], strict=True))


def test_linen_keeps_its_first_task_and_learns_the_second_as_well_as_alone(capsys):
    names = run(LINEN)
    first, again, second = accuracies(capsys.readouterr().out)
    assert first == again > 95
    assert names["before"].tobytes() == names["after"].tobytes()
    start = names["net"].init(names["jax"].random.key(2), np.zeros((1, 8, 8, 1), np.float32), slope=None)
    names["test"](names["use"](*names["learn"](start, task=1)), task=1)
    assert second >= accuracies(capsys.readouterr().out)[0] - 2
    assert names["step"]._cache_size() == 2  # In a new TrainState the number of steps is a Python number.


def require(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; docs/flax.md names the version with which this was tried")


def test_equinox_keeps_its_first_task_and_learns_the_second_as_well_as_alone(capsys):
    require("equinox")
    names = run(EQUINOX)
    first, again, second = accuracies(capsys.readouterr().out)
    assert first == again > 95
    assert names["before"].tobytes() == names["after"].tobytes()
    closed = [np.zeros(names["width"], bool)] * 2
    alone = names["Classifier"](names["layers"], names["first"][1])
    alone, learnt, _ = names["learn"](alone, closed, task=1)
    names["test"](alone, learnt, task=1)
    assert second >= accuracies(capsys.readouterr().out)[0] - 2


def test_haiku_moves_only_free_weights():
    require("haiku")
    setup, _, step = HAIKU.rstrip().rpartition("\n")
    names = run(setup)
    before = [names["params"][name]["kernel"] for name in names["names"]]
    exec(step, names)
    blocked = names["nn"].reserved_weights(names["reserved"], before)
    for name, old, mask in zip(names["names"], before, blocked, strict=True):
        changed = np.asarray(names["params"][name]["kernel"]) != np.asarray(old)
        np.testing.assert_array_equal(changed, ~np.broadcast_to(mask, changed.shape))
