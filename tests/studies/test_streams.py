"""Orders and groups of classes: each is learnt as asked for, and measured once."""

import pytest
from support import small_runs
from support.programs import compiled_once  # noqa: F401

from benchmarks import records
from dgm_jax import data
from dgm_jax.config import PRESETS
from dgm_jax.errors import UserError
from studies import streams

CONFIG = small_runs.small(image_size=8, epochs=1)


def test_the_first_order_is_the_natural_one_and_all_differ():
    dataset = data.load("digits")
    orders = [streams.class_order(dataset, number) for number in range(4)]
    assert orders[0] == list(range(10))
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders == [streams.class_order(dataset, number) for number in range(4)]


@pytest.fixture
def learnt(monkeypatch):
    """The tasks of every stream that is learnt, by name."""
    seen = []
    whole = streams.learn

    def learn(config, dataset, seeds, **stream):
        made = data.class_incremental(dataset, **stream)
        seen.append((config.gates.variant, seeds, [tuple(made.classes[i] for i in task) for task in made.tasks]))
        return whole(config, dataset, seeds, **stream)

    monkeypatch.setattr(streams, "learn", learn)
    return seen


def test_each_grouping_is_learnt_in_each_order_once(tmp_path, monkeypatch, learnt):
    monkeypatch.setitem(PRESETS, "digits", {"dgma": CONFIG})
    monkeypatch.setattr(streams.data, "load", lambda name, folder: DIGITS.of_classes((0, 1, 2, 3)))
    file = tmp_path / "streams.jsonl"
    argv = ["digits", "--preset", "digits", "--variants", "dgma", "--train-per-class", "40", "--groups", "2,4"]
    figure = tmp_path / "orders.png"
    argv += ["--orders", "2", "--out", str(file), "--figure", str(figure)]
    streams.main(argv)
    other = streams.class_order(DIGITS.of_classes((0, 1, 2, 3)), 1)
    assert learnt == [
        ("dgma", [0], [(0, 1), (2, 3)]),
        ("dgma", [1], [tuple(other[:2]), tuple(other[2:])]),
        ("dgma", [0], [(0, 1, 2, 3)]),
        ("dgma", [1], [tuple(other)]),
    ]
    results = records.read(file)
    assert [(entry["group"], entry["classes"]) for entry in results] == [(2, 4), (4, 4)]
    for entry, tasks in zip(results, (2, 1), strict=True):
        accuracy = entry["accuracy"]["consolidated"]
        assert all(0 <= value <= 1 for value in accuracy) and len(accuracy) == 2
        assert {name: [len(run) for run in values] for name, values in entry["by_task"].items()} == dict.fromkeys(
            ("kB", "accuracy", "seconds"), [tasks, tasks]
        )
        assert [run[-1] for run in entry["by_task"]["accuracy"]] == accuracy
    assert figure.read_bytes().startswith(b"\x89PNG")
    streams.main(argv)
    assert len(learnt) == 4


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--groups", "2,3"], "do not split into tasks of 3 each"),
        (["--base", "gate_position=before_norm"], "gate_position='before_norm' is for dgma"),
    ],
)
def test_mistakes_are_found_before_anything_is_learnt(argv, message, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "digits", {v: small_runs.small(v, image_size=8) for v in ("dgma", "dgmw")})
    monkeypatch.setattr(streams, "learn", lambda *_, **__: pytest.fail("learnt"))
    with pytest.raises(UserError, match=message):
        streams.main(["digits", "--preset", "digits", *argv, "--out", str(tmp_path / "streams.jsonl")])


def test_a_joined_stream_has_the_classes_of_all(tmp_path, monkeypatch):
    other = data.from_arrays(DIGITS.x_train, DIGITS.y_train, DIGITS.x_test, DIGITS.y_test, name="others")
    monkeypatch.setattr(streams.data, "load", lambda name, folder: {"digits": DIGITS, "others": other}[name])
    dataset = streams._load(["digits"], tmp_path, 16)
    assert len(dataset.labels) == 10 and dataset.x_train.shape[1:] == (16, 16, 1)
    assert len(streams._load(["digits", "others"], tmp_path, 16).labels) == 20
    with pytest.raises(data.DataError, match="digits, digits: expected two or more different data sets"):
        streams._load(["digits", "digits"], tmp_path, 16)


DIGITS = data.load("digits")
