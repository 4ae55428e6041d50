"""The page of several runs compares what can be compared, and averages what differs in the seed only."""

import json
from pathlib import Path

import pytest
from support import accessibility, small_runs
from support.page_tables import Tables

from dgm_jax import Learner
from dgm_jax.commands.main import main
from dgm_jax.errors import UserError
from dgm_jax.reporting import page as report
from dgm_jax.runs.seeds import intervals


@pytest.fixture(scope="module")
def run() -> Path:
    return small_runs.finished(small_runs.small("dgma")).workdir


@pytest.fixture(scope="module")
def baseline() -> Path:
    return small_runs.finished(small_runs.small("dgma", method="finetune", image_size=8)).workdir


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    """Runs of three seeds."""
    folder = tmp_path_factory.mktemp("several")
    config = small_runs.small("dgma", method="analytic", image_size=8, filters=4)
    Learner(config, devices=1).fit_seeds((2, 10, 11), [small_runs.stream(config)] * 3, folder)
    return folder


def test_side_by_side(run, baseline, tmp_path):
    out = tmp_path / "both.html"
    assert main(["report", str(run), str(baseline), "--out", str(out)]) == 0
    rows = Tables(out.read_text()).rows
    assert [row[0] for row in rows["accuracy"][1:]] == [run.name, baseline.name]
    summary = json.loads((baseline / "summary.json").read_text())
    assert rows["accuracy"][2][7] == f"{100 * summary['A_3']['classifier']['macro']:.1f}"
    assert "Means over seeds" not in out.read_text()
    assert ["method", "dgm", "finetune"] in rows["settings"]
    (scale,) = [row for row in rows["settings"] if row[0] == "scale_max"]
    assert scale[2] == "–"  # finetune does not read it.


def test_warns_of_what_cannot_be_compared(run):
    config = small_runs.small("dgmw", image_size=8, headroom=2)  # As in test_page.py.
    pairs = small_runs.finished(config, labels=small_runs.SIX, classes_per_task=2).workdir
    text = report.comparison([run, pairs])
    assert "These runs differ in data, tasks: compare with care" in text
    Tables(text)


def test_runs_of_other_classes_or_tasks_are_no_seeds_of_each_other(tmp_path):
    """All else is equal: data, settings, seed."""
    config = small_runs.small("dgma", method="analytic", image_size=8, filters=4)
    streams = ({}, {"names": (0, 1, 7)}, {"classes_per_task": (2, 1)})
    folders = [tmp_path / str(number) for number in range(len(streams))]
    for folder, stream in zip(folders, streams):
        small_runs.fit(config, folder, **stream)
    text = report.comparison(folders)
    assert "Means over seeds" not in text and "differ in data, tasks: compare with care" in text


def test_a_run_twice(run, tmp_path):
    with pytest.raises(UserError, match="the same run is named twice"):
        report.comparison([run, run / ".." / run.name])


def test_mean_and_spread_of_seeds(seeds, baseline, tmp_path):
    """Their folder stands for them; a run with other settings is none of them."""
    assert (seeds / "report.html").read_text() == report.comparison([seeds])
    text = report.comparison([seeds, baseline])
    means, runs = Tables(text).rows["accuracy"][:2], Tables(text).rows["accuracy"][3:]
    summary = json.loads((seeds / "summary.json").read_text())
    found = intervals(seeds, summary["seeds"])
    assert [row[3] for row in means[1:]] == ["analytic"] and "band reaches one standard deviation" in text
    assert means[1][0] == seeds.name and means[1][4] == "2, 10, 11"
    of = summary["A_3"]["analytic"]["macro"]
    bounds = f"[{100 * max(found['analytic'].low, 0):.1f}, {100 * min(found['analytic'].high, 1):.1f}]"
    assert means[1][5] == f"{100 * of['mean']:.1f} ± {100 * of['sd']:.1f} {bounds}"
    falls = summary["forgetting"]["analytic"]
    assert means[1][7] == f"{100 * falls['mean']:.1f} ± {100 * falls['sd']:.1f}"
    assert [row[0] for row in runs] == [
        f"{seeds.name}/seed2",
        f"{seeds.name}/seed10",
        f"{seeds.name}/seed11",
        f"{baseline.parent.name}/{baseline.name}",
    ]
    assert main(["report", str(seeds), "--out", str(tmp_path / "page.html")]) == 0
    assert accessibility.faults((tmp_path / "page.html").read_text()) == []


def test_seeds_in_progress(seeds, tmp_path):
    folder = small_runs.copied(seeds, tmp_path / "seeds")
    for name in ("summary.json", "accuracy_matrix.csv"):
        (folder / "seed10" / name).unlink()
    rows = Tables(report.comparison([folder])).rows["accuracy"]
    assert rows[1][4] == "2, 11" and "±" in rows[1][5] and "[" not in rows[1][5]
    assert rows[-2][-1] == "no task is finished yet"
