"""The numbers of the table by hand, and the files that it writes."""

import csv
import json

import numpy as np
import pytest
from support import tables

from dgm_jax.metrics.intervals import Answers, difference, interval
from dgm_jax.reporting.table import markdown, summarised, write
from dgm_jax.reporting.table_figures import figures

RESULTS = [
    tables.result("dgma", summary=tables.summary(final=0.98), quality=tables.QUALITY),
    tables.result("dgma", 1, summary=tables.summary(1, final=0.99)),
    tables.result("dgma", 2, error="NotFinite: a loss became nan"),
    tables.result("mergan", summary=tables.summary(final=0.6, readings=("classifier",)), quality=tables.QUALITY),
    tables.result("dgmw", summary=tables.summary(final=0.97, config={"epochs": 5}), not_measured="not run yet"),
    tables.result("dgr", error="not run yet"),
]


def _answers(seed, right, n=50):
    """Of two classes with n images each, `right` of all are right; which ones depends on the seed."""
    values = np.random.default_rng(seed).permutation(2 * n) < right
    return {"consolidated": Answers("mnist", {0: values[:n].astype(np.uint8), 1: values[n:].astype(np.uint8)})}


def test_rows_by_hand():
    rows = summarised(RESULTS)
    assert [(row["method"], row.get("reading")) for row in rows] == [
        ("dgma", "consolidated"),
        ("dgma", "auxiliary"),
        ("mergan", "classifier"),
        ("dgmw", "consolidated"),
        ("dgmw", "auxiliary"),
        ("dgr", None),
    ]
    dgma = rows[0]
    assert dgma["A_final"] == pytest.approx(0.985) and dgma["A_final_sd"] == pytest.approx(np.std([0.98, 0.99], ddof=1))
    assert dgma["A_half"] == pytest.approx(1.035)  # As made up above.
    assert dgma["minutes"] == 2 and dgma["seeds"] == "0 1"
    assert dgma["worth_images"] == 781  # 50 000 bytes by 64 bytes an image.
    assert (dgma["epochs"], dgma["train_images"], dgma["test_images"]) == (101, 60_000, 200)
    assert dgma["backward_transfer"] == -0.125 and dgma["A_final_micro"] == pytest.approx(0.985)
    assert dgma["generated_sample_accuracy"] == 0.75 and rows[1]["generated_sample_accuracy"] is None
    assert dgma["judge_accuracy"] == 0.99
    assert dgma["failures"] == "seed 2: NotFinite: a loss became nan"
    assert dgma["published_A_final"] == 97.92 == rows[1]["published_A_final"]  # The paper's is the auxiliary one.
    assert rows[3]["unjudged"] == "seed 0: not run yet"
    assert rows[5] == rows[5] | {"method": "dgr", "failures": "seed 0: not run yet"}


def test_what_is_written(tmp_path):
    write(RESULTS, tmp_path, command="python -m experiments.table")
    text = (tmp_path / "table.md").read_text()
    assert "| mnist | dgma | consolidated | 103.5 ± 0.7 | 98.5 ± 0.7 |" in text
    assert "| 101, – | 60,000 |" in text and "| 5, – | 60,000 |" in text
    steps = {"consolidation_steps": 800, "epochs": 7}
    joint = tables.summary(readings=("classifier",), method="joint", config=steps)
    row = summarised([tables.result("joint", summary=joint)])[0]
    assert "| –, 800 | 60,000 |" in markdown([row], [], "")  # It has steps, no epochs.
    assert "| dgr | no result: seed 0: not run yet |" in text and "0 1 (no result: seed 2: NotFinite" in text
    assert "- mnist, *dgmw*: its images are not measured, seed 0: not run yet." in text
    assert "- Published numbers of *mergan*: most likely of generated images" in text
    assert "strict" in text and "![mnist.png](mnist.png)" in text
    lengths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(lengths) == 1
    assert (tmp_path / "mnist.png").stat().st_size > 10_000
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and float(rows[0]["A_final"]) == pytest.approx(0.985)
    assert json.loads((tmp_path / "table.json").read_text())["rows"][2]["method"] == "mergan"


def test_a_column_without_anything_is_left_out_with_its_legend():
    """Of a method without a generator and without published numbers, the table has what it has."""
    row = summarised([tables.result("er", summary=tables.summary(readings=("classifier",), method="er"))])[0]
    text = markdown([row], [], "")
    header = next(line for line in text.splitlines() if line.startswith("| data"))
    assert "| A_final | forgetting | memory, kB |" in header and "Device: 1 x cpu." in text
    assert not any(name in text for name in ("Frechet", "task known", "Generated", "/ joint", "Published"))
    errors = {0: "not run yet", 1: "a loss became nan", 2: "not run yet"}
    failed = markdown(summarised([tables.result("er", seed, error=error) for seed, error in errors.items()]), [], "")
    assert "| published |" in failed and "Device" not in failed
    assert "| er | no result: seeds 0, 2: not run yet; seed 1: a loss became nan |" in failed


def test_measures_beside_joint_by_hand():
    """The share is of the ceiling with the same seed; forward transfer needs joint, and tasks of several classes."""
    pairs = {"tasks": [[2 * t, 2 * t + 1] for t in range(5)], "confusion": {}}

    def known(*learnt):
        return {"task_known": {"classifier": {"A_t": [0.5, 0.75], "just_learnt": [*learnt, *[None] * 6]}}} | pairs

    averages = {"average_incremental": {"classifier": {"from_1": 0.5, "from_2": None}}}
    one = {"readings": ("classifier",), "method": "er", "confusion": {"classifier": [[1]]}}
    results = [
        tables.result("er", 0, summary=tables.summary(0, 0.6, **known(1, 1, 0.5, 0.75) | averages | one)),
        tables.result("er", 1, summary=tables.summary(1, 0.4, **known(1, 1, 0.5, 0.75) | averages | one)),
        tables.result("joint", 0, summary=tables.summary(0, 0.8, **known(0, 0, 0.75, 1) | one | {"method": "joint"})),
        tables.result("joint", 5, summary=tables.summary(5, 0.4, **known(0, 0, 0.75, 1) | one | {"method": "joint"})),
    ]
    at_once = known(0, 0, 0.75, 1) | one | {"method": "joint", "tasks": [list(range(10))]}
    ceilings = [
        tables.result("ceiling", seed, summary=tables.summary(seed, accuracy, **at_once))
        for seed, accuracy in ((0, 0.8), (5, 0.4))
    ]
    er, joint, ceiling = summarised(results + ceilings)
    assert er["A_final_by_joint"] == pytest.approx((0.6 / 0.8 + 0.4 / 0.6) / 2) and ceiling["A_final_by_joint"] == 1
    assert er["forward_transfer"] == pytest.approx(-0.25) and joint["forward_transfer"] == 0
    assert ceiling["forward_transfer"] is None
    assert er["task_known"] == 0.75 and er["average_incremental"] == 0.5 and er["average_incremental_from_2"] is None
    assert summarised(results)[0]["A_final_by_joint"] is None
    text = markdown([er, joint], [], "")
    assert "| 50.0 ± 14.1 | 50.0 ± 0.0; – | 0.71 |" in text and "| 75.0 ± 0.0 | -25.0 |" in text


def test_a_ceiling_takes_the_place_of_joint(tmp_path):
    """All classes in one task: it has no half, no mean over tasks and, in the figure, no curve."""
    one = {"readings": ("classifier",), "confusion": {"classifier": [[1]]}}
    averages = {"average_incremental": {"classifier": {"from_1": 0.5, "from_2": 0.4}}}
    at_once = {"tasks": [[*range(10)]], "averages": {10: {"classifier": {"macro": 0.8, "micro": 0.8}}}, "capacity": []}
    results = [
        tables.result("ceiling", summary=tables.summary(method="joint", finished_tasks=1, **at_once | averages | one)),
        tables.result("joint", summary=tables.summary(0, 0.6, **one | averages | {"method": "joint"})),
    ]
    write(results, tmp_path, command="")
    ceiling, joint = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (ceiling["A_final_by_joint"], joint["A_final_by_joint"]) == (1, pytest.approx(0.75))
    assert (ceiling["A_half"], ceiling["average_incremental"], ceiling["A_final"]) == (None, None, 0.8)
    assert joint["A_half"] and joint["average_incremental"] == 0.5
    assert "| – / 99.24✗ |" in (tmp_path / "table.md").read_text()  # The paper's joint training.


def test_intervals_and_pairs(tmp_path):
    """An interval where each run says what it has right; pairs on common seeds; both from three seeds on."""
    right = {"dgma": {0: 90, 1: 92, 2: 91, 3: 90}, "dgmw": {0: 89, 1: 90, 2: 93}, "er": {0: 60, 1: 62, 2: 61}}
    answers = {method: {seed: _answers(seed, n) for seed, n in of.items()} for method, of in right.items()}
    results = [
        tables.result(method, seed, summary=tables.summary(seed, right[method][seed] / 100), answers=own)
        for method, of in answers.items()
        for seed, own in of.items()
    ] + [tables.result("joint", 0, summary=tables.summary(0, 0.9))]  # Of an earlier version.
    write(results, tmp_path, command="")
    table = json.loads((tmp_path / "table.json").read_text())
    rows = {row["method"]: row for row in table["rows"] if row["reading"] == "consolidated"}
    own = {m: {seed: of["consolidated"] for seed, of in runs.items()} for m, runs in answers.items()}
    found = interval(list(own["dgma"].values()))
    assert (rows["dgma"]["A_final_low"], rows["dgma"]["A_final_high"]) == (found.low, found.high)
    assert rows["joint"]["A_final_low"] is None
    by_pair = {(pair["method"], pair["other"]): pair for pair in table["differences"]}
    assert list(by_pair) == [("dgma", "dgmw"), ("dgma", "er"), ("dgmw", "er")]
    pair, expected = by_pair["dgma", "er"], difference(own["dgma"], own["er"])
    assert (pair["difference"], pair["low"], pair["high"], pair["seeds"]) == (
        expected.mean,
        expected.low,
        expected.high,
        3,
    )
    assert pair["different"] and not by_pair["dgma", "dgmw"]["different"]
    text = (tmp_path / "table.md").read_text()
    assert f" [{100 * found.low:.1f}, {100 * found.high:.1f}] |" in text
    first, second = [line for line in text.splitlines() if line.startswith("  - *dgm")]  # Not each with each.
    assert first.startswith("  - *dgma* – *dgmw*: ") and first.endswith("], no difference shown")
    assert second.startswith("  - *dgmw* – *er*: ") and second.endswith("], different")
    two = [result for result in results if result.seed < 2]
    write(two, tmp_path, command="")
    table = json.loads((tmp_path / "table.json").read_text())
    assert not table["differences"] and all(row["A_final_low"] is None for row in table["rows"])


def test_seeds_of_different_precision_are_named():
    """A GPU chooses another one than a CPU; the first runs had no such setting."""
    settings = [{"epochs": 101}, {"epochs": 101, "precision": "tf32"}]
    results = [
        tables.result("dgma", seed, summary=tables.summary(seed, config=config)) for seed, config in enumerate(settings)
    ]
    note = "- mnist, *dgma*: its seeds differ in precision, seed 0: float32; seed 1: tf32."
    assert note in markdown(summarised(results), [], "")
    assert "differ in precision" not in markdown(summarised(results[:1]), [], "")


@pytest.mark.parametrize(
    "method, changes, marked",
    [
        ("dgma", {"final": 0.98}, "99.17✓ / 97.92✓"),
        ("dgmw", {"final": 0.96}, "98.75✓ / 96.46✗"),
        ("dgmw", {"final": 0.9}, "98.75✗ / 96.46✗"),
        ("dgmw", {"final": 0.99, "config": {"epochs": 100}}, "98.75 / 96.46 (context: a shorter run)"),
        (
            "dgmw",
            {"final": 0.99, "bytes": {"memory": {"total": 1}, "images_replaced": 640, "image_count": 10}},
            "98.75 / 96.46 (context: a shorter run)",
        ),
        # The same measure as published, of generated images: 75 %, whatever its classifier says of real ones.
        ("mergan", {"final": 0.99, "readings": ("classifier",)}, "98.19 / 97.0✗ (generated)"),
    ],
)
def test_only_runs_of_full_length_are_marked_and_by_the_same_measure(method, changes, marked):
    row = summarised([tables.result(method, summary=tables.summary(**changes), quality=tables.QUALITY)])[0]
    assert f"| {marked} |" in markdown([row], [], "")


def test_published_numbers_stand_beside_what_was_published_and_say_how():
    """The paper has no sums of real images, and its numbers are of another protocol than `strict`."""
    readings = ("consolidated", "auxiliary", "analytic", "combined")
    rows = summarised([tables.result("dgmw", summary=tables.summary(readings=readings))])
    assert [row["published_A_final"] for row in rows] == [96.46, 96.46, None, None]
    assert "- Published numbers of *dgmw*: A of the discriminator's class head" in (text := markdown(rows, [], ""))
    assert "(protocol `paper`)." in text


def test_ablations_have_a_figure_of_their_own(tmp_path):
    results = [
        tables.result(f"{variant}: {change}", seed, summary=tables.summary(seed, final=final + seed / 100))
        for variant in ("dgma", "dgmw")
        for change, final in (("as it is", 0.9), ("no re-use", 0.8))
        for seed in (0, 1)
    ] + [tables.result("dgma: no masks", error="not run yet")]
    write(results, tmp_path, command="", ablations=True)
    assert (tmp_path / "mnist-ablations.png").stat().st_size > 10_000
    assert not (tmp_path / "mnist.png").exists()
    assert "| dgma: no masks | no result: seed 0: not run yet |" in (tmp_path / "table.md").read_text()


def test_panels_of_generators_are_drawn_only_where_there_is_one(tmp_path, monkeypatch):
    drawn = {}

    def keep_titles(figure, path, **_):
        drawn[path.name] = [axis.get_title() for axis in figure.axes]

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", keep_titles)
    er = {"readings": ("classifier",), "method": "er", "capacity": []}
    figures({"mnist": {"er": [tables.summary(**er)]}}, tmp_path)
    assert drawn["mnist.png"] == ["accuracy over all classes seen"]
    figures({"mnist": {"er": [tables.summary(seed, **er) for seed in (0, 1)], "dgma": [tables.summary()]}}, tmp_path)
    accuracy, size, reuse = drawn["mnist.png"]
    assert accuracy.endswith("bands: ± one standard deviation") and size == "size of the generator"


def test_dgm_is_compared_by_both_of_its_readings(tmp_path):
    """So that a table says whether the combined one is different from sums of as many bytes."""
    readings = ("consolidated", "combined")
    results = [
        tables.result(
            "dgma", seed, summary=tables.summary(seed, readings=readings), answers=dict.fromkeys(readings, own)
        )
        for seed in (0, 1, 2)
        if (own := _answers(seed, 90)["consolidated"])
    ] + [
        tables.result("analytic", seed, summary=tables.summary(seed, readings=("analytic",)), answers={"analytic": own})
        for seed in (0, 1, 2)
        if (own := _answers(seed, 80)["consolidated"])
    ]
    write(results, tmp_path, command="")
    pairs = json.loads((tmp_path / "table.json").read_text())["differences"]
    assert ("dgma, combined", "analytic") in {(pair["method"], pair["other"]) for pair in pairs}
