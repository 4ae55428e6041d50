"""Orders and groups of classes: each is learnt as said, and measured once."""

import json

import helpers
import pytest
from helpers import compiled_once  # noqa: F401

from benchmarks import streams
from dgm_jax import data
from dgm_jax.config import PRESETS
from dgm_jax.errors import UserError

CONFIG = helpers.small(image_size=8, epochs=1)


def test_the_first_order_is_the_natural_one_and_all_differ():
    dataset = data.load("digits")
    orders = [streams.order(dataset, number) for number in range(4)]
    assert orders[0] == list(range(10))
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders == [streams.order(dataset, number) for number in range(4)]


@pytest.fixture
def learnt(monkeypatch):
    """The tasks of every stream that is learnt, by name."""
    seen = []
    whole = streams.judge

    def judge(config, dataset, seeds, **stream):
        made = data.class_incremental(dataset, **stream)
        seen.append((config.gates.variant, seeds, [tuple(made.classes[i] for i in task) for task in made.tasks]))
        return whole(config, dataset, seeds, **stream)

    monkeypatch.setattr(streams, "judge", judge)
    return seen


def test_each_grouping_is_learnt_in_each_order_once(tmp_path, monkeypatch, learnt):
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG})
    monkeypatch.setattr(streams.data, "load", lambda name, folder: DIGITS.of_classes((0, 1, 2, 3)))
    file = tmp_path / "orders.json"
    argv = ["digits", "--preset", "digits", "--variants", "dgma", "--train-per-class", "40", "--groups", "2,4"]
    argv += ["--orders", "2", "--out", str(file)]
    streams.main(argv)
    other = streams.order(DIGITS.of_classes((0, 1, 2, 3)), 1)
    assert learnt == [
        ("dgma", [0], [(0, 1), (2, 3)]),
        ("dgma", [1], [tuple(other[:2]), tuple(other[2:])]),
        ("dgma", [0], [(0, 1, 2, 3)]),
        ("dgma", [1], [tuple(other)]),
    ]
    results = json.loads(file.read_text())
    assert [(entry["group"], entry["classes"]) for entry in results] == [(2, 4), (4, 4)]
    for entry, tasks in zip(results, (2, 1), strict=True):
        assert all(0 <= value <= 1 for value in entry["accuracy"]) and len(entry["accuracy"]) == 2
        assert {name: [len(own) for own in values] for name, values in entry["by_task"].items()} == dict.fromkeys(
            ("kB", "accuracy", "seconds"), [tasks, tasks]
        )
        assert [own[-1] for own in entry["by_task"]["accuracy"]] == entry["accuracy"]
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    streams.main(argv)
    assert len(learnt) == 4


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--groups", "2,3"], "do not split into tasks of 3 each"),
        (["--base", "gate_position=before_norm"], "gate_position='before_norm' is for dgma"),
    ],
)
def test_mistakes_are_found_before_anything_is_learnt(argv, said, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "digits", {v: helpers.small(v, image_size=8) for v in ("dgma", "dgmw")})
    monkeypatch.setattr(streams, "judge", lambda *_, **__: pytest.fail("learnt"))
    with pytest.raises(UserError, match=said):
        streams.main(["digits", "--preset", "digits", *argv, "--out", str(tmp_path / "orders.json")])


def test_a_joined_stream_has_the_classes_of_all(tmp_path, monkeypatch):
    other = data.from_arrays(DIGITS.x_train, DIGITS.y_train, DIGITS.x_test, DIGITS.y_test, name="others")
    monkeypatch.setattr(streams.data, "load", lambda name, folder: {"digits": DIGITS, "others": other}[name])
    dataset = streams._load(["digits"], tmp_path, 16)
    assert len(dataset.labels) == 10 and dataset.x_train.shape[1:] == (16, 16, 1)
    assert len(streams._load(["digits", "others"], tmp_path, 16).labels) == 20
    with pytest.raises(data.DataError, match="digits, digits: expected two or more different data sets"):
        streams._load(["digits", "digits"], tmp_path, 16)


DIGITS = data.load("digits")
