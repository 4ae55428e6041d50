"""The table: what is run, what is read, what is written when cells fail, and its numbers by hand."""

import csv
import json

import helpers
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401

from dgm_jax import Learner
from dgm_jax.commands import parsing
from dgm_jax.commands.options import ImageNetOptions, Options
from dgm_jax.errors import NoMemory, OtherConfiguration, UserError
from dgm_jax.metrics.quality import Judge, measure
from dgm_jax.reporting import table as sheets
from dgm_jax.runs.folder import Workdir
from experiments import cells, table


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
        "method": "dgm",
        "seed": seed,
        "final": 10,
        **averages,
        "dataset": "mnist",
        "config": {"epochs": 101},
        "confusion": dict.fromkeys(readings, [[90, 10], [0, 100]]),
        "forgetting": dict.fromkeys(readings, 0.25),
        "backward_transfer": dict.fromkeys(readings, -0.125),
        "bytes": {"memory": {"total": 50_000}, "images_replaced": 64 * 60_000, "image_count": 60_000},
        "seconds": {"train": 90.0, "evaluate": 30.0},
        "device": "1 x cpu",
        "capacity": rows,
    } | changes


def _result(method, seed=0, data="mnist", **changes):
    return {"data": data, "method": method, "seed": seed, "command": f"python {method}", "quality": None} | changes


QUALITY = {"generated_sample_accuracy": 0.75, "judge_accuracy": 0.99, "frechet_distance": 3.0}
QUALITY |= {"precision": 0.5, "recall": 0.25}
RESULTS = [
    _result("dgma", summary=_summary(final=0.98), quality=QUALITY),
    _result("dgma", 1, summary=_summary(1, final=0.99)),
    _result("dgma", 2, error="NotFinite: a loss became nan"),
    _result("mergan", summary=_summary(final=0.6, readings=("classifier",)), quality=QUALITY),
    _result("dgmw", summary=_summary(final=0.97, config={"epochs": 5}), unjudged="not run yet"),
    _result("dgr", error="not run yet"),
]


def test_rows_by_hand():
    rows = sheets.summarised(RESULTS)
    assert [(row["method"], row.get("reading")) for row in rows] == [
        *(("dgma", "consolidated"), ("dgma", "auxiliary"), ("mergan", "classifier")),
        *(("dgmw", "consolidated"), ("dgmw", "auxiliary"), ("dgr", None)),
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
    sheets.write(RESULTS, tmp_path, command="python -m experiments.table")
    text = (tmp_path / "table.md").read_text()
    assert "| mnist | dgma | consolidated | 103.5 ± 0.7 | 98.5 ± 0.7 |" in text
    assert "| 101, 60,000 |" in text and "| 5, 60,000 |" in text
    row = sheets.summarised([_result("joint", summary=_summary(readings=("classifier",), method="joint"))])[0]
    assert "| –, 60,000 |" in sheets.markdown([row], [], "")  # It has steps, no epochs.
    assert "| dgr | no result: seed 0: not run yet |" in text and "0 1 (no result: seed 2: NotFinite" in text
    assert "- mnist, *dgmw*: what it draws is not measured, seed 0: not run yet." in text
    assert "- Published numbers of *mergan*: most likely: generated images" in text
    assert "strict" in text and "![mnist.png](mnist.png)" in text
    lengths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(lengths) == 1
    assert (tmp_path / "mnist.png").stat().st_size > 10_000
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and float(rows[0]["A_final"]) == pytest.approx(0.985)
    assert json.loads((tmp_path / "table.json").read_text())["rows"][2]["method"] == "mergan"


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
    row = sheets.summarised([_result(method, summary=_summary(**changes), quality=QUALITY)])[0]
    assert f"| {marked} |" in sheets.markdown([row], [], "")


def test_ablations_have_a_figure_of_their_own(tmp_path):
    results = [
        _result(f"{variant}: {change}", seed, summary=_summary(seed, final=final + seed / 100))
        for variant in ("dgma", "dgmw")
        for change, final in (("as it is", 0.9), ("no re-use", 0.8))
        for seed in (0, 1)
    ] + [_result("dgma: no masks", error="not run yet")]
    sheets.write(results, tmp_path, command="", ablations=True)
    assert (tmp_path / "mnist-ablations.png").stat().st_size > 10_000
    assert not (tmp_path / "mnist.png").exists()
    assert "| dgma: no masks | no result: seed 0: not run yet |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("method", [*cells.METHODS, *cells.ABLATIONS])
@pytest.mark.parametrize("data", cells.DATA)
def test_every_cell_is_a_command_that_the_experiments_take(data, method, tmp_path):
    command = cells.Cell(data, method, 3, tmp_path, quick=True).command
    kind = ImageNetOptions if "imagenet50" in command[1] else Options
    options = parsing.parse(command[1].removeprefix("experiments."), None, kind=kind, argv=command[2:])
    assert options.settings.seed == 3


def test_cells_have_folders_of_their_own(tmp_path):
    names = [*cells.METHODS, *cells.ABLATIONS]
    folders = {cells.Cell("digits", name, seed, tmp_path).workdir for name in names for seed in (0, 1)}
    assert len(folders) == 2 * len(names)


def test_a_cell_that_fails_does_not_stop_the_table(tmp_path, capsys):
    """MNIST is not in this folder; and what there was is read."""
    runs, empty = tmp_path / "runs", tmp_path / "empty"
    empty.mkdir()
    argv = ["--data", "mnist", "--methods", "finetune", "joint", "--seeds", "0", "--runs", str(runs)]
    assert table.main([*argv, "--data-dir", str(empty)]) == 1
    text = (runs / "table.md").read_text()
    assert "no result: seed 0: " in text and str(empty) in text
    assert "2 of 2: " in capsys.readouterr().out
    _place(cells.Cell("mnist", "joint", 0, runs), readings=("classifier",))
    assert table.main([*argv, "--collect"]) == 1
    text = (runs / "table.md").read_text()
    assert "| mnist | joint | classifier |" in text and "not run yet" in text


def _place(cell, readings=("consolidated", "auxiliary"), **changes):
    """A summary in a cell's folder, as its command would leave it."""
    summary = {"config": cell.options.settings.flat(), "dataset": cell.data} | changes
    cell.workdir.mkdir(parents=True, exist_ok=True)
    (cell.workdir / "summary.json").write_text(json.dumps(_summary(readings=readings, **summary)))


def test_an_unfinished_cell_says_so(tmp_path):
    cell = cells.Cell("digits", "joint", 0, tmp_path)
    _place(cell, finished=False, finished_tasks=4)
    with pytest.raises(UserError, match="^not finished: 4 of 10 tasks$"):
        cell.read()


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"dataset": "mnist"}, "another run, of dataset='mnist', not 'digits'; choose other --runs"),
        ({"tasks": [[0, 1], [2, 3]]}, "another run, of classes_per_task='2', not '1'"),
        ({"config": {"epochs": 3}}, "another run, of .*'"),
        ({"config": {"epochs": 3, "method": "joint"}}, "another run, of image_size=32, not 16"),
    ],
)
def test_a_cell_of_another_configuration_is_refused(changes, text, tmp_path):
    cell = cells.Cell("digits", "joint", 0, tmp_path)
    _place(cell)
    assert cell.read()["finished"]
    _place(cell, **changes)
    with pytest.raises(OtherConfiguration, match=text):
        cell.read()


def test_a_setting_that_came_later_does_not_make_another_run(tmp_path):
    cell = cells.Cell("digits", "joint", 0, tmp_path)
    settings = cell.options.settings.flat()
    del settings["network"]
    _place(cell, config=settings)
    assert cell.read()["finished"]


def test_a_setting_that_was_removed_makes_another_run_unless_it_was_at_its_default(tmp_path):
    cell = cells.Cell("digits", "joint", 0, tmp_path)
    settings = cell.options.settings.flat()
    _place(cell, config=settings | {"penalty": "gradient"})
    assert cell.read()["finished"]
    _place(cell, config=settings | {"penalty": "r1"})
    with pytest.raises(OtherConfiguration, match="holds a run with penalty='r1', removed after commit c36b15c"):
        cell.read()


@pytest.mark.parametrize("content", ["{}", '{"finished": tru', "[]"])
def test_a_damaged_summary_stays_in_its_cell(content, tmp_path):
    for method in ("joint", "finetune"):
        _place(cells.Cell("digits", method, 0, tmp_path), readings=("classifier",))
    (tmp_path / "digits" / "finetune-seed0" / "summary.json").write_text(content)
    argv = ["--data", "digits", "--methods", "joint", "finetune", "--seeds", "0", "--runs", str(tmp_path), "--collect"]
    assert table.main(argv) == 1
    text = (tmp_path / "table.md").read_text()
    assert "| digits | joint | classifier |" in text and "finetune | no result: seed 0: a damaged file (" in text


def test_it_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    _place(cells.Cell("digits", "joint", 0, tmp_path), readings=("classifier",))
    monkeypatch.setattr(cells.Cell, "run", lambda cell: None)
    assert table.main(["--data", "digits", "--methods", "joint", "--seeds", "0", "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said == (
        "1 of 1: python -m experiments.digits --method joint --seed 0 ... A_final 50.0 %; about 0 minutes left"
    )


def test_what_cannot_be_judged_is_shown_without(tmp_path):
    _place(cells.Cell("digits", "dgma", 0, tmp_path))
    argv = ["--data", "digits", "--methods", "dgma", "--seeds", "0", "--runs", str(tmp_path), "--collect"]
    assert table.main(argv) == 0
    assert "what it draws is not measured, seed 0: not run yet." in (tmp_path / "table.md").read_text()
    _place(cells.Cell("digits", "joint", 0, tmp_path), readings=("classifier",), finished=False, finished_tasks=3)
    assert table.main(argv) == 0
    assert "not measured, seed 0: not finished: 3 of 10 tasks." in (tmp_path / "table.md").read_text()


def test_a_memory_is_judged_once_for_both_runs_as_they_are(tmp_path, monkeypatch):
    cell, by = (cells.Cell("digits", method, 0, tmp_path) for method in ("dgma", "joint"))
    _place(cell)
    _place(by, readings=("classifier",))
    measured = []
    monkeypatch.setattr(cells, "_memory", lambda *_: (None, None))
    monkeypatch.setattr("dgm_jax.metrics.quality.Judge.of", lambda *_: None)
    monkeypatch.setattr("dgm_jax.metrics.quality.measure", lambda *_, **__: measured.append(1) or QUALITY)
    assert cell.judge(by) == cell.judge(by) == QUALITY
    assert len(measured) == 1
    _place(by, readings=("classifier",), seed=0, device="another")  # Run anew.
    assert cell.judge(by) == QUALITY and len(measured) == 2


def test_unknown_names_are_refused(capsys):
    for argv in (["--data", "emnist"], ["--methods", "gan"]):
        with pytest.raises(SystemExit):
            table.main(argv)
        assert "invalid choice" in capsys.readouterr().err


def test_a_data_folder_that_is_not_there_is_refused_before_the_first_run(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/none: no such folder"):
        table.main(["--quick", "--data-dir", str(tmp_path / "none"), "--runs", str(tmp_path / "runs")])
    assert not list(tmp_path.iterdir())


def test_a_memory_is_judged_by_the_ceiling(tmp_path):
    """Real images in the memory's place are told as well as real images; noise is not."""
    config = helpers.small(
        image_size=8, method="joint", consolidation_steps=200, discriminator_width=8, consolidation_samples=24
    )
    stream = helpers.stream(config)
    Learner(config, devices=1).fit(stream, tmp_path)
    judge = Judge.of(Workdir(tmp_path), 3)
    images, labels = stream.test(2)

    class Drawn:
        n_classes = 3

        def __init__(self, draw):
            self.images = draw

    real = measure(Drawn(lambda c, n, key: np.resize(images[labels == c], (n, 8, 8, 1))), judge, images, labels, _key())
    noise = np.random.default_rng(0)
    only_one = measure(  # All of one class, and told so by its solver.
        Drawn(lambda c, n, key: np.resize(images[labels == 0], (n, 8, 8, 1))),
        *(judge, images, labels, _key()),
        label=lambda drawn: np.zeros(len(drawn), int),
    )
    none = measure(
        Drawn(lambda c, n, key: noise.integers(0, 256, (n, 8, 8, 1), np.uint8)), judge, images, labels, _key()
    )
    assert real["generated_sample_accuracy"] == pytest.approx(real["judge_accuracy"], abs=0.02)
    assert real["judge_accuracy"] > 0.8 and none["generated_sample_accuracy"] < 0.6
    assert 0.2 < only_one["generated_sample_accuracy"] <= 1 / 3
    assert real["frechet_distance"] < 0.05 * none["frechet_distance"]
    assert real["precision"] > 0.95 and real["recall"] > 0.95 and none["precision"] < 0.5
    with pytest.raises(NoMemory, match="run --method joint first"):
        Judge.of(Workdir(tmp_path / "none"), 3)


def _key():
    import jax

    return jax.random.key(0)
