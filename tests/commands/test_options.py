"""From the command line to settings: the order of --help, a file of settings, and what a method does not read."""

import dataclasses
import json
from pathlib import Path

import pytest

from dgm_jax.commands.experiments import find
from dgm_jax.commands.learn import run
from dgm_jax.commands.parsing import parse
from dgm_jax.config import Config, preset
from dgm_jax.errors import UserError
from dgm_jax.methods.er import ReservoirSettings
from dgm_jax.methods.kept_images import KeptImagesSettings

FORMAT_1 = Path(__file__).parent.parent / "fixtures" / "format-1" / "run" / "config.json"


def settings(*argv: str, name: str = "digits") -> Config:
    return parse(find(name), argv).settings


def written(folder: Path, text: str, name: str = "settings.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# ---- help ----

FIRST = (
    "preset",
    "config",
    "method",
    "variant",
    "seed",
    "seeds",
    "epochs",
    "workdir",
    "data-dir",
    "classes-per-task",
    "train-per-class",
    "devices",
)
SECTIONS = ("data", "networks", "gan", "gates", "replay", "consolidation", "features", "run")


def shown(capsys, *argv: str, name: str = "digits") -> list[tuple[str, list[str]]]:
    """The sections of --help with their options, in order."""
    with pytest.raises(SystemExit) as end:
        parse(find(name), [*argv, "--help"])
    assert end.value.code == 0
    sections: list[tuple[str, list[str]]] = []
    for line in capsys.readouterr().out.splitlines():
        words = line.strip("│╭╮─ ").split()  # Frames, which are drawn if the terminal can show them.
        if words[1:] == ["options"] or words == ["options"]:
            sections.append((words[0], []))
        elif sections and words and words[0].strip("-,") and words[0].startswith("--"):
            sections[-1][1].append(words[0].strip("-,"))
    return sections


def test_help_begins_with_what_people_use_most(capsys) -> None:
    sections = shown(capsys)
    assert sections[0] == ("options", list(FIRST))
    assert [name for name, _ in sections[1:]] == list(SECTIONS)
    every = [option for _, options in sections for option in options]
    assert len(every) == len(set(every))


def test_what_has_to_be_given_comes_before_all(capsys) -> None:
    assert shown(capsys, name="folder")[0] == ("options", ["data", *FIRST])


def test_help_of_a_baseline_has_what_it_reads(capsys) -> None:
    sections = dict(shown(capsys, "--method", "er"))
    assert sections["er"] == ["memory-size", "memory-format", "mini-batches"]
    assert "gates" not in sections and "epochs" not in sections["options"]
    assert sections["gan"] == ["batch-size", "precision"]


# ---- a method reads its own settings only ----


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["--method", "joint", "--masks", "random", "--scale-max", "5"],
            "--masks and --scale-max have no effect for method 'joint' (only for dgm); remove them",
        ),
        (["--method", "er", "--no-reuse"], "--no-reuse has no effect for method 'er' (only for dgm); remove it"),
        (
            ["--method", "joint", "--reconstruction-weight", "0"],  # Its default, but it would mean nothing.
            "--reconstruction-weight has no effect for method 'joint' (only for dgm, separate, dgr, mergan, "
            "mergan-jtr); remove it",
        ),
        (
            ["--method", "separate", "--warm-start"],
            "--warm-start has no effect for method 'separate' (only for dgm: a task then begins with masks of earlier "
            "tasks, in the generator that it shares with them); remove it",
        ),
        (["--memory-size", "9"], "--memory-size has no effect for method 'dgm' (only for er, icarl, gdumb); remove it"),
        (
            ["--method", "mergan-jtr", "--alignment-weight=1"],
            "--alignment-weight has no effect for method 'mergan-jtr' (only for mergan); remove it",
        ),
    ],
)
def test_settings_of_another_method_are_refused(argv: list[str], expected: str, capsys) -> None:
    assert run("digits", argv) == 2
    assert capsys.readouterr().err == f"error: {expected}\n"


def test_a_preset_is_cut_to_what_the_method_reads() -> None:
    changed = settings("--preset", "best", "--method", "er", "--memory-size", "30", name="mnist")
    expected = Config(method="er", method_settings=ReservoirSettings(memory_size=30))
    assert changed == expected.with_changes(
        discriminator_width=16,
        batch_size=16,
        consolidation_steps=12800,
        consolidation_shift=1,
        consolidation_smoothing=0.1,
    )


def test_the_variant_chooses_the_settings_of_a_preset_for_other_generators_too() -> None:
    widths = [
        settings("--method", "mergan", "--variant", variant, name="cifar10").networks.generator_width
        for variant in ("dgma", "dgmw")
    ]
    assert widths == [32, 16]
    with pytest.raises(UserError, match="^--variant has no effect for method 'joint'"):
        settings("--method", "joint", "--variant", "dgmw")


# ---- a file of settings ----


def test_options_override_the_file_which_overrides_the_preset(tmp_path: Path) -> None:
    path = written(tmp_path, 'seed = 4\nepochs = 7\n[gates]\nvariant = "dgmw"\nsparsity_weight = 0.3\n')
    found = settings("--config", str(path), "--epochs", "9")
    assert found == preset("digits", "dgmw").with_changes(seed=4, epochs=9, sparsity_weight=0.3)


def test_the_settings_of_a_run_are_a_file_of_settings(tmp_path: Path) -> None:
    config = Config().with_changes(masks="random", epochs=3, seed=8)
    content = {"format_version": 2, "protocol": "strict", "config": dataclasses.asdict(config), "stream": {}}
    path = written(tmp_path, json.dumps(content), "config.json")
    assert settings("--config", str(path)) == config
    assert settings("--config", str(FORMAT_1)).with_changes(critic_condition="none") == Config().with_changes(
        image_size=8,
        noise_dim=8,
        generator_width=3,
        discriminator_width=4,
        epochs=3,
        batch_size=8,
        precision="float32",
        scale_max=100.0,
        replay_steps=None,
        consolidation_steps=6,
        consolidation_samples=16,
    )


def test_the_method_in_a_file_and_on_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, 'method = "er"\n[method_settings]\nmemory_size = 30\n')
    assert settings("--config", str(path)).method_settings == ReservoirSettings(memory_size=30)
    assert settings("--config", str(path), "--memory-size", "31").method_settings == ReservoirSettings(memory_size=31)
    assert settings("--config", str(path), "--method", "joint").method == "joint"
    dgm = written(tmp_path, 'method = "dgm"\n[gates]\nmasks = "random"\n', "dgm.toml")
    assert settings("--config", str(dgm), "--method", "joint").gates.masks == "learnt"  # As with a preset.
    memory = written(tmp_path, "memory_size = 30", "memory.toml")  # It is for the method of the command line.
    assert settings("--config", str(memory), "--method", "icarl").method_settings == KeptImagesSettings(memory_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gan]\nepoch = 3", "there is no setting 'epoch' for method 'dgm'; did you mean 'epochs'?"),
        ("[gan]\nscale_max = 3", "setting 'scale_max' stands in group 'gan'; it belongs in group 'gates'"),
        ("[gan]\nseed = 3", "setting 'seed' stands in group 'gan'; it belongs outside of groups"),
        (
            "[gans]\nepochs = 3",
            "there is no group 'gans'; the groups are data, networks, gan, gates, replay, consolidation, "
            "features, method_settings",
        ),
        ("gan = 3", "gan=3 must be a group of settings, with names and values"),
        ('[gan]\nepochs = "many"', "epochs='many' must be a whole number"),
        ("[gan]\nepochs = true", "epochs=True must be a whole number"),
        ("epochs = 0", "epochs=0 must be greater than 0"),
        ('replay = "some"', "replay='some' is unknown; choose one of fixed, fresh"),
        ("memory_size = 3", "memory_size has no effect for method 'dgm' (only for er, icarl, gdumb); remove it"),
        (
            'method = "joint"\n[gates]\nmasks = "random"',
            "masks='random' has no effect for method 'joint' (only for dgm); remove it",
        ),
        ("method = 3", "method=3 must be a name"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        settings("--config", str(path))
    assert str(error.value) == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.toml", "[gan\n", "cannot be read (Expected ']' at the end of a table declaration"),
        ("a.json", "{", "cannot be read (Expecting property name"),
        ("a.json", "[1]", "holds no settings; expected names and values, e.g. epochs = 3"),
        (
            "a.json",
            '{"format_version": 3, "config": {}}',
            "was written in format 3, this version of dgm_jax reads up to 2",
        ),
        (
            "a.json",
            '{"format_version": 1, "config": {"penalty": "r1"}}',
            "holds a run with penalty='r1', removed after",
        ),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, name: str, text: str, expected: str) -> None:
    path = written(tmp_path, text, name)
    with pytest.raises(UserError) as error:
        settings("--config", str(path))
    assert str(error.value).startswith(f"{path} {expected}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        settings("--config", str(tmp_path / "none.toml"))
    assert str(error.value) == (
        f"{tmp_path / 'none.toml'} cannot be read (there is no such file); expected settings as JSON, or as TOML if "
        "the name ends in .toml"
    )
