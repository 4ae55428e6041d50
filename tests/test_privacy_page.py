"""The page on privacy says what the records in `results/privacy.jsonl` say."""

import re
import statistics

import pytest
from support.results_pages import ROOT, Record, numbers, read, require_equal, rows_with

PAGE = ROOT / "docs" / "privacy.md"
TEXT = " ".join(PAGE.read_text().split())
RUNS = {(record["data"], record["method"]): record for record in read("privacy") if record["what"] == "runs"}
SUMS = {record["rows"][0]["features"]: record for record in read("privacy") if record["what"] == "sums"}

# What is attacked, as the page names it -> method, place in its record, and name there.
ATTACKED = {
    "classifier of joint training": ("joint", "attacks", "joint"),
    "consolidated classifier": ("dgm", "attacks", "consolidated"),
    "auxiliary classifier": ("dgm", "attacks", "auxiliary"),
    "auxiliary classifier, newest class": ("dgm", "attacks_on_newest_class", "auxiliary"),
    "drawn images": ("dgm", "attacks", "drawn"),
}
ATTACKS = {"by its value": "value", "calibrated": "calibrated", "LiRA": "likelihood ratio"}
OF_RUNS = rows_with(PAGE, "attacked", "AUC, LiRA")


@pytest.mark.parametrize("row", OF_RUNS, ids=lambda row: f"{row['data']} {row['attacked']}")
def test_a_row_says_what_attacks_on_runs_found(row):
    method, place, name = ATTACKED[row["attacked"]]
    found = RUNS[row["data"], method][place][name]
    columns = {what: cell for what, cell in row.items() if what not in ("data", "attacked")}
    assert len(columns) == 5
    for what, cell in columns.items():
        measure, _, attack = what.partition(", ")
        values = found[ATTACKS[attack]][{"AUC": "auroc", "found": "true_positives"}[measure]]
        assert "±" in cell and len(values) == 16
        require_equal(cell, [100 * value for value in values], what)


def test_every_record_of_runs_is_on_the_page():
    expected = {(data, name) for data, method in RUNS for name, of in ATTACKED.items() if of[0] == method}
    assert {(row["data"], row["attacked"]) for row in OF_RUNS} == expected


OF_SUMS = rows_with(PAGE, "sums of", "images / features")


def row_of_sums(row: dict[str, str]) -> Record:
    (features,), (images,) = numbers(row["features"]), numbers(row["images"])
    found = [own for own in SUMS[features]["rows"] if (own["sums"], own["images"]) == (row["sums of"], images)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    "row", OF_SUMS, ids=lambda row: f"{row['sums of']} {row['features']} features {row['images']} images"
)
def test_a_row_says_what_attacks_on_sums_found(row):
    found = row_of_sums(row)
    require_equal(row["images / features"], [found["images"] / found["features"]], "ratio")
    for measure, name in (("AUC", "auroc"), ("found", "true_positives")):
        for column, attack in (
            ("leverage", "leverage"),
            ("200", "ratio, 200 reference images a class"),
            ("1,600", "ratio, 1600 reference images a class"),
        ):
            cell = row[f"{measure}, {column}"]
            require_equal(cell, [100 * statistics.mean(found[name][attack])], f"{measure} {column}")


def test_rows_that_are_not_on_the_page_are_as_it_says():
    for features, record in SUMS.items():
        stated = [row_of_sums(row) for row in OF_SUMS if numbers(row["features"]) == [features]]
        left_out = [row for row in record["rows"] if row not in stated]
        assert all(row["images"] < features for row in left_out) and len(stated) > len(left_out) > 0
        for row in left_out:
            for found in (*row["auroc"].values(), *row["true_positives"].values()):
                assert min(found) > 0.999
    assert len(SUMS) == 2


def said(pattern: str) -> list[float]:
    """The numbers of a sentence of the page, whose pattern has a group for each."""
    found = re.search(pattern, TEXT)
    assert found, pattern
    return [float(number.replace(",", "")) for number in found.groups()]


DGM, JOINT = RUNS["cifar10", "dgm"], RUNS["cifar10", "joint"]


def test_what_the_page_says_of_the_runs():
    for record in (DGM, JOINT):
        assert said(r"(\d+) runs each learn a random half of the same (\d+) images of CIFAR-10 \(five classes") == [
            record["count"],
            record["classes"] * record["train_per_class"],
        ]
        assert said(r"8×8 pixels\): (\d+) members and (\d+) others") == [record["members"], record["others"]]
        assert record["settings"]["image_size"] == 8 and record["classes"] == 5
    assert said(r"the (\d+) others serve") == said(r"two means, of (\d+) runs") == [DGM["count"] - 1]
    assert said(r"the nearest of ([\d,]+) drawn images") == [DGM["draws"]]
    assert said(r"the drawn images of (\d+) of (\d+) classes are nearer") == [DGM["nearer"], DGM["compared"]]
    assert said(r"With (\d+) members of it a run") == [DGM["train_per_class"] / 2]
    by_chance = (int(0.01 * DGM["others"]) + 1) / (DGM["others"] + 1)
    assert said(r"and ([\d.]+) % found\)") == [round(100 * by_chance, 1)]
    assert said(r"seeds are 0 to (\d+)") == [DGM["count"] - 1]


@pytest.mark.parametrize(
    ("record", "name", "sentence"),
    [
        (JOINT, "joint", r"joint training is right for ([\d.]+) % of its members and ([\d.]+) % of the others"),
        (DGM, "consolidated", r"classifier is right for ([\d.]+) % of the members and ([\d.]+) % of the others"),
    ],
)
def test_how_often_classifiers_are_right(record, name, sentence):
    shares = [100 * statistics.mean(column) for column in zip(*record["accuracy"][name], strict=True)]
    assert said(sentence) == [round(share, 1) for share in shares]


def test_the_page_draws_the_conclusions_of_the_records():
    """LiRA finds joint training's members and nothing in DGM's runs; what is calibrated is above chance for all."""
    for name in ("consolidated", "auxiliary", "drawn"):
        areas = {attack: found["auroc"] for attack, found in DGM["attacks"][name].items()}
        assert statistics.mean(areas["calibrated"]) > 0.5 + 3 * statistics.stdev(areas["calibrated"]) / 4, name
        assert (
            abs(statistics.mean(areas["likelihood ratio"]) - 0.5) < 3 * statistics.stdev(areas["likelihood ratio"]) / 4
        )
    assert statistics.mean(JOINT["attacks"]["joint"]["likelihood ratio"]["auroc"]) > 0.7
    for record in SUMS.values():
        for row in record["rows"]:
            if row["images"] <= row["features"]:
                assert min(row["auroc"]["leverage"] + row["true_positives"]["leverage"]) > 0.999


def test_what_the_page_says_of_sums():
    (row,) = [row for row in SUMS[800]["rows"] if row["images"] == 40000]
    (share,) = row["true_positives"]["ratio, 1600 reference images a class"]
    assert said(r"of ([\d,]+) images in (\d+) features, (\d+) % are found") == [40000, 800, round(100 * share)]
    (whole,) = [r for r in SUMS[800]["rows"] if (r["sums"], r["images"]) == ("one class", 800)]
    assert said(r"One class of (\d+) images has no secrets") == [800]
    assert whole["true_positives"]["leverage"] == pytest.approx([1.0] * 10, abs=1e-3)
    for record in SUMS.values():
        assert said(r"learnt images, (\d+) others a class, and ([\d,]+) reference images") == [record["others"], 1600]
        assert said(r"ratio with (\d+) or ([\d,]+) reference images a class") == record["references"]
        assert record["seed"] == 0 and said(r"Up to (\d+) learnt images of a class") == [record["others"]]
        fewest = min(row["members"] for row in record["rows"] if row["sums"] == "all classes")
        assert said(r"all classes is at most ([\d.]+) points") == [round(50 / fewest**0.5, 1)]  # sqrt(A (1 - A) / n)
    small = next(row for row in SUMS[200]["rows"] if row["sums"] == "one class" and row["images"] > 200)
    ratio, plain = (small["auroc"][name] for name in ("ratio, 200 reference images a class", "leverage"))
    assert statistics.mean(ratio) < statistics.mean(plain)
