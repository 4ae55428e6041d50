"""`dgm-jax ...`, or `python -m dgm_jax ...`."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import presets
from support.stopping import lose_a_ctrl_c

import dgm_jax
from dgm_jax import __main__ as program
from dgm_jax.commands import parsing
from dgm_jax.commands.experiments import NAMES, find
from dgm_jax.commands.main import COMMANDS, main
from dgm_jax.errors import NoMemory, UserError


class _Memory:
    """Stands for a real one: classes 3 and 7 of three, drawn as flat images."""

    labels = (3, 7, 9)
    names = ("cat", "7", "dog")
    n_classes = 2
    scale = None  # Of images.

    def modes(self, label):
        return {3: (20, 10), 7: (30,)}[label]

    def sample(self, label, n, key, *, mode):
        assert key == jax.random.key(5) and mode in (None, 1)
        return np.full((n, 8, 8, 1), label / 10, np.float32)

    def stream(self, label, n, key, *, mode):
        for start in range(0, n, 7):
            yield self.sample(label, min(7, n - start), key, mode=mode)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch) -> Path:
    def load_memory(workdir, *, after_task=None):
        if after_task is not None and after_task > 1:
            raise NoMemory(f"after_task={after_task}, but {workdir} has 2 finished tasks, from 0")
        return _Memory()

    monkeypatch.setattr(dgm_jax, "load_memory", load_memory, raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_sample_draws_a_row_for_each_class(workdir: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "grid.png"
    assert main(["sample", str(workdir), "--classes", "3", "7", "--n", "20", "--out", str(out), "--seed", "5"]) == 0
    assert capsys.readouterr().out == f"20 images of each of 2 classes are in {out}\n"
    with Image.open(out) as image:
        pixels = np.asarray(image)
    assert pixels.shape[0] == 2 * (4 * 8 + 3), "20 images take two rows of 16 a class"
    assert pixels[0, -1] == round(1.3 * 127.5) and pixels[-1, -1] == 255
    assert (pixels[2 * 18, -2 * (16 * 9 - 1)]) == round(1.7 * 127.5)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--classes", "4", "9"], "error: --classes 4 9: unknown to the memory; it knows 3 cat, 7\n"),
        (
            ["--classes", "cat,7"],
            "error: --classes cat,7: unknown to the memory; it knows 3 cat, 7; write --classes cat 7\n",
        ),
        (["--classes", "cat,9"], "error: --classes cat,9: unknown to the memory; it knows 3 cat, 7\n"),
        (["--classes", "3", "--n", "10001"], "error: --n 10001: more than 10,000 images do not fit into a picture"),
        (["--classes", "3", "--n", "0"], "error: --n 0: expected at least 1 image of each class\n"),
        (["--classes", "3", "--after-task", "5"], "error: after_task=5, but "),
        (["--classes", "3", "--mode", "-1"], "error: --mode -1: expected the number of a mode; the first one is 0\n"),
        (["--classes", "3", "--mode", "2"], "error: --mode 2: class 3 cat has 2 modes, numbered from 0: one for each"),
        (["--classes", "3", "7", "--mode", "1"], "error: --mode 1: class 7 has 1 mode, numbered from 0: one for each"),
    ],
)
def test_sample_refuses(argv: list[str], expected: str, workdir: Path, tmp_path: Path, capsys) -> None:
    assert main(["sample", str(workdir), "--out", str(tmp_path / "a.png"), *argv]) == 2
    assert capsys.readouterr().err.startswith(expected)
    assert not (tmp_path / "a.png").exists()


def test_sample_writes_a_file_for_each_image(workdir: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "images"
    assert main(["sample", str(workdir), "--classes", "cat", "7", "--n", "9", "--out", str(out), "--seed", "5"]) == 0
    assert capsys.readouterr().out == f"9 images of each of 2 classes are in {out}\n"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == [
        f"{label}/{i:06}.png" for label in (3, 7) for i in range(9)
    ]
    assert main(["sample", str(workdir), "--classes", "7", "--n", "1", "--out", str(out)]) == 2
    assert "files exist already in " in capsys.readouterr().err
    with Image.open(out / "7" / "000008.png") as image:
        assert np.asarray(image).shape == (8, 8) and np.asarray(image)[0, 0] == round(1.7 * 127.5)


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder or file"):
        main(["sample", "--debug", str(tmp_path / "none"), "--classes", "3", "--out", str(tmp_path / "a.png")])


def test_sample_refuses_folders(workdir: Path, tmp_path: Path, capsys) -> None:
    rest = ["--classes", "3", "--out"]
    for name in ("a.jpg", "taken"):
        (tmp_path / "taken").write_text("")
        assert main(["sample", str(workdir), *rest, str(tmp_path / name)]) == 2
        assert "expected a picture's name that ends in .png, or a folder" in capsys.readouterr().err
    assert main(["sample", str(tmp_path / "none"), *rest, "a.png"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'none'}: no such folder or file; expected the --workdir of a run, or an exported file\n"
    )
    assert main(["sample", str(workdir), *rest, str(tmp_path / "none" / "a.png")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    (tmp_path / "folder.png").mkdir()
    assert main(["sample", str(workdir), *rest, str(tmp_path / "folder.png")]) == 2
    assert "is a folder; expected a file" in capsys.readouterr().err


def test_sample_of_a_folder_without_a_memory(tmp_path: Path, capsys) -> None:
    assert main(["sample", str(tmp_path), "--classes", "3", "--out", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no checkpoint")


def test_prepare_names_the_data_sets(tmp_path: Path, capsys) -> None:
    assert main(["prepare", "imagenet", "--data-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(
        "error: TensorFlow Datasets has no imagenet (Dataset imagenet not found.); prepare makes mnist, fashion, emnist"
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "Expected one of {learn, sample, predict, report, export, forget, prepare, table}"),
        (["sample", "x"], "--classes CLASS"),
        (["sample", "x", "--classes", "a", "--out", "b", "--n", "c"], "Error parsing --n"),
        (["predict", "x", "y", "--reading", "both"], "invalid choice 'both'"),
    ],
)
def test_usage_errors(argv: list[str], expected: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    error = " ".join(re.sub("[│|]", " ", capsys.readouterr().err).split())  # Without the frame.
    assert expected in error and "python -m dgm_jax" in error


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["draw"], "unknown command draw; choose from learn, sample, predict, report, export, forget,"),
        (["sampel", "x"], "unknown command sampel; did you mean sample?"),
        (["sample", "x", "--classes", "a", "--out", "b.png", "--nn", "3"], "unknown option --nn; did you mean --n?"),
        (["report", "--workdir", "x"], "unknown option --workdir; choose from --out, --debug."),
        (["export", "x", "y", "z"], "superfluous argument z; python -m dgm_jax export --help"),
        (["sample", "x", "--classes", "--out", "b.png"], "--classes needs at least one class"),
        (["sample", "x", "--classes", "a", "--out", "b.png", "--seed", "-1"], "--seed -1: expected a whole number"),
        (["report"], "report needs the folder of at least one run"),
        (["predict", "."], "predict needs at least one image file"),
    ],
)
def test_mistakes_are_named_in_a_line(argv: list[str], expected: str, capsys) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")


def test_ctrl_c_ends_a_command(workdir: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Memory, "sample", interrupt)
    assert main(["sample", str(workdir), "--classes", "3", "--out", str(tmp_path / "a.png")]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_jax_lost_ends_the_drawing(workdir: Path, tmp_path: Path, monkeypatch) -> None:
    def load_memory(*_, **__):
        lose_a_ctrl_c()
        return _Memory()

    monkeypatch.setattr(dgm_jax, "load_memory", load_memory)
    status = main(["sample", str(workdir), "--classes", "3", "--out", str(tmp_path / "images"), "--seed", "5"])
    assert status == 130 and not list(tmp_path.rglob("*.png"))


def test_help_does_not_wait_for_jax() -> None:
    code = (
        "import sys\nfrom dgm_jax.commands.main import main\n"
        "try:\n    main(['sample', '--help'])\nexcept SystemExit:\n    assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--after-task" in done.stdout


# ---- all commands ----


def test_the_version_is_printed(capsys) -> None:
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out == f"dgm-jax {dgm_jax.__version__}\n"


def test_help_lists_all_commands_and_experiments(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/dgm-jax"])
    for argv, names in (([], ("learn", *COMMANDS, "table", "--version")), (["learn"], NAMES)):
        with pytest.raises(SystemExit) as end:
            main([*argv, "--help"])
        text = capsys.readouterr().out
        assert end.value.code == 0 and text.startswith(" ".join(["usage: dgm-jax", *argv]))
        assert all(name in text for name in names)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_experiments_and_options(shell: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--tyro-print-completion", shell])
    script = capsys.readouterr().out
    assert not end.value.code
    assert all(word in script for word in ("learn", "cifar10", "classes-per-task", "unreadable", "after-task", "quick"))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["learn", "cifar"], "unknown experiment cifar; did you mean cifar10?"),
        (["learn", "nothing-like-it"], f"unknown experiment nothing-like-it; choose from {', '.join(NAMES)}."),
        (["learn", "digits", "--epoch", "3"], "unknown option --epoch; did you mean --epochs?"),
        (["table", "--dat", "mnist"], "unknown option --dat; did you mean --data? python -m dgm_jax table --help"),
    ],
)
def test_mistakes_in_learn_and_table_are_named_in_a_line(argv: list[str], expected: str, capsys) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_document_are_understood(name: str, monkeypatch) -> None:
    # The preset best asks what the images are, which are not there.
    monkeypatch.setattr(parsing, "_shown", lambda *_: presets.SHOWN["cifar10"])
    experiment = find(name)
    commands = re.findall(r"^    dgm-jax (.*)$", experiment.document, re.MULTILINE)
    assert commands
    for command in commands:
        _, called, *argv = shlex.split(command, comments=True)
        assert called == name and parsing.parse(experiment, argv).settings


def test_help_says_commands_as_they_were_called(capsys, monkeypatch) -> None:
    """Under the installed command, as a module, and through the folder of experiments."""
    cases = (
        ("/bin/dgm-jax", None, "dgm-jax learn mnist", "dgm-jax prepare"),
        ("/x/__main__.py", None, "python -m dgm_jax learn mnist", "python -m dgm_jax prepare"),
        ("/x/mnist.py", "python -m experiments.mnist", "python -m experiments.mnist", "python -m dgm_jax prepare"),
    )
    for path, called, shown, prepare in cases:
        monkeypatch.setattr(sys, "argv", [path])
        with pytest.raises(SystemExit):
            main(["learn", "mnist", "--help"], called=called)
        text = capsys.readouterr().out
        assert f"usage: {shown} " in text and f"\n    {shown} --data-dir DIR" in text and f"`{prepare} mnist`" in text
