"""The same command with new classes, for several seeds: in the same folder, or in one that goes on from it."""

import json

import numpy as np
import pytest
from support import small_runs
from support.marks import slow_but

from dgm_jax import load_memory
from dgm_jax.commands import learn
from dgm_jax.config import presets

SEEDS = (0, 5)
COMMAND = ["--preset", "best", "--image-size", "8", "--batch-size", "8", "--generator-width", "3", "--headroom", "4"]
COMMAND += ["--discriminator-width", "4", "--consolidation-steps", "6", "--consolidation-samples", "16"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """`best` as it is, but for its numbers: 10 / sqrt(n) epochs, and a short noise vector for one class only."""
    monkeypatch.setitem(presets._EPOCHS, "digits", 10)
    monkeypatch.setattr(presets, "_FEW", 1)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Files of real digits: one class of 24 images, then two classes of 6."""
    folder = tmp_path_factory.mktemp("days")
    for day, (labels, n) in enumerate((((0,), 24), ((1, 2), 6))):
        digits = small_runs.digits(8, labels, n)
        first = min(labels)
        names = np.array([["nought"], ["one", "two"]][day])
        parts = {"x_train": digits.x_train, "x_test": digits.x_test, "class_names": names}
        parts |= {"y_train": digits.y_train - first, "y_test": digits.y_test - first}
        np.savez(folder / f"day{day}.npz", **parts)
    return folder


def run(days, day, workdir, *words, seeds=("--seeds", "0,5")):
    return learn.run(
        "arrays", ["--npz", str(days / f"day{day}.npz"), "--workdir", str(workdir), *COMMAND, *seeds, *words]
    )


@pytest.fixture(scope="module")
def first_day(days):
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(presets._EPOCHS, "digits", 10)
        patched.setattr(presets, "_FEW", 1)
        assert run(days, 0, days / "run") == 0
    return days / "run"


def _assert_learnt(folder, first_day):
    """Another number of epochs, as the preset has it for fewer images; what lasts is as on the first day."""
    for seed in SEEDS:
        own = folder / f"seed{seed}"
        memory, before = load_memory(own), load_memory(first_day / f"seed{seed}")
        assert memory.names == ("nought", "one", "two") and memory.noise_dim == before.noise_dim == 32
        drawn, expected = (small_runs.draw_all(m)[0] for m in (memory, before))
        assert drawn.tobytes() == expected.tobytes()
        config = json.loads((own / "config.json").read_text())
        assert config["config"]["gan"]["epochs"] == 4 and config["before"][0]["gan"]["epochs"] == 2


def test_the_preset_goes_by_the_new_images(days, first_day, tmp_path, capsys):
    folder = small_runs.copied(first_day, tmp_path / "run")
    assert run(days, 1, folder, "--epochs", "3") == 2
    assert "epochs is 2, now 3. Choose another --workdir, or pass --resume-anyway" in capsys.readouterr().err
    assert run(days, 1, folder) == 0
    said = "".join(capsys.readouterr())
    assert said.count("epochs is 2, now 4: chosen by the number of images, which is another one now") == 1
    _assert_learnt(folder, first_day)
    assert run(days, 1, folder) == 0, "the same command again finds a run that is finished"


@pytest.mark.parametrize("jobs", slow_but(["", "--jobs 1"], ""))
def test_several_seeds_go_on_from_an_earlier_day(jobs, days, first_day, tmp_path, monkeypatch):
    """With --jobs each seed by itself; here in this process, as tests/commands/test_seeds_apart.py starts others."""
    monkeypatch.setattr("dgm_jax.system.jobs.run", lambda chosen, *_: {own: "" for own in chosen if own.function()})
    folder = tmp_path / "other"
    assert run(days, 1, folder, "--from", str(first_day), "--after-task", "0", *jobs.split()) == 0
    _assert_learnt(folder, first_day)
    assert json.loads((folder / "summary.json").read_text())["seeds"] == list(SEEDS)
    for seed in SEEDS:
        begun_from = json.loads((folder / f"seed{seed}" / "begun_from.json").read_text())
        assert begun_from == {"workdir": str((first_day / f"seed{seed}").resolve()), "after_task": 0}


@pytest.mark.parametrize("jobs", [(), ("--jobs", "1")], ids=["side by side", "apart"])
@pytest.mark.parametrize(
    "seeds, source, expected",
    [
        ("0,5", "seed0", "is the folder of a run of one seed, from which only a run of that seed goes on; leave"),
        ("0,7", "", "has no run of seed7; it has seed0, seed5\n"),
        ("0", "none", "has no run of seed0; expected the --workdir of a run of several seeds\n"),
    ],
)
def test_seeds_that_are_not_there(seeds, source, expected, jobs, days, first_day, tmp_path, capsys):
    words = ["--from", str(first_day / source), "--after-task", "0", *jobs]
    assert run(days, 1, tmp_path / "other", *words, seeds=("--seeds", seeds)) == 2
    assert f"error: {first_day / source} {expected}" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
