"""The command line of the experiments, up to the learner."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dgm_jax.data
from dgm_jax.config import PRESETS, Config, preset
from dgm_jax.data import TaskStream, from_arrays, load
from dgm_jax.data.prepare import write_array_record
from dgm_jax.errors import UserError
from experiments import cli


def parse(*argv: str, kind: type[cli.Options] = cli.Options) -> cli.Options:
    return cli.parse("digits", "What it shows.", kind=kind, argv=["--preset", "paper-mnist", *argv])


def run(*argv: str, kind: type[cli.Options] = cli.Options) -> int:
    return cli.run("digits", "What it shows.", kind=kind, argv=["--preset", "paper-mnist", *argv])


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Three classes, labelled 3, 5 and 9, of images that have to be resized."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 6, 7), np.uint8), np.repeat([3, 5, 9], 10)
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


# ---- help ----


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
def test_help_lists_every_setting_with_the_default_of_the_preset(variant: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--variant", variant, "--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(Config):
        option = f"--{field.name.replace('_', '-')}"
        default = getattr(PRESETS["paper-mnist"][variant], field.name)
        assert option in text
        assert f"(default: {default})" in text.split(option, 1)[1]
    run_options = ["preset", "class-order", "classes-per-task", "workdir", "data-dir", "devices", "resume-anyway"]
    for option in [*run_options, "backend", "distributed", "coordinator", "num-processes", "process-id"]:
        assert f"--{option}" in text
    assert "What it shows." in text
    assert "Step size of the generator's Adam. (default: 0.002)" in text
    width = {"dgma": 20, "dgmw": 6}[variant]
    assert f"in resnet equally wide. (default: {width})" in text


@pytest.mark.parametrize("kind", ["Options", "ImageNetOptions"])
def test_help_does_not_wait_for_jax(kind: str) -> None:
    code = (
        "import sys\nfrom experiments import cli\n"
        f"try:\n    cli.run('digits', '', kind=cli.{kind}, argv=['--preset', 'paper-mnist', '--help'])\n"
        "except SystemExit:\n    assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["digits", "mnist", "svhn", "cifar10", "arrays", "imagenet50"])
def test_an_experiment_is_a_module_that_can_be_run(name: str) -> None:
    command = [sys.executable, "-m", f"experiments.{name}", "--preset", "paper-mnist", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"python -m experiments.{name}" in done.stdout
    assert ("--npz" in done.stdout) == (name == "arrays")
    assert ("--unreadable" in done.stdout) == (name == "imagenet50")


# ---- settings ----


def test_overrides_give_the_settings() -> None:
    options = parse("--epochs", "3", "--variant", "dgmw", "--no-reinitialise-discriminator", "--train-per-class=7")
    assert options.settings == dataclasses.replace(
        preset("paper-mnist", "dgmw"), epochs=3, reinitialise_discriminator=False, train_per_class=7
    )


def test_the_variant_decides_the_defaults() -> None:
    assert parse().settings == preset("paper-mnist", "dgma")
    assert parse("--variant=dgmw").settings == preset("paper-mnist", "dgmw")
    assert cli.parse("x", "", argv=["--preset=paper-svhn"]).settings == preset("paper-svhn", "dgma")


def test_run_options() -> None:
    options = parse("--class-order", "3,1", "--classes-per-task=2,1", "--devices", "2", "--resume-anyway")
    assert (options.class_order, options.classes_per_task) == ("3,1", "2,1")
    assert (options.devices, options.resume_anyway, options.workdir) == (2, True, None)


# ---- mistakes: exit status 2, and the valid values ----


def test_an_unknown_option_is_named_and_so_are_the_valid_ones(capsys) -> None:
    assert run("--epoch", "3") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown option --epoch; did you mean --epochs?\nThe options are ")
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')} " in error
    assert "--class-order " in error and "--npz" not in error


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--replay", "sometimes"], ["--replay", "fixed", "fresh"]),
        (["--epochs", "many"], ["--epochs", "INT", "many"]),
        (["--epochs", "0"], ["epochs=0 must be greater than 0"]),
        (["--batch-size", "-1"], ["batch_size=-1 must be greater than 0"]),
        (["--protocol", "paper", "--held-out", "0"], ["held_out"]),
        (["--devices", "two"], ["--devices", "two"]),
        (["--epochs"], ["--epochs"]),
    ],
)
def test_a_bad_value_ends_the_process(argv: list[str], expected: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run(*argv)
    assert end.value.code == 2
    error = capsys.readouterr().err
    for text in expected:
        assert text in error


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--preset", "nope"], f"error: preset 'nope' is unknown; choose one of {', '.join(sorted(PRESETS))}\n"),
        (["--variant", "dgmx"], "error: variant 'dgmx' is unknown; choose one of dgma, dgmw\n"),
    ],
)
def test_an_unknown_preset_or_variant_names_the_valid_ones(argv: list[str], expected: str, capsys) -> None:
    assert run(*argv) == 2
    assert capsys.readouterr().err == expected


def test_the_file_of_arrays_is_required(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run(kind=cli.FileOptions)
    assert end.value.code == 2
    assert "--npz FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--classes-per-task", "2"], "3 classes do not split into tasks of 2"),
        (["--classes-per-task", "2,2"], "expected numbers >= 1 that sum to 3"),
        (["--classes-per-task", "two"], "classes per task 'two'"),
        (["--class-order", "3,5"], "class_order lacks class 9"),
        (["--class-order", "3,5,5"], "class 5 2 times"),
        (["--class-order", "backwards"], "expected natural, random:SEED"),
        (["--held-out", "0.01"], "for validation"),
    ],
)
def test_tasks_that_do_not_fit_the_data(argv: list[str], expected: str, arrays: Path, capsys) -> None:
    assert run("--npz", str(arrays), *argv, kind=cli.FileOptions) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and "Traceback" not in error


def test_missing_data(tmp_path: Path, capsys) -> None:
    assert run("--npz", str(tmp_path / "none.npz"), kind=cli.FileOptions) == 2
    assert "none.npz: no such file" in capsys.readouterr().err
    assert cli.run("mnist", "", argv=["--preset=paper-mnist", "--data-dir", str(tmp_path / "none")]) == 2
    assert "is not a folder; give --data-dir DIR" in capsys.readouterr().err


def test_the_data_folder_is_taken_from_the_environment(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "there"))
    assert cli.run("mnist", "", argv=["--preset=paper-mnist"]) == 2
    assert str(tmp_path / "there") in capsys.readouterr().err


# ---- the stream ----


def test_the_stream_follows_options_and_settings(arrays: Path, capsys) -> None:
    options = parse(
        *("--npz", str(arrays), "--class-order", "9,3,5", "--classes-per-task", "1,2"),
        *("--train-per-class", "4", "--image-size", "8", "--held-out", "0.25", "--protocol", "paper"),
        kind=cli.FileOptions,
    )
    (stream,) = cli.make_streams("arrays", options, [0])
    assert stream.classes == (9, 3, 5)
    assert stream.tasks == ((0,), (1, 2))
    assert stream.image_shape == (8, 8, 1)
    assert stream.protocol == "paper"
    assert stream.train_counts(1) == (3, 3)
    found = capsys.readouterr().out
    assert found == f"found mine: 30 training and 30 test images, 6x7x1, 3 classes, from {arrays}\n"


def test_digits_need_no_files(capsys) -> None:
    (stream,) = cli.make_streams("digits", parse("--classes-per-task", "5"), [0])
    assert stream.n_tasks == 2 and stream.image_shape == (32, 32, 1)
    assert capsys.readouterr().out.startswith("found digits: 1,437 training and 360 test images, 8x8x1, 10 classes")


# ---- ImageNet-50 ----


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Real digits as class folders "c00" ... "c51", five images each, one of "c01" in colour."""
    images = load("digits").x_train[..., 0]
    for row in range(52 * 5):
        folder = tmp_path / "images" / f"c{row // 5:02}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[row]).save(folder / f"{row % 5}.png")
    Image.fromarray(np.repeat(images[5][..., None], 3, axis=-1)).save(folder.parent / "c01" / "0.png")
    return folder.parent


def run_imagenet(*argv: str) -> int:
    return cli.run("imagenet50", "", kind=cli.ImageNetOptions, argv=argv)


def imagenet_stream(*argv: str) -> TaskStream:
    options = cli.parse("imagenet50", "", kind=cli.ImageNetOptions, argv=argv)
    return cli.make_streams("imagenet50", options, [0])[0]


def test_imagenet50_is_five_tasks_of_ten_classes(folders: Path, capsys) -> None:
    stream = imagenet_stream("--data", str(folders), "--classes", "first:50")
    assert [len(task) for task in stream.tasks] == [10] * 5
    assert stream.class_names == tuple(f"c{i:02}" for i in range(50))
    assert stream.image_shape == (32, 32, 3)
    reading, found, note = capsys.readouterr().out.splitlines()
    assert reading == f"reading images from {folders}, which takes minutes if they are many"
    assert found == f"found images: 200 training and 50 test images, 32x32x3, 50 classes, from {folders}"
    assert re.fullmatch(r"note: grey images converted to colour: 249, c00/\S+, .*, \.\.\. \(249\)", note)


def test_imagenet50_without_a_choice_is_all_if_they_are_50(folders: Path, capsys) -> None:
    assert run_imagenet("--data", str(folders)) == 2
    error = f"error: {folders} has 52 classes, expected 50; choose, e.g. --classes first:50\n"
    assert capsys.readouterr().err == error
    for name in ("c03", "c07"):
        shutil.rmtree(folders / name)
    stream = imagenet_stream("--data", str(folders), "--image-size", "8")
    assert stream.n_classes == 50 and "c03" not in stream.class_names and stream.image_shape == (8, 8, 3)
    shutil.rmtree(folders / "c11")
    assert run_imagenet("--data", str(folders)) == 2
    assert capsys.readouterr().err.endswith("has 49 classes, expected 50; choose, e.g. --classes first:49\n")


def test_imagenet50_takes_any_number_of_chosen_classes(folders: Path, tmp_path: Path, learner, monkeypatch) -> None:
    streams = []
    monkeypatch.setattr(learner, "fit", lambda self, stream, workdir, resume_anyway: streams.append(stream))
    (tmp_path / "mine").write_text("c09\nc01  # in colour\nc30\nc02\n")
    data = ["--data", str(folders), "--classes-per-task", "2", "--image-size", "8"]
    assert run_imagenet(*data, "--classes", f"@{tmp_path / 'mine'}") == 0
    assert run_imagenet(*data, "--classes", "c09,c30", "--class-order", "1,0", "--evaluate-on", "training") == 0
    held_out = ["--protocol", "paper", "--held-out", "0.25"]
    assert run_imagenet(*data, "--classes", "first:2", *held_out) == 0
    four, judged, paper = streams
    assert four.class_names == ("c09", "c01", "c30", "c02") and four.tasks == ((0, 1), (2, 3))
    assert judged.class_names == ("c30", "c09") and judged.image_shape == (8, 8, 1), "grey, as all chosen are"
    assert judged.train_counts(0) == (3, 3)
    assert (paper.protocol, paper.train_counts(0)) == ("paper", (3, 3))


def test_imagenet50_of_tensorflow_datasets(tmp_path: Path, capsys) -> None:
    digits = load("digits")
    tinted = [np.stack([x[..., 0], 255 - x[..., 0], x[..., 0] // 2], axis=-1) for x in (digits.x_train, digits.x_test)]
    names = dict(enumerate(f"n{9 - label}" for label in range(10)))
    dataset = from_arrays(tinted[0], digits.y_train, tinted[1], digits.y_test, class_names=names).resized(32)
    write_array_record(dataset, tmp_path, "imagenet_resized/32x32", "0.1.0", test_split="validation")
    where = ["--data-dir", str(tmp_path)]
    stream = imagenet_stream(*where, "--classes", "first:4", "--classes-per-task", "2")
    assert stream.class_names == ("n0", "n1", "n2", "n3"), "by name; they are stored as 9, 8, 7, 6"
    stream.begin(0)
    images, indices = stream.train(0)
    for index, label in enumerate([9, 8]):
        np.testing.assert_array_equal(images[indices == index], dataset.x_train[digits.y_train == label])
    assert "classes, from " + str(tmp_path) in capsys.readouterr().out
    assert run_imagenet(*where) == 2
    assert "has 10 classes, expected 50; choose, e.g. --classes first:10\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--classes", "first:50", "--data-dir", "x"], "--data and --data-dir are two places to read from; give one"),
        (["--classes", "first:53"], "52 classes are there; expected first:N with N from 1 to 52"),
        (["--classes", "c1,c02"], "c1 is not among the 52 classes there (c00, c01, c02, c03, c04, ... (52)); c1 is"),
        (["--classes", "first:7"], "7 classes do not split into tasks of 10"),
        (["--classes", "first:50", "--class-order", "50,1"], "class_order names class 50"),
        (["--classes", "first:50", "--classes-per-task", "two"], "classes per task 'two'"),
        (["--classes", "first:50", "--grey", "refuse"], "249 of 250 images in"),
    ],
)
def test_imagenet50_mistakes(argv: list[str], expected: str, folders: Path, monkeypatch, capsys) -> None:
    if "--grey" not in argv:  # All others are told before minutes of reading.
        monkeypatch.setattr(dgm_jax.data, "from_folder", None)
    assert run_imagenet("--data", str(folders), *argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error


def test_imagenet50_skips_unreadable_files_if_told(folders: Path, capsys) -> None:
    (folders / "c00" / "1.png").write_bytes(b"")
    choice = ["--data", str(folders), "--classes", "c00,c02", "--classes-per-task", "1"]
    assert run_imagenet(*choice) == 2
    assert "1 of 10 files in " in capsys.readouterr().err
    assert imagenet_stream(*choice, "--unreadable", "skip").train_counts(0) == (3,)
    note = "note: files skipped because they cannot be read: 1, c00/1.png (empty)\n"
    assert capsys.readouterr().out.endswith(note)


def test_options_about_files_need_files(tmp_path: Path, capsys) -> None:
    for option in (["--grey", "refuse"], ["--unreadable", "skip"]):
        assert run_imagenet("--data-dir", str(tmp_path), *option) == 2
        assert capsys.readouterr().err.endswith("--grey and --unreadable are about files of images; they need --data\n")


# ---- what the learner meets ----


class _Learner:
    """Stands for the real one: records the call, or fails in its place."""

    failure: BaseException | None = None
    fitted: dict = {}

    def __init__(self, config, *, devices, backend, callbacks):
        type(self).fitted = {"config": config, "devices": devices, "backend": backend}

    def fit(self, stream, workdir, *, resume_anyway):
        if self.failure is not None:
            raise self.failure
        type(self).fitted |= {"workdir": workdir, "resume_anyway": resume_anyway}

    def fit_seeds(self, seeds, streams, workdir, *, resume_anyway):
        type(self).fitted |= {"seeds": seeds, "streams": len(streams), "workdir": workdir}
        spread = {"macro": {"mean": 0.9512, "sd": 0.004, "values": [0.95, 0.96]}}
        return {"final": 10, "protocol": "strict", "seeds": list(seeds), "A_10": {"consolidated": spread}}


class _Baseline(_Learner):
    """The same, for baselines."""


@pytest.fixture
def learner(monkeypatch):
    import dgm_jax.baselines.learner
    import dgm_jax.compilation
    import dgm_jax.learner

    for name in ("keep_programs", "keep_no_programs"):  # Later tests have a cache of their own.
        monkeypatch.setattr(dgm_jax.compilation, name, lambda: None)
    monkeypatch.setattr(dgm_jax.learner, "Learner", _Learner)
    monkeypatch.setattr(dgm_jax.baselines.learner, "BaselineLearner", _Baseline)
    monkeypatch.setattr(_Learner, "failure", None)
    return _Learner


def test_the_workdir_is_named_after_experiment_variant_and_seed(learner) -> None:
    assert run("--variant", "dgmw", "--seed", "4", "--devices", "1", "--backend", "shard_map") == 0
    assert learner.fitted == {
        "config": dataclasses.replace(preset("paper-mnist", "dgmw"), seed=4),
        "devices": 1,
        "backend": "shard_map",
        "workdir": Path("runs/digits-dgmw-seed4"),
        "resume_anyway": False,
    }


def test_a_baseline_is_run_by_its_own_learner(learner, capsys) -> None:
    assert run("--method", "er", "--memory-size", "30", "--seed", "2") == 0
    assert _Baseline.fitted["config"].memory_size == 30
    assert _Baseline.fitted["workdir"] == Path("runs/digits-er-seed2")
    assert run("--method", "er", "--seeds", "0,1") == 2
    assert capsys.readouterr().err.endswith("--seeds is for --method dgm; run a baseline once for each --seed\n")


def test_settings_can_be_chosen_without_a_test_image(learner, monkeypatch) -> None:
    streams = []
    monkeypatch.setattr(learner, "fit", lambda self, stream, workdir, resume_anyway: streams.append(stream))
    assert run("--evaluate-on", "training") == run() == 0
    chosen, plain = streams
    assert chosen.name == "digits, judged on training images held out"
    assert all(sum(chosen.train_counts(t)) < sum(plain.train_counts(t)) for t in range(10))


@pytest.mark.parametrize("argv, called", [((), "keep_programs"), (("--no-compilation-cache",), "keep_no_programs")])
def test_the_compilation_cache_is_kept_or_not(argv, called, learner, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(f"dgm_jax.compilation.{called}", lambda: calls.append(called))
    assert run(*argv) == 0 and calls == [called]


def test_several_seeds(learner, capsys) -> None:
    assert run("--seeds", "4,0", "--no-compilation-cache") == 0
    assert learner.fitted["seeds"] == (4, 0) and learner.fitted["streams"] == 2
    assert learner.fitted["workdir"] == Path("runs/digits-dgma-seeds4-0")
    out = capsys.readouterr().out
    assert "seeds 4, 0: A_10, strict protocol: consolidated 95.1 +- 0.4 %\n" in out
    assert "runs/digits-dgma-seeds4-0/summary.json" in out
    assert run("--seeds", "4", "--no-compilation-cache") == 0
    assert learner.fitted["workdir"] == Path("runs/digits-dgma-seeds4")


@pytest.mark.parametrize("text", ["0,0", "1;2", "", "0,-1", "0,01,1"])
def test_seeds_that_are_no_list(text: str) -> None:
    with pytest.raises(UserError) as error:
        cli.parse_seeds(text, 0)
    assert str(error.value) == f"--seeds {text!r} is not a list of different whole numbers; e.g. 0,1,2"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--num-processes", "2"], "--coordinator, --num-processes and --process-id need --distributed"),
        (
            ["--distributed", "--coordinator", "host:1234"],
            "--coordinator, --num-processes and --process-id belong together; give all three, or none",
        ),
        (
            ["--distributed", "--coordinator", "host", "--num-processes", "2", "--process-id", "0"],
            "--coordinator host is not HOST:PORT, e.g. host:9876",
        ),
        (
            ["--distributed", "--coordinator", "host:1234", "--num-processes", "2", "--process-id", "2"],
            "--process-id 2 is not one of 0 to 1",
        ),
    ],
)
def test_options_of_several_processes_that_do_not_fit(argv: list[str], expected: str, learner, capsys) -> None:
    assert run(*argv) == 2
    assert capsys.readouterr().err == f"error: {expected}\n"


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (UserError("the folder is in use"), 2, "error: the folder is in use\n"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command to go on\n"),
    ],
)
def test_what_ends_a_run_early(failure, status: int, said: str, learner, capsys) -> None:
    learner.failure = failure
    assert run() == status
    assert capsys.readouterr().err == said


def test_a_mistake_of_ours_keeps_its_traceback(learner) -> None:
    learner.failure = ValueError("shapes do not match")
    with pytest.raises(ValueError, match="shapes"):
        run()
