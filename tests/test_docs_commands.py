"""Every command on the pages is run by a test, or listed here with the reason why not; its program reads it."""

import dataclasses
import functools
import importlib.util
import inspect
import json
import re
import types
from pathlib import Path
from unittest import mock

import pytest
import tyro
from support import pages, presets, small_runs
from support.pages import ROOT

from benchmarks import gpu
from dgm_jax import data
from dgm_jax.__main__ import main as program
from dgm_jax.commands import main, parsing, table
from dgm_jax.commands.arguments import parse_options
from dgm_jax.commands.experiments import find
from dgm_jax.config import PRESETS
from dgm_jax.data import pictures
from dgm_jax.data.tfds import NAMES
from studies import consolidate, open_set, privacy, privacy_sums, results, steps, traces, tune

COMMANDS = pages.commands()

HERE = "tests/test_docs_commands.py"
# Which test file runs the commands of a pattern: as they stand, or with fewer images and epochs.
RUN = {
    HERE: r"(python -m dgm_jax|dgm-jax) (sample|predict|export|report|forget) (runs/digits-|demo:digits |both).*"
    r"|(python -m experiments\.|dgm-jax learn )digits( --quiet| --log-format json)?",
    "tests/memory/test_demos.py": r"python -m dgm_jax sample demo:mnist .*",
    "tests/commands/test_commands.py": r"dgm-jax --tyro-print-completion .*",
    "tests/commands/test_folder.py": r"python -m experiments\.folder --data (mon|tues|thurs)day --workdir runs/mine"
    r"( --more-of-known)?|rm -r monday",
    "tests/examples/test_layers.py": r"python -m examples\.layers\w*",
    "tests/examples/test_own_images.py": r"python -m examples\.own_images.*",
    "tests/examples/test_callbacks.py": r"python -m examples\.callbacks .*",
    "tests/examples/test_serve.py": r"python -m examples\.serve .*|curl .*",
    "tests/test_docs.py": r"python -m examples\.vectors .*",
    "tests/test_tour.py": r"jupyter lab examples/tour\.ipynb",
}
# The others, by the reason why no test runs them. Of two patterns that fit, here and above, the first one counts.
NOT_RUN = {
    "needs Slurm, several hosts, or a TPU; tests/commands/test_slurm.py runs such jobs where Slurm is installed": (
        r"(srun|sbatch|gcloud) .*|.* --(distributed|launcher slurm)\b.*"
    ),
    "needs the network or the history of the repository": r"python -m dgm_jax prepare .*|git worktree .*",
    "installs packages from the network; .ci/run does so with the README's command": (
        r"python3 -m venv \.venv|\. \.venv/bin/activate|python -m pip install .*|mkdocs serve"
    ),
    "starts these tests": r"python -m pytest .*",
    "makes a folder in the user's home": r"mkdir .*",
    "writes 100,000 files; tests/commands/test_commands.py writes 18": r".* --n 100000 .*",
    "stands for any run, or needs one of vectors or of several stages; tests of runs/ and memory/ run the same": (
        r"python -m dgm_jax (sample|export|predict|report) (runs/mine|WORKDIR|folder)( .*)?"
    ),
    "learns or measures for minutes to days; tests of commands/, methods/, studies/ and benchmarks/ run small cases": (
        r"(taskset -c 0 |\w+=\S+ )*python -m (experiments|studies|benchmarks)\..*|dgm-jax learn digits --variant dgmw"
        r"|python -c from (benchmarks|pathlib) import .*"
    ),
}


def place(words: list[str]) -> str:
    """The file that runs a command, or the reason why there is none."""
    text = " ".join(words)
    found = (name for name, pattern in (RUN | NOT_RUN).items() if re.fullmatch(pattern, text))
    return next(found, "")


def test_each_command_is_run_or_listed() -> None:
    assert len(COMMANDS) > 100
    assert not [command for command in COMMANDS if not place(command[1])], "run it in a test, or say why not"
    used = {place(words) for _, words in COMMANDS}
    assert used == {*RUN, *NOT_RUN}, "a pattern fits no command any more"
    assert all((ROOT / file).is_file() for file in RUN)


def test_commands_run(tmp_path, monkeypatch, capsys) -> None:
    """In the order of the pages, in one folder: four classes of digits, small networks and few epochs."""
    monkeypatch.chdir(tmp_path)
    small = small_runs.small("dgma")
    finished = small_runs.finished(small, labels=(0, 1, 2, 3))  # Other tests share it: it needs the real digits.
    small_runs.copied(finished.workdir, Path("runs/digits-dgmw-seed0"))
    digits = small_runs.digits(16, (0, 1, 3, 7))
    monkeypatch.setitem(PRESETS, "digits", {"dgma": small})
    monkeypatch.setattr(data, "load", lambda *_, **__: digits)
    for name in ("a.png", "b.jpg"):
        pictures.write_png(tmp_path / name, digits.x_test[0])

    chosen = [words for _, words in COMMANDS if place(words) == HERE]
    assert len(chosen) >= 15
    for words in sorted(chosen, key=lambda words: "forget" in words):  # After it, the class is gone.
        command = " ".join(words)
        if words[:2] == ["python", "-m"]:
            words = ["", *words[3:]] if words[2] == "dgm_jax" else ["", "learn", "digits", *words[3:]]
        capsys.readouterr()
        assert program(words[1:]) == 0, command
        printed = capsys.readouterr().out
        assert printed, command
        if "json" in words:
            assert [json.loads(line)["event"] for line in printed.splitlines()][-1] == "run_end"
        for file in [word for word in words if word.endswith((".safetensors", ".html")) or word == "grid.png"]:
            assert Path(file).stat().st_size > 1000, command
    assert Path("runs/digits-dgma-seed0/report.html").exists()


def test_settings_as_toml(tmp_path) -> None:
    (text,) = pages.blocks(ROOT / "docs" / "formats.md", "toml")
    (file := tmp_path / "settings.toml").write_text(text)
    settings = parsing.parse(find("digits"), ["--config", str(file)]).settings
    assert settings.gan.epochs == 50 and settings.gates.masks == "random"


# ---- what a program reads ----


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_command_is_understood(page, words, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    for option, value in zip(words, words[1:]):
        if option == "--config":  # The file must exist when the command is parsed; one that changes nothing will do.
            Path(value).parent.mkdir(parents=True)
            Path(value).write_text("{}")
    if words[0] == "dgm-jax":
        understand(words[1:])
        return
    if "python" not in words:
        return
    words = words[words.index("python") :]
    if words[1] == "-c":
        compile(words[2], page, "exec")
        return
    assert words[1] == "-m", words
    module, arguments = words[2], words[3:]
    if module in ("pip", "pytest"):
        return
    assert importlib.util.find_spec(module), f"{page}: there is no module {module}"
    room, _, name = module.partition(".")
    if module == "dgm_jax":
        understand(arguments)
    elif room == "examples":
        takes_words = "\ndef main(" in Path(importlib.util.find_spec(module).origin).read_text()
        begin = importlib.import_module(module).main if takes_words else lambda: None
        inspect.signature(begin).bind(*arguments)
    elif room == "experiments":
        understand([name, *arguments] if name == "table" else ["learn", name, *arguments])
    elif module == "benchmarks.gpu":  # The only benchmark that reads its command line without tyro.
        gpu.parse(arguments)
    elif room == "benchmarks":
        tyro.cli(functools.wraps(importlib.import_module(module).main)(lambda **_: None), args=arguments)
    elif module in CHANGING:
        with pytest.raises(Understood):
            understanding(CHANGING[module], monkeypatch)(arguments)
    else:
        parse_options(importlib.import_module(module).Options, arguments, program=module, description="")


def understand(words: list[str]) -> None:
    """Reads the command line of the program itself; raises UserError or SystemExit if it cannot."""
    if words[0] == "table":
        table.parse(words[1:])
    elif words[0] == "learn":
        # The preset best asks what the images are, which are not there.
        with mock.patch.object(parsing, "_shown", return_value=presets.SHOWN["cifar10"]):
            parsing.parse(find(words[1]), words[2:])
    elif words[0] not in ("--version", "--tyro-print-completion"):
        main.parse(words)


# Studies, which try changes of settings; the other studies only read options.
CHANGING = {study.__name__: study for study in (tune, consolidate, steps, open_set, privacy, privacy_sums, traces)}


class Understood(Exception):
    """Options and changes of settings are valid, and work would begin."""


def understanding(study: types.ModuleType, monkeypatch):
    """A study's program up to its first measurement; it gets digits in place of every data set."""

    def begin(*_, **__):
        raise Understood

    digits = data.load("digits")
    monkeypatch.setattr(results, "once", begin)
    monkeypatch.setattr(consolidate, "Learner", begin)
    found = {name: dataclasses.replace(digits, name=name) for name in NAMES}
    monkeypatch.setattr(data, "load", lambda name, _: found[name])
    monkeypatch.setattr(study, "keep_programs", lambda: None)
    return study.main
