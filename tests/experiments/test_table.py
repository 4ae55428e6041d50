"""The table: what is run, what is read, what is written when cells fail, and its numbers by hand."""

import csv
import json

import helpers
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401

from dgm_jax import sheets
from dgm_jax.baselines.learner import BaselineLearner
from dgm_jax.errors import NoMemory, UserError
from dgm_jax.quality import Judge, measure
from dgm_jax.workdir import Workdir
from experiments import cells, cli, table


def _summary(seed=0, final=0.5, readings=("consolidated", "auxiliary"), **changes):
    averages = {
        f"A_{n}": {r: {"macro": final + (10 - n) / 100, "micro": final} for r in readings} for n in range(1, 11)
    }
    rows = [
        {"task": t, "layer": 1, "width": 8, "gates": 8, "used": 4, "newly_reserved": 4 - t % 4, "reused": t % 4}
        | {"free": 2, "weights": 100 * (t + 1)}
        for t in range(10)
    ]
    return {
        "finished": True,
        "finished_tasks": 10,
        "tasks": [[c] for c in range(10)],
        "protocol": "strict",
        "seed": seed,
        "final": 10,
        **averages,
        "forgetting": dict.fromkeys(readings, 0.25),
        "bytes": {"memory": {"total": 50_000}, "images_replaced": 64_000, "image_count": 1000},
        "seconds": {"train": 90.0, "evaluate": 30.0},
        "device": "1 x cpu",
        "capacity": rows,
    } | changes


def _result(method, seed=0, data="mnist", **changes):
    return {"data": data, "method": method, "seed": seed, "command": f"python {method}", "quality": None} | changes


QUALITY = {"generated_sample_accuracy": 0.75, "frechet_distance": 3.0, "precision": 0.5, "recall": 0.25}
RESULTS = [
    _result("dgma", summary=_summary(final=0.98), quality=QUALITY),
    _result("dgma", 1, summary=_summary(1, final=0.99)),
    _result("dgma", 2, error="NotFinite: a loss became nan"),
    _result("mergan", summary=_summary(final=0.6, readings=("classifier",))),
    _result("dgr", error="not run yet"),
]


def test_rows_by_hand():
    rows = sheets.summarised(RESULTS)
    assert [(row["method"], row.get("reading")) for row in rows] == [
        *(("dgma", "consolidated"), ("dgma", "auxiliary"), ("mergan", "classifier"), ("dgr", None))
    ]
    dgma = rows[0]
    assert dgma["A_final"] == pytest.approx(0.985) and dgma["A_final_sd"] == pytest.approx(np.std([0.98, 0.99], ddof=1))
    assert dgma["A_half"] == pytest.approx(1.035)  # As made up above.
    assert dgma["minutes"] == 2 and dgma["seeds"] == "0 1"
    assert dgma["worth_images"] == 781  # 50 000 bytes by 64 bytes an image.
    assert dgma["generated_sample_accuracy"] == 0.75 and rows[1]["generated_sample_accuracy"] is None
    assert dgma["failures"] == "seed 2: NotFinite: a loss became nan"
    assert dgma["published_A_final"] == 97.92 and rows[1]["published_A_final"] is None
    assert rows[3] == rows[3] | {"method": "dgr", "failures": "seed 0: not run yet"}


def test_what_is_written(tmp_path):
    sheets.write(RESULTS, tmp_path, command="python -m experiments.table")
    text = (tmp_path / "table.md").read_text()
    assert "| mnist | dgma | consolidated | 103.5 ± 0.7 | 98.5 ± 0.7 |" in text
    assert "99.17 / 97.92 ✓" in text and "98.19 / 97.0 (another measure)" in text
    assert "| dgr | failed: seed 0: not run yet |" in text and "0 1 (failed: seed 2: NotFinite" in text
    assert "strict" in text and "![mnist.png](mnist.png)" in text
    assert (tmp_path / "mnist.png").stat().st_size > 10_000
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and float(rows[0]["A_final"]) == pytest.approx(0.985)
    assert json.loads((tmp_path / "table.json").read_text())["rows"][2]["method"] == "mergan"


def test_a_number_below_the_published_one_is_marked():
    (row,) = sheets.summarised([_result("dgmw", summary=_summary(final=0.9, readings=("consolidated",)))])
    assert "98.75 / 96.46 ✗" in sheets.markdown([row], [], "")


@pytest.mark.parametrize("method", [*cells.METHODS, *cells.ABLATIONS])
@pytest.mark.parametrize("data", cells.DATA)
def test_every_cell_is_a_command_that_the_experiments_take(data, method, tmp_path):
    command = cells.Cell(data, method, 3, tmp_path, quick=True).command
    kind = cli.ImageNetOptions if "imagenet50" in command[1] else cli.Options
    options = cli.parse(command[1].removeprefix("experiments."), None, kind=kind, argv=command[2:])
    assert options.settings.seed == 3


def test_cells_have_folders_of_their_own(tmp_path):
    names = [*cells.METHODS, *cells.ABLATIONS]
    folders = {cells.Cell("digits", name, seed, tmp_path).workdir for name in names for seed in (0, 1)}
    assert len(folders) == 2 * len(names)


def test_a_cell_that_fails_does_not_stop_the_table(tmp_path, capsys):
    """MNIST is not in this folder; and what there was is read."""
    runs, empty = tmp_path / "runs", tmp_path / "none"
    argv = ["--data", "mnist", "--methods", "finetune", "joint", "--seeds", "0", "--runs", str(runs)]
    assert table.main([*argv, "--data-dir", str(empty)]) == 1
    text = (runs / "table.md").read_text()
    assert "failed: seed 0: " in text and str(empty) in text
    assert "2 of 2: " in capsys.readouterr().out
    folder = runs / "mnist" / "joint-seed0"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(_summary(readings=("classifier",))))
    assert table.main([*argv, "--collect"]) == 1
    text = (runs / "table.md").read_text()
    assert "| mnist | joint | classifier |" in text and "not run yet" in text


def test_an_unfinished_cell_says_so(tmp_path):
    cell = cells.Cell("digits", "joint", 0, tmp_path)
    cell.workdir.mkdir(parents=True)
    (cell.workdir / "summary.json").write_text(json.dumps(_summary(finished=False, finished_tasks=4)))
    with pytest.raises(UserError, match="^not finished: 4 of 10 tasks$"):
        cell.read()


def test_unknown_names_are_refused(capsys):
    for argv in (["--data", "emnist"], ["--methods", "gan"]):
        with pytest.raises(SystemExit):
            table.main(argv)
        assert "invalid choice" in capsys.readouterr().err


def test_a_memory_is_judged_by_the_ceiling(tmp_path):
    """Real images in the memory's place are told as well as real images; noise is not."""
    config = helpers.small(
        image_size=8, method="joint", consolidation_steps=200, discriminator_width=8, consolidation_samples=24
    )
    stream = helpers.stream(config)
    BaselineLearner(config, devices=1).fit(stream, tmp_path)
    judge = Judge.of(Workdir(tmp_path), 3)
    images, labels = stream.test(2)

    class Drawn:
        n_classes = 3

        def __init__(self, draw):
            self.images = draw

    real = measure(Drawn(lambda c, n, key: np.resize(images[labels == c], (n, 8, 8, 1))), judge, images, labels, _key())
    noise = np.random.default_rng(0)
    none = measure(
        Drawn(lambda c, n, key: noise.integers(0, 256, (n, 8, 8, 1), np.uint8)), judge, images, labels, _key()
    )
    assert real["generated_sample_accuracy"] == pytest.approx(real["judge_accuracy"], abs=0.02)
    assert real["judge_accuracy"] > 0.8 and none["generated_sample_accuracy"] < 0.6
    assert real["frechet_distance"] < 0.05 * none["frechet_distance"]
    assert real["precision"] > 0.95 and real["recall"] > 0.95 and none["precision"] < 0.5
    with pytest.raises(NoMemory, match="run --method joint first"):
        Judge.of(Workdir(tmp_path / "none"), 3)


def _key():
    import jax

    return jax.random.key(0)
