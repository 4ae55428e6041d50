"""The command line of the experiments, up to the learner."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import presets
from support.marks import slow_but
from support.stopping import lose_a_ctrl_c

from dgm_jax import data
from dgm_jax.commands import learn, parsing
from dgm_jax.commands.experiments import NAMES, find
from dgm_jax.commands.options import Options, parse_seeds
from dgm_jax.config import PRESETS, Config, best, preset
from dgm_jax.errors import Terminated, UserError
from dgm_jax.methods.er import ReservoirSettings
from dgm_jax.reporting.console import ConsoleProgress


def parse(*argv: str, name: str = "digits") -> Options:
    return parsing.parse(find(name), ["--preset", "paper-mnist", *argv])


def run(*argv: str, name: str = "digits") -> int:
    return learn.run(name, ["--preset", "paper-mnist", *argv])


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
    for name, default in PRESETS["paper-mnist"][variant].flat().items():
        option = f"--{name.replace('_', '-')}"
        assert option in text
        assert f"(default: {default})" in text.split(option, 1)[1]
    run_options = ["preset", "class-order", "classes-per-task", "workdir", "data-dir", "devices", "resume-anyway"]
    for option in [*run_options, "backend", "distributed", "coordinator", "num-processes", "process-id"]:
        assert f"--{option}" in text
    assert "The main result in a few minutes" in text
    assert "Step size of the generator's Adam. (default: 0.002)" in text
    width = {"dgma": 20, "dgmw": 6}[variant]
    assert f"in resnet, mlp all are equal. (default: {width})" in text


@pytest.mark.parametrize("name", ["digits", "imagenet50"])
def test_help_does_not_wait_for_jax(name: str) -> None:
    code = (
        "import sys\nfrom dgm_jax.commands.learn import run\n"
        f"try:\n    run({name!r}, ['--preset', 'paper-mnist', '--help'])\n"
        "except SystemExit:\n    assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", slow_but(NAMES, "digits", "imagenet50"))
def test_an_experiment_is_a_module_that_can_be_run(name: str) -> None:
    command = [sys.executable, "-m", f"experiments.{name}", "--preset", "paper-mnist", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"python -m experiments.{name}" in done.stdout
    assert ("--npz" in done.stdout) == (name == "arrays")
    assert ("--of" in done.stdout.split()) == (name == "joined")
    assert ("--unreadable" in done.stdout) == (name in ("imagenet50", "folder"))


# ---- settings ----


def test_overrides_give_the_settings() -> None:
    options = parse("--epochs", "3", "--variant", "dgmw", "--no-reinitialise-discriminator", "--train-per-class=7")
    assert options.settings == preset("paper-mnist", "dgmw").with_changes(
        epochs=3, reinitialise_discriminator=False, train_per_class=7
    )


def test_the_variant_decides_the_defaults() -> None:
    assert parse().settings == preset("paper-mnist", "dgma")
    assert parse("--variant=dgmw").settings == preset("paper-mnist", "dgmw")
    assert parsing.parse(find("digits"), ["--preset=paper-svhn"]).settings == preset("paper-svhn", "dgma")


def test_the_best_settings_are_those_of_the_images() -> None:
    settings = parsing.parse(find("digits"), ["--preset", "best", "--variant", "dgmw"]).settings
    assert settings == presets.config("best-digits", "dgmw")
    fewer = parsing.parse(find("digits"), ["--preset", "best", "--train-per-class", "36"])
    assert fewer.settings.gan.epochs == 200 == 2 * settings.gan.epochs  # A quarter as many images, half the steps.
    assert parsing.parse(find("digits"), ["--preset", "best", "--epochs", "3"]).settings.gan.epochs == 3


def test_what_is_known_of_a_data_set_is_what_its_images_say() -> None:
    digits = data.load("digits")
    assert find("digits").shown == digits.shown | {"per_class": 144}
    assert abs(digits.shown["per_class"] - 144) <= 1
    assert {name: find(name).shown for name in presets.SHOWN} == presets.SHOWN


def test_the_best_settings_for_own_images_which_are_read_once(tmp_path, monkeypatch) -> None:
    images, labels = np.zeros((8, 20, 24, 3), np.uint8), np.repeat([0, 1], 4)
    images[::2] = 255
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    read = []
    from_npz = data.from_npz
    monkeypatch.setattr(data, "from_npz", lambda path: read.append(path) or from_npz(path))
    words = ["--npz", str(tmp_path / "mine.npz"), "--preset", "best", "--variant", "dgmw"]
    options = parsing.parse(find("arrays"), words)
    assert options.settings == best("dgmw", side=24, channels=3, per_class=4, classes=2)
    assert learn.make_streams("arrays", options, [0])[0].n_tasks == 2 and len(read) == 1


def test_the_best_settings_go_by_size_colour_and_number() -> None:
    colour = presets.config("best-cifar10")
    assert best("dgma", side=64, channels=3, per_class=1250, classes=10) == colour.with_changes(
        epochs=2 * colour.gan.epochs
    )
    assert best("dgma", side=12, channels=3, per_class=5000, classes=10) == colour.with_changes(image_size=16)
    many = best("dgma", side=32, channels=3, per_class=5000, classes=50)
    assert many == colour.with_changes(noise_dim=128)  # Room for the class among the noise.
    assert best("dgma", side=17, channels=1, per_class=6000, classes=10) == presets.config("best-mnist")
    few = best("dgma", side=28, channels=1, per_class=3999, classes=10).consolidation
    assert presets.config("best-mnist").consolidation.consolidation_steps == 4 * few.consolidation_steps


def test_data_sets_are_joined(monkeypatch, capsys) -> None:
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda name, where, **_: dataclasses.replace(digits, name=name))
    options = parsing.parse(find("joined"), ["--of", "digits, mnist", "--image-size", "8"])
    (stream,) = learn.make_streams("joined", options, [0], options.output)
    assert stream.n_tasks == 20 and stream.class_names[3] == "digits 3" and stream.class_names[13] == "mnist 3"
    assert "found digits+mnist: 2,874 training" in capsys.readouterr().out


def test_run_options() -> None:
    options = parse("--class-order", "3,1", "--classes-per-task=2,1", "--devices", "2", "--resume-anyway")
    assert (options.class_order, options.classes_per_task) == ("3,1", "2,1")
    assert (options.devices, options.resume_anyway, options.workdir) == (2, True, None)
    assert parse("--devices", "all").devices == "all" and parse().devices is None


# ---- mistakes: exit status 2, and the valid values ----


def test_an_option_that_is_nearly_one_is_named(capsys) -> None:
    assert run("--epoch", "3") == 2
    assert (
        capsys.readouterr().err == "error: unknown option --epoch; did you mean --epochs? --help explains all options\n"
    )


def test_an_unknown_option_is_named_and_so_are_the_valid_ones(capsys) -> None:
    assert run("--zzz", "3") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown option --zzz\nThe options, which --help explains, are\n  --")
    assert max(map(len, error.splitlines())) <= 100
    told = error.split()
    for name in Config().flat():
        assert f"--{name.replace('_', '-')}" in told
    assert "--class-order" in told and "--npz" not in told


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--replay", "sometimes"], ["--replay", "fixed", "fresh"]),
        (["--epochs", "many"], ["--epochs", "INT", "many"]),
        (["--devices", "two"], ["--devices", "two"]),
        (["--epochs"], ["--epochs"]),
        (["--method", "gan"], ["--method", "dgm", "mergan-jtr"]),
    ],
)
def test_a_value_that_cannot_be_read_ends_the_process(argv: list[str], expected: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run(*argv)
    assert end.value.code == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").replace("|", " ").split())  # It is folded into a frame.
    for text in expected:
        assert text in error


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--epochs", "0"], "epochs=0 must be greater than 0"),
        (["--batch-size", "-1"], "batch_size=-1 must be greater than 0"),
        (["--clip-norm", "0"], "clip_norm=0.0 must be greater than 0"),
        (["--penalty-weight", "-1"], "penalty_weight=-1.0 must be at least 0"),
        (["--generator-average", "1"], "generator_average=1.0 must be at least 0 and below 1"),
        (["--mask-share", "1.5"], "mask_share=1.5 must be greater than 0 and at most 1"),
        (["--protocol", "paper", "--held-out", "0"], "protocol='paper' chooses epochs on held-out images"),
        (["--warm-start", "--no-reuse", "--gate-gradient", "closed"], "warm_start=True begins with"),
    ],
)
def test_a_value_that_cannot_work_is_refused(argv: list[str], expected: str, capsys) -> None:
    assert run(*argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")


NAMED = list(PRESETS)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--preset", "nope"], f"error: preset 'nope' is unknown; choose one of best, {', '.join(NAMED)}\n"),
        (
            ["--preset", "best-mnist"],
            f"error: preset 'best-mnist' is unknown; choose one of best, {', '.join(NAMED)}\n",
        ),
        (["--variant", "dgmx"], "error: variant 'dgmx' is unknown; choose one of dgma, dgmw\n"),
    ],
)
def test_an_unknown_preset_or_variant_names_the_valid_ones(argv: list[str], expected: str, capsys) -> None:
    assert run(*argv) == 2
    assert capsys.readouterr().err == expected


def test_the_file_of_arrays_is_required(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run(name="arrays")
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
    assert run("--npz", str(arrays), *argv, name="arrays") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and "Traceback" not in error


def test_missing_data(tmp_path: Path, capsys) -> None:
    assert run("--npz", str(tmp_path / "none.npz"), name="arrays") == 2
    assert "none.npz: no such file" in capsys.readouterr().err
    assert learn.run("mnist", ["--preset=paper-mnist", "--data-dir", str(tmp_path / "none")]) == 2
    assert "is not a folder; give --data-dir DIR" in capsys.readouterr().err


def test_the_data_folder_is_taken_from_the_environment(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "there"))
    assert learn.run("mnist", ["--preset=paper-mnist"]) == 2
    assert str(tmp_path / "there") in capsys.readouterr().err


# ---- the stream ----


def test_the_stream_follows_options_and_settings(arrays: Path, capsys) -> None:
    options = parse(
        "--npz",
        str(arrays),
        "--class-order",
        "9,3,5",
        "--classes-per-task",
        "1,2",
        "--train-per-class",
        "4",
        "--image-size",
        "8",
        "--held-out",
        "0.25",
        "--protocol",
        "paper",
        name="arrays",
    )
    (stream,) = learn.make_streams("arrays", options, [0], options.output)
    assert stream.classes == (9, 3, 5)
    assert stream.tasks == ((0,), (1, 2))
    assert stream.image_shape == (8, 8, 1)
    assert stream.protocol == "paper"
    assert stream.train_counts(1) == (3, 3)
    found = capsys.readouterr().out
    assert found == f"found mine: 30 training and 30 test images, 6x7x1, 3 classes, from {arrays}\n"


def test_digits_need_no_files(capsys) -> None:
    options = parse("--classes-per-task", "5")
    (stream,) = learn.make_streams("digits", options, [0], options.output)
    assert stream.n_tasks == 2 and stream.image_shape == (32, 32, 1)
    assert capsys.readouterr().out.startswith("found digits: 1,437 training and 360 test images, 8x8x1, 10 classes")


def test_how_it_is_printed_is_chosen_by_two_options(learner, capsys) -> None:
    assert run("--quiet") == run("--quiet", "--log-format", "json") == 0
    assert capsys.readouterr().out == "", "this learner has no event, and what was found is no result"
    assert run("--log-format", "json", "--seeds", "4,0") == 0
    first, *_, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["event"] == "message" and first["text"].startswith("found digits: 1,437 training")
    assert last["event"] == "seeds_end" and last["summary"]["seeds"] == [4, 0]
    assert run("--log-format", "json", "--quiet", "--fold", "6/5") == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: fold 6 of 5: "), "errors stay a line on standard error"


def test_each_seed_can_have_an_order_of_its_own(arrays: Path) -> None:
    options = parse("--npz", str(arrays), "--class-order", "seed", "--image-size", "8", name="arrays")
    streams = learn.make_streams("arrays", options, [0, 1, 2, 3])
    orders = [data.parse_class_order(f"random:{seed}", (3, 5, 9)) for seed in range(4)]
    assert [stream.classes for stream in streams] == orders and len(set(orders)) > 1


def test_a_fold_of_the_digits(capsys) -> None:
    options = parse("--fold", "2/5", "--train-per-class", "100", "--held-out", "0", "--image-size", "8")
    (stream,) = learn.make_streams("digits", options, [0], options.output)
    fold = data.fold(data.load("digits"), 2, 5).first_per_class(100)
    stream.begin(9)
    assert stream.name == "digits, fold 2 of 5" and stream.train_counts(3) == (100,)
    np.testing.assert_array_equal(stream.test(9)[0], fold.x_test[np.argsort(fold.y_test, kind="stable")])
    np.testing.assert_array_equal(stream.train(9)[0], fold.x_train[fold.y_train == 9])
    assert (
        "found digits, fold 2 of 5: 1,435 training and 362 test images, 8x8x1, 10 classes\n" in capsys.readouterr().out
    )
    assert run("--fold", "6/5") == 2
    assert capsys.readouterr().err.startswith("error: fold 6 of 5: expected a number from 1 to that of all folds")


# ---- what the learner meets ----


def test_the_workdir_is_named_after_experiment_variant_and_seed(learner) -> None:
    assert run("--variant", "dgmw", "--seed", "4", "--devices", "1", "--backend", "shard_map") == 0
    assert learner.fitted == {
        "config": preset("paper-mnist", "dgmw").with_changes(seed=4),
        "devices": 1,
        "backend": "shard_map",
        "workdir": Path("runs/digits-paper-mnist-dgmw-seed4"),
        "resume_anyway": False,
        "more_of_known": False,
    }


def test_a_baseline_is_run_by_the_same_learner(learner) -> None:
    assert run("--method", "er", "--memory-size", "30", "--seed", "2") == 0
    assert learner.fitted["config"].method_settings == ReservoirSettings(memory_size=30)
    assert learner.fitted["workdir"] == Path("runs/digits-paper-mnist-er-seed2")
    assert run("--method", "er", "--seeds", "0,1") == 0
    assert learner.fitted["seeds"] == (0, 1)


def test_settings_can_be_chosen_without_a_test_image(learner, monkeypatch) -> None:
    streams = []
    monkeypatch.setattr(learner, "fit", lambda self, stream, workdir, **how: streams.append(stream))
    assert run("--evaluate-on", "training") == run() == 0
    chosen, plain = streams
    assert chosen.name == "digits, judged on training images held out"
    assert all(sum(chosen.train_counts(t)) < sum(plain.train_counts(t)) for t in range(10))


@pytest.mark.parametrize("argv, called", [((), "keep_programs"), (("--no-compilation-cache",), "keep_no_programs")])
def test_the_compilation_cache_is_kept_or_not(argv, called, learner, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(f"dgm_jax.system.compilation.{called}", lambda: calls.append(called))
    assert run(*argv) == 0 and calls == [called]


def test_several_seeds(learner, capsys) -> None:
    assert run("--seeds", "4,0", "--no-compilation-cache") == 0
    assert learner.fitted["seeds"] == (4, 0) and learner.fitted["streams"] == 2
    assert learner.fitted["workdir"] == Path("runs/digits-paper-mnist-dgma-seeds4-0")
    out = capsys.readouterr().out
    assert "seeds 4, 0: A_10, strict protocol: consolidated 95.1 +- 0.4 %\n" in out
    assert "runs/digits-paper-mnist-dgma-seeds4-0/summary.json" in out
    assert run("--seeds", "4", "--no-compilation-cache") == 0
    assert learner.fitted["workdir"] == Path("runs/digits-paper-mnist-dgma-seeds4")


@pytest.mark.parametrize("text", ["0,0", "1;2", "", "0,-1", "0,01,1"])
def test_seeds_that_are_no_list(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_seeds(text, 0)
    assert str(error.value) == f"--seeds {text!r} is not a list of different whole numbers; e.g. 0,1,2"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--num-processes", "2"], "--coordinator, --num-processes and --process-id need --distributed"),
        (
            ["--distributed", "--coordinator", "host:1234"],
            "--coordinator, --num-processes and --process-id belong together; give all three or none",
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


_FULL = (
    "error: [Errno 28] No space left on device; what was saved before is intact; free some space, "
    "then run the same command to resume\n"
)


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (UserError("the folder is in use"), 2, "error: the folder is in use\n"),
        (OSError(28, "No space left on device"), 2, _FULL),
        (KeyboardInterrupt(), 130, "interrupted; run the same command to resume\n"),
        (Terminated(), 143, "stopped by SIGTERM; run the same command to resume\n"),
    ],
)
def test_what_ends_a_run_early(failure, status: int, said: str, learner, capsys) -> None:
    learner.failure = failure
    assert run() == status
    assert capsys.readouterr().err == said


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # Nor is there a traceback.
@pytest.mark.parametrize("event", ["on_progress", "on_epoch_end"])
def test_a_lost_ctrl_c_ends_the_run_at_its_next_word(event: str, learner, monkeypatch, capsys) -> None:
    """What is raised while garbage is collected goes no further: Python prints it, and goes on."""

    def fit(self, *_, **__) -> None:
        lose_a_ctrl_c()
        for callback in self.callbacks:
            if not isinstance(callback, ConsoleProgress):
                getattr(callback, event)(None)
        raise AssertionError("the run went on")

    monkeypatch.setattr(learner, "fit", fit)
    assert run() == 130
    assert "interrupted; run the same command to resume" in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback(learner) -> None:
    learner.failure = ValueError("shapes do not match")
    with pytest.raises(ValueError, match="shapes"):
        run()
