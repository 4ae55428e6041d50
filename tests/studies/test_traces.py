"""Traces of a forgotten class: what is measured, on tiny memories; and the page says what the records say."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from support import small_runs
from support.results_pages import ROOT, numbers, read, require_equal, rows_with

from benchmarks import records
from dgm_jax.errors import UserError
from dgm_jax.memory.forgetting import without_classes
from studies import traces

ARGV = ["digits", "--variant", "dgmw", "--classes", "0", "1", "2", "--forgotten", "1", "--other", "3", "--seeds", "0"]


@pytest.fixture(scope="module")
def forgotten():
    """A memory that learnt three classes and forgot the second."""
    return without_classes(small_runs.finished(small_runs.small("dgmw", image_size=8)).memories[-1], [1])


def test_kinds_learn_what_they_say_with_seeds_of_their_own():
    cases = [traces.Case((0, 1, 2), 1, 7, kind, seed) for seed in (0, 1) for kind in traces.KINDS]
    assert [case.learnt for case in cases[:3]] == [[0, 1, 2], [0, 7, 2], [0, 2]]
    assert len({case.run_seed for case in cases}) == len(cases)


def test_ways_of_drawing(forgotten):
    """As learnt is what the memory draws; other ways draw with the weights and the entry of the noise that they say."""
    key, n = jax.random.key(0), traces._DRAWN
    found = {way: traces.drawn(forgotten, way, key) for way in traces.WAYS}
    assert all(
        images.shape == (2 * traces._BATCHES * n, 8, 8, 1) and images.dtype == np.uint8 for images in found.values()
    )
    assert np.array_equal(found["as learnt"][:n], forgotten.images(0, n, jax.random.fold_in(key, 0)))
    assert len({images.tobytes() for images in found.values()}) == len(traces.WAYS)
    # Weights from the entry of the forgotten class, number 1: they change what is drawn with it, and nothing else.
    row = [kernel.copy() for kernel in forgotten.kernels]
    row[0][:, :, 1] += 1
    other = replace(forgotten, kernels=row)
    for way, images in found.items():
        assert np.array_equal(images, traces.drawn(other, way, key)) == ("entry" not in way), way
    # All gates are open that any class opens, and no others.
    closed = [
        np.where(reserved, kernel, 9) for reserved, kernel in zip(forgotten.reserved, forgotten.kernels, strict=True)
    ]
    other = replace(forgotten, kernels=closed)
    assert np.array_equal(found["all gates"], traces.drawn(other, "all gates", key))


def test_a_probe_finds_what_is_linear():
    random = np.random.default_rng(0)
    positive, negative = random.normal(0, 1, (5, 40)), random.normal(0, 1, (20, 40))
    positive[:, 3] += 8
    score = traces._probe(positive, negative)
    unseen = random.normal(0, 1, (200, 40))
    apart = unseen.copy()
    apart[:, 3] += 8
    assert traces.metrics.auroc(score(apart), score(unseen)) > 0.95


def test_intervals_of_few_values():
    """Where the interval begins, the value observed lies 1.96 deviations off; it covers as often as it should."""
    assert traces.auc_interval(0.5, 8, 8) == pytest.approx([0.25, 0.75], abs=0.02)
    low, high = traces.auc_interval(1.0, 8, 8)
    assert high == pytest.approx(1.0) and 0.7 < low < 0.85
    assert traces.auc_interval(0.0, 8, 8) == pytest.approx([1 - high, 1 - low], abs=1e-6)
    random, covered = np.random.default_rng(0), 0
    for _ in range(400):
        these, those = random.normal(1, 1, 8), random.normal(0, 1, 8)
        area = mannwhitneyu(these, those).statistic / 64
        low, high = traces.auc_interval(area, 8, 8)
        covered += low <= 0.760 <= high  # The AUC of two normal distributions a deviation apart.
    assert covered / 400 > 0.92


def test_epochs_to_learn_again():
    assert traces.epochs_to_learn({"relearnt": [0.1, 0.8, 0.7]}) == 2
    assert traces.epochs_to_learn({"relearnt": [0.1, 0.2, 0.7]}) == 4


def test_each_memory_is_a_record_and_none_is_measured_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(traces, "keep_programs", lambda: None)
    monkeypatch.setattr(traces, "preset", lambda name, variant: small_runs.small(variant, image_size=8))
    monkeypatch.setattr(traces, "_EPOCHS", 2)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # These few programs may stay.
    out = tmp_path / "traces.jsonl"
    argv = [*ARGV, "--runs", str(tmp_path / "runs"), "--out", str(out)]
    real = traces.data.load("digits").first_per_class(24)
    monkeypatch.setattr(traces.data, "load", lambda *_: real)
    with pytest.raises(UserError, match="other=2 none"):
        traces.main([*argv, "--other", "2"])
    assert traces.main(argv) == 0
    found = records.read(out)
    assert [(r["kind"], r["forgotten"], r["seed"]) for r in found] == [(kind, 1, 0) for kind in traces.KINDS]
    for record in found:
        assert len(record["relearnt"]) == 2 and set(record["share"]) == set(record["nearest"]) == set(traces.WAYS)
        assert record["probe"].keys() == {"classifier"} and 0 < record["probe"]["classifier"] <= 1
    assert traces.main(argv) == 0 and records.read(out) == found
    said = capsys.readouterr().out
    assert said.count("class 1 share, all gates") == 2 and "AUC" in said


# ---- The page ----

ROWS = rows_with(ROOT / "docs" / "forget.md", "statistic", "AUC against never")


def test_the_page_says_what_was_measured():
    measured, seen = read("traces"), set()
    assert {(r["forgotten"], r["kind"], r["seed"]) for r in measured} == {
        (label, kind, seed) for label in (0, 2) for kind in traces.KINDS for seed in range(4)
    }
    for row in ROWS:
        kinds = {
            k: [r for r in measured if (str(r["forgotten"]), r["kind"]) == (row["class"], k)] for k in traces.KINDS
        }
        statistic = next(s for s in traces.statistics_of(kinds["forgotten"][0]) if s.name == row["statistic"])
        columns = {"forgotten": "forgotten", "never": "never learnt", "other": "another forgotten"}
        for kind, column in columns.items():
            require_equal(row[column], [statistic.of(record) for record in kinds[kind]], f"{row} {column}")
        for kind, column in (("never", "AUC against never"), ("other", "AUC against another")):
            area, low, high = traces.told_apart(statistic, kinds["forgotten"], kinds[kind])
            assert row[column] == f"{area:.2f} [{low:.2f}, {high:.2f}]", f"{row} {column}"
        seen.add((row["class"], statistic.name))
    assert len(seen) == len(ROWS) == 2 * len(traces.statistics_of(measured[0]))


def test_what_the_page_concludes():
    """Only the size tells the forgotten class from one never learnt; three rows of class 2 are at the other end."""
    areas = {
        (row["class"], row["statistic"]): [numbers(row[f"AUC against {kind}"]) for kind in ("never", "another")]
        for row in ROWS
    }
    assert {key for key, (never, _) in areas.items() if never[1] > 0.5 or never[2] < 0.5} == {
        ("0", "weights"),
        ("2", "weights"),
    }
    at_the_end = {key for key, (_, other) in areas.items() if other[0] == 0}
    assert at_the_end == {
        ("2", name) for name in ("nearest, as learnt", "learnt again, mean share", "learnt again, epochs")
    }
    assert not [key for key, (_, other) in areas.items() if other[1] > 0.5]
    page = " ".join((ROOT / "docs" / "forget.md").read_text().split())
    low, high = traces.auc_interval(0.5, 4, 4)
    assert f"an AUC of 0.5 leaves {low:.2f} to {high:.2f} possible" in page
    assert f"2 of {math.comb(8, 4)} comparisons, and the table has {2 * len(ROWS)}" in page
