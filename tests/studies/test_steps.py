"""Steps are doubled until two doublings in a row gain little; no test image is read."""

import pytest

from benchmarks import records
from studies import choosing, steps


@pytest.mark.parametrize(
    ("accuracies", "stopped"),
    [
        ([0.5], False),
        ([0.5, 0.501], False),
        ([0.5, 0.501, 0.5], True),
        ([0.5, 0.6, 0.601], False),
        ([0.5, 0.501, 0.51], False),  # One small gain is not two.
        ([0.6, 0.5, 0.49], True),
        ([0.5, 0.5, 0.51, 0.511, 0.512], True),
    ],
)
def test_it_stops_after_two_small_gains_in_a_row(accuracies, stopped):
    assert steps.has_stopped(accuracies) == stopped


def test_steps_are_doubled_from_the_first_number_and_nothing_is_measured_twice(tmp_path, monkeypatch):
    asked = []

    def learn(config, dataset, seeds, *, classes_per_task):
        assert config.method == "joint" and classes_per_task == 3 and "held out" in dataset.name
        asked.append((config.consolidation.consolidation_flip, config.consolidation.consolidation_steps))
        return {"accuracy": {"classifier": [{10: 0.5, 20: 0.6, 40: 0.601, 80: 0.6}[asked[-1][1]]]}}

    monkeypatch.setattr(choosing, "learn", learn)
    file = tmp_path / "steps.jsonl"
    argv = ["digits", "--tasks", "3", "--first", "10", "--try", "consolidation_flip=true", "--out", str(file)]
    assert steps.main(argv) == 0
    assert asked == [(flip, n) for flip in (False, True) for n in (10, 20, 40, 80)]
    assert [record["change"] for record in records.read(file)][-1] == "consolidation_flip=true,consolidation_steps=80"
    steps.main(argv)
    assert len(asked) == 8
