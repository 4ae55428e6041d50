"""The table: its runs, what it reads from them, and what it writes if some fail."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import jax
import numpy as np
import pytest
from support import presets, small_runs, tables

from dgm_jax import Learner
from dgm_jax.commands import parsing, table, table_rows, table_runs
from dgm_jax.commands.experiments import find
from dgm_jax.commands.parsing import parse
from dgm_jax.commands.table_runs import TableRun
from dgm_jax.config import Method
from dgm_jax.data import parse_class_order
from dgm_jax.errors import NoMemory, OtherConfiguration, UserError
from dgm_jax.loading import load_method
from dgm_jax.metrics.quality import measure
from dgm_jax.runs.folder import Workdir

METHODS = [*(table_rows.COMPARED | table_rows.BUDGETS), *table_rows.ABLATIONS]


@pytest.mark.parametrize("method", ["separate", "separate-as-dgmw-half", "separate-as-dgmw-double"])
def test_what_was_chosen_for_a_rival_counts_in_all_its_sizes(method, tmp_path):
    """On digits, `separate` with the noise of DGM is forty points below itself."""
    assert TableRun("digits", method, 0, tmp_path).options.settings.networks.noise_dim == 12
    assert "--noise-dim" not in TableRun("fashion", method, 0, tmp_path).command


def test_seeds_are_orders_and_folds(tmp_path):
    """Of digits, whose test images are few; and a run in another order or of another fold is another run."""
    run = TableRun("digits", "joint", 7, tmp_path, orders=True)
    assert run.command[-6:] == ["--class-order", "seed", "--fold", "3/5", "--seed", "7"]
    assert "--fold" not in TableRun("mnist-500", "joint", 7, tmp_path, orders=True).command
    order = parse_class_order("random:7", range(10))
    _place(run, ("classifier",), seed=7, dataset="digits, fold 3 of 5", tasks=[[label] for label in order])
    assert run.read().finished
    for other, text in (
        (TableRun("digits", "joint", 2, tmp_path, orders=True), "seed=7 instead of 2"),
        (TableRun("digits", "joint", 7, tmp_path), "dataset='digits, fold 3 of 5' instead of 'digits'"),
    ):
        Workdir(other.workdir).path.mkdir(parents=True, exist_ok=True)
        Workdir(other.workdir).summary.write_bytes(Workdir(run.workdir).summary.read_bytes())
        with pytest.raises(OtherConfiguration, match=text):
            other.read()
    _place(run, ("classifier",), seed=7, dataset="digits, fold 3 of 5")
    with pytest.raises(OtherConfiguration, match=r"order of classes=\(0, 1, 2, .*\) instead of"):
        run.read()


def test_predictions_reach_the_table(tmp_path):
    run = TableRun("digits", "joint", 0, tmp_path)
    _place(run, readings=("classifier",), final=0.75)
    argv = ["--data", "digits", "--methods", "joint", "--seeds", "0", "--runs", str(tmp_path), "--collect"]
    assert table.run(argv) == 0
    classes = np.repeat(np.arange(10), 4)
    Workdir(run.workdir).write_predictions(classes, {"classifier": np.where(np.arange(40) % 4, classes, 10)})
    (result,) = table_runs.collect([run], {}, {})
    assert result.answers["classifier"].accuracy == 0.75
    Workdir(run.workdir).predictions.write_bytes(b"")
    assert table.run(argv) == 1
    assert "predictions.npz cannot be read" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    "data, method",
    # What a method adds to a command does not depend on the data.
    [
        *(("digits", method) for method in METHODS),
        *((data, "dgma") for data in table_rows.DATA if data != "digits"),
    ],
)
def test_every_run_is_a_command_that_the_experiments_take(data, method, tmp_path, monkeypatch):
    # Of ImageNet the images themselves say which settings are best; they are not here.
    monkeypatch.setattr(parsing, "_shown", lambda *_: presets.SHOWN["cifar10"])
    command = TableRun(data, method, 3, tmp_path, quick=True).command
    assert command[:3] == ["-m", "dgm_jax", "learn"]
    options = parse(find(command[3]), command[4:])
    assert options.settings.seed == 3


def test_every_method_is_in_the_table():
    methods = {TableRun("digits", name, 0, Path()).options.settings.method for name in table_rows.COMPARED}
    assert methods == set(get_args(Method))


def test_each_run_has_its_folder(tmp_path):
    folders = {TableRun("digits", name, seed, tmp_path).workdir for name in METHODS for seed in (0, 1)}
    assert len(folders) == 2 * len(METHODS)


def test_a_precision_is_for_all_that_train(tmp_path):
    trains, sums = (TableRun("digits", name, 0, tmp_path, precision="bf16") for name in ("dgmw", "analytic"))
    assert trains.options.settings.gan.precision == "bf16" and "--precision" not in sums.command


def test_a_ceiling_learns_all_classes_at_once(tmp_path):
    """For as many steps with --quick as without."""
    run = TableRun("digits", "ceiling", 0, tmp_path, quick=True)
    steps = table_rows.DATA["digits"].ceiling_steps
    assert run.options.settings.consolidation.consolidation_steps == steps and run.options.classes_per_task == "10"
    _place(run, ("classifier",), tasks=[[*range(10)]], finished_tasks=1)
    assert run.read().finished
    assert TableRun("digits", "joint", 0, tmp_path).options.classes_per_task == "1"


def test_budgets_are_generators_of_three_sizes(tmp_path):
    half, same, double = (
        TableRun("digits", name, 0, tmp_path).options.settings for name in ("dgmw-half", "dgmw", "dgmw-double")
    )
    widths = [settings.networks.generator_width for settings in (half, same, double)]
    assert widths == [4, 8, 16]
    assert half.with_changes(generator_width=8) == same == double.with_changes(generator_width=8)


def test_a_run_that_fails_does_not_stop_the_table(tmp_path, capsys):
    """MNIST is not in this folder; and what there was is read."""
    runs, empty = tmp_path / "runs", tmp_path / "empty"
    empty.mkdir()
    argv = ["--data", "mnist", "--methods", "finetune", "joint", "--seeds", "0", "--runs", str(runs)]
    assert table.run([*argv, "--data-dir", str(empty)]) == 1
    text = (runs / "table.md").read_text()
    assert "no result: seed 0: " in text and str(empty) in text
    out = capsys.readouterr().out
    assert "2 of 2 done\n" in out and out.endswith(
        f"written to {runs}: table.md (this page), table.csv, table.json and figures\n"
    )
    _place(TableRun("mnist", "joint", 0, runs), readings=("classifier",))
    assert table.run([*argv, "--collect"]) == 1
    text = (runs / "table.md").read_text()
    assert "| mnist | joint | classifier |" in text and "not run yet" in text


def _place(run, readings=("consolidated", "auxiliary"), **changes):
    """A summary in a run's folder, as its command would leave it."""
    fields = {"config": run.options.settings.flat(), "dataset": run.data} | changes
    run.workdir.mkdir(parents=True, exist_ok=True)
    (run.workdir / "summary.json").write_text(json.dumps(tables.summary(readings=readings, **fields).to_json()))


def test_an_unfinished_run_says_so(tmp_path):
    run = TableRun("digits", "joint", 0, tmp_path)
    _place(run, finished=False, finished_tasks=4)
    with pytest.raises(UserError, match="^not finished: 4 of 10 tasks$"):
        run.read()


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"dataset": "mnist"}, "another run, with dataset='mnist' instead of 'digits'; choose other --runs"),
        (
            {"tasks": [[0, 1], [2, 3]], "finished_tasks": 2, "final": 4},
            "another run, with classes_per_task='2' instead of '1'",
        ),
        ({"forgotten": [{"class": "7"}, {"class": "1"}]}, "a run that has forgotten 7, 1; choose other --runs"),
        ({"config": {"epochs": 3}}, "another run, with .*'"),
        ({"config": {"epochs": 3, "method": "joint"}}, "another run, with image_size=32 instead of 16"),
    ],
)
def test_a_run_of_another_configuration_is_refused(changes, text, tmp_path):
    run = TableRun("digits", "joint", 0, tmp_path)
    _place(run)
    assert run.read().finished
    _place(run, **changes)
    with pytest.raises(OtherConfiguration, match=text):
        run.read()


def test_a_setting_that_came_later_does_not_make_another_run(tmp_path):
    run = TableRun("digits", "joint", 0, tmp_path)
    settings = run.options.settings.flat()
    del settings["network"]
    _place(run, config=settings)
    assert run.read().finished


def test_a_setting_that_was_removed_makes_another_run_unless_it_was_at_its_default(tmp_path):
    run = TableRun("digits", "joint", 0, tmp_path)
    settings = run.options.settings.flat()
    _place(run, config=settings | {"penalty": "gradient"})
    assert run.read().finished
    _place(run, config=settings | {"penalty": "r1"})
    with pytest.raises(OtherConfiguration, match="holds a run with penalty='r1', removed after commit c36b15c"):
        run.read()


def test_collect_shows_the_methods_that_were_begun(tmp_path, capsys):
    argv = ["--data", "digits", "--seeds", "0,1", "--runs", str(tmp_path), "--collect"]
    assert table.run(argv) == 2
    assert f"--collect: {tmp_path} holds no run of digits" in capsys.readouterr().err
    for seed in (0, 1):
        _place(TableRun("digits", "joint", seed, tmp_path), readings=("classifier",), seed=seed)
    assert table.run(argv) == 0 and "finetune" not in (tmp_path / "table.md").read_text()
    _place(TableRun("digits", "ewc", 0, tmp_path), readings=("classifier",))
    assert table.run(argv) == 1 and "ewc | classifier" in (text := (tmp_path / "table.md").read_text())
    assert "| 0 (no result: seed 1: not run yet) |" in text


@pytest.mark.parametrize("content", ["{}", '{"finished": tru', "[]"])
def test_a_damaged_summary_stays_in_its_place(content, tmp_path):
    for method in ("joint", "finetune"):
        _place(TableRun("digits", method, 0, tmp_path), readings=("classifier",))
    (tmp_path / "digits" / "finetune-seed0" / "summary.json").write_text(content)
    argv = ["--data", "digits", "--methods", "joint", "finetune", "--seeds", "0", "--runs", str(tmp_path), "--collect"]
    assert table.run(argv) == 1
    text = (tmp_path / "table.md").read_text()
    assert (
        "| digits | joint | classifier |" in text
        and "finetune | no result: seed 0: " in text
        and "summary.json cannot be read (" in text
    )


def test_only_what_is_not_finished_is_run(tmp_path, monkeypatch, capsys):
    """And if that is lost, the table is made of the others and says so."""
    started = []

    def run(chosen, launcher, folder, progress):
        started.extend((job.name, launcher.kind, launcher.at_once, launcher.slurm) for job in chosen)
        return dict.fromkeys(chosen, "its process was killed")

    monkeypatch.setattr("dgm_jax.system.jobs.run", run)
    for method in ("joint", "er"):
        _place(TableRun("digits", method, 0, tmp_path), readings=("classifier",))
    _place(TableRun("digits", "icarl", 0, tmp_path), readings=("classifier",), finished=False, finished_tasks=3)
    argv = ["--data", "digits", "--methods", "joint", "er", "icarl", "ewc", "--seeds", "0", "--runs", str(tmp_path)]
    words = ["--jobs", "7", "--launcher", "slurm", "--slurm", "partition=night", "cpus-per-task=4", "exclusive"]
    assert table.run([*argv, *words]) == 1
    slurm = {"partition": "night", "cpus_per_task": "4", "exclusive": True}
    assert started == [(f"digits/{method}-seed0", "slurm", 7, slurm) for method in ("icarl", "ewc")]
    assert "2 of 4 runs are finished already" in capsys.readouterr().out
    text = (tmp_path / "table.md").read_text()
    assert "| digits | joint | classifier |" in text and "| digits | er | classifier |" in text
    assert "| icarl | no result: seed 0: its process was killed |" in text


def test_memories_are_measured_as_jobs_once_both_runs_are_finished(tmp_path, monkeypatch):
    """And if that fails, the table says so; the table's own process measures nothing."""
    started = []

    def run(chosen, *_):
        started.extend(job.name for job in chosen)
        return dict.fromkeys(chosen, "its process was killed")

    monkeypatch.setattr("dgm_jax.system.jobs.run", run)
    monkeypatch.setattr(TableRun, "measure_memory", lambda run: pytest.fail("it measures itself"))
    _place(TableRun("digits", "dgma", 0, tmp_path))
    argv = ["--data", "digits", "--seeds", "0", "--runs", str(tmp_path), "--methods", "dgma"]
    assert table.run(argv) == 0 and not started
    _place(TableRun("digits", "joint", 0, tmp_path), readings=("classifier",))
    assert table.run([*argv, "joint"]) == 0 and started == ["digits/dgma-seed0: images"]
    text = (tmp_path / "table.md").read_text()
    assert "- digits, *dgma*: its images are not measured, seed 0: its process was killed." in text
    assert table.run([*argv, "joint", "--collect"]) == 0 and len(started) == 1
    text = (tmp_path / "table.md").read_text()
    assert "seed 0: not measured yet; the same command without --collect measures them." in text


def test_what_cannot_be_judged_is_shown_without(tmp_path):
    _place(TableRun("digits", "dgma", 0, tmp_path))
    argv = ["--data", "digits", "--methods", "dgma", "--seeds", "0", "--runs", str(tmp_path), "--collect"]
    assert table.run(argv) == 0
    assert "its images are not measured, seed 0: not run yet." in (tmp_path / "table.md").read_text()
    _place(TableRun("digits", "joint", 0, tmp_path), readings=("classifier",), finished=False, finished_tasks=3)
    assert table.run(argv) == 0
    assert "not measured, seed 0: not finished: 3 of 10 tasks." in (tmp_path / "table.md").read_text()


def test_a_memory_is_judged_once_for_both_runs_as_they_are(tmp_path, monkeypatch):
    run, joint = (TableRun("digits", method, 0, tmp_path) for method in ("dgma", "joint"))
    _place(run)
    _place(joint, readings=("classifier",))
    measured = []
    monkeypatch.setattr(table_runs, "_load_memory", lambda *_: (None, None))
    method = SimpleNamespace(classifier=lambda *_: None)
    monkeypatch.setattr("dgm_jax.loading.load_method", lambda *_: (method, None))
    monkeypatch.setattr("dgm_jax.metrics.quality.measure", lambda *_, **__: measured.append(1) or tables.QUALITY)
    assert run.must_be_measured
    assert run.measure_memory() == run.read_quality() == tables.QUALITY and not run.must_be_measured
    assert len(measured) == 1
    _place(joint, readings=("classifier",), seed=0, device="another")  # Run anew.
    assert run.must_be_measured and run.measure_memory() == tables.QUALITY and len(measured) == 2
    (run.workdir / "quality.json").write_text("{")  # Damage is shown in the table, and does not stop it.
    argv = ["--data", "digits", "--methods", "dgma", "joint", "--seeds", "0", "--runs", str(tmp_path)]
    assert not run.must_be_measured and table.run(argv) == 0
    assert "its images are not measured, seed 0: a file cannot be read" in (tmp_path / "table.md").read_text()


def test_unknown_names_are_refused(capsys):
    for argv, expected in (
        (["--data", "emnist"], "--data emnist: unknown; choose from digits, mnist-500"),
        (["--data", "imagenet50"], "--data imagenet50 needs --images, its class folders; or take imagenet50-stand-in"),
        (["--methods", "joint", "vae"], "--methods vae: unknown; choose from ceiling, joint, dgma"),
        (["--methods", "joint", "analitic"], "--methods analitic: unknown; did you mean analytic?\n"),
        (["--methods", "joint,er"], "--methods joint,er: unknown; put spaces between names\n"),
        (["--metods", "joint"], "unknown option --metods; did you mean --methods?"),
        (["--jobs", "0"], "--jobs 0: expected a whole number of at least 1"),
        (["--slurm", "time=5"], "--slurm needs --launcher slurm"),
        (["--seeds", "0,a"], "--seeds '0,a' is not a list of different whole numbers"),
    ):
        assert table.run(argv) == 2
        assert capsys.readouterr().err.startswith(f"error: {expected}")


def test_a_data_folder_that_is_not_there_is_refused_before_the_first_run(tmp_path, capsys):
    argv = ["--quick", "--data-dir", str(tmp_path / "none"), "--runs", str(tmp_path / "runs")]
    assert table.run(argv) == 2
    assert capsys.readouterr().err.startswith(f"error: --data-dir {tmp_path}/none: no such folder")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_how_to_resume(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dgm_jax.system.jobs.run", interrupt)
    assert table.run(["--quick", "--data", "digits", "--runs", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted; run the same command to resume\n"


def test_a_memory_is_judged_by_the_ceiling(tmp_path):
    """Real images in the memory's place are told as well as real images; noise is not."""
    config = small_runs.small(
        image_size=8, method="joint", consolidation_steps=200, discriminator_width=8, consolidation_samples=24
    )
    stream = small_runs.stream(config)
    Learner(config, devices=1).fit(stream, tmp_path)
    method, state = load_method(config, stream, tmp_path)
    judge = method.classifier(2, state)
    images, labels = stream.test(2)

    class Drawn:
        n_classes = 3

        def __init__(self, images):
            self.images = images

    def measured(draw, **options):
        return measure(Drawn(draw), judge, images, labels, jax.random.key(0), **options)

    real = measured(lambda c, n, key: np.resize(images[labels == c], (n, 8, 8, 1)))
    only_one = measured(  # All of one class, which its solver predicts.
        lambda c, n, key: np.resize(images[labels == 0], (n, 8, 8, 1)), label=lambda drawn: np.zeros(len(drawn), int)
    )
    noise = np.random.default_rng(0)
    none = measured(lambda c, n, key: noise.integers(0, 256, (n, 8, 8, 1), np.uint8))
    assert real["generated_sample_accuracy"] == pytest.approx(real["judge_accuracy"], abs=0.02)
    assert real["judge_accuracy"] > 0.8 and none["generated_sample_accuracy"] < 0.6
    assert 0.2 < only_one["generated_sample_accuracy"] <= 1 / 3
    assert real["frechet_distance"] < 0.05 * none["frechet_distance"]
    assert real["precision"] > 0.95 and real["recall"] > 0.95 and none["precision"] < 0.5
    with pytest.raises(NoMemory, match="run it first"):
        load_method(config, stream, tmp_path / "none")


# ---- runs at equal bytes ----


def test_a_run_at_equal_bytes_waits_for_the_run_it_is_compared_with(tmp_path, monkeypatch):
    """Its size is found once, when the other run is finished; before, the table says what is missing."""
    started = []

    def run(chosen, *_):
        started.append([job.name for job in chosen])
        return {}

    monkeypatch.setattr("dgm_jax.system.jobs.run", run)
    argv = ["--data", "digits", "--seeds", "0", "--runs", str(tmp_path), "--methods", "gdumb-as-dgmw"]
    assert table.run(argv) == 1 and started == [[], [], []]
    text = (tmp_path / "table.md").read_text()
    assert "| gdumb-as-dgmw | no result: seed 0: needs the bytes of digits/dgmw-seed0: not run yet |" in text
    memory = {"weights": 30_000, "gram": 9_000, "total": 39_000}
    summary = {"images_replaced": 64 * 1437, "image_count": 1437, "memory": memory}
    _place(TableRun("digits", "dgmw", 0, tmp_path), bytes=summary)
    assert table.run(argv) == 1 and started[-2] == ["digits/gdumb-as-dgmw-seed0"]
    sized = TableRun("digits", "gdumb-as-dgmw", 0, tmp_path)
    assert sized.options.settings.method_settings.memory_size == 30_000 // 64  # Sums of features do not count.
    assert not sized.is_finished and json.loads(sized._size_file.read_text())["bytes"] == 30_000
    _place(sized, readings=("classifier",), config=asdict(sized.options.settings))
    assert sized.read().finished
    memory = {"weights": 64_000, "total": 64_000}  # The other run was made again, and is larger now.
    _place(TableRun("digits", "dgmw", 0, tmp_path), bytes=summary | {"memory": memory})
    assert table.run(argv) == 1
    assert "holds another run, with memory_size=468 instead of 1000" in (tmp_path / "table.md").read_text()
