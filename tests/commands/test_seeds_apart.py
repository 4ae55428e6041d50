"""`learn --seeds ... --jobs N`: each seed in a process of its own."""

import json

import numpy as np
import pytest
from support import children, small_runs
from support.marks import slow_but

from dgm_jax.commands import learn
from dgm_jax.system.engines import usable_cores

CORES = usable_cores()
TINY = ["--classes-per-task", "5", "--train-per-class", "24", "--discriminator-width", "4", "--batch-size", "8"]
TINY += ["--consolidation-steps", "20"]
METHODS = {
    "er": ["--method", "er", "--memory-size", "30"],
    "dgm": ["--epochs", "2", "--generator-width", "3", "--noise-dim", "12", "--consolidation-samples", "16"],
}

ALONE = """
import os
os.sched_setaffinity(0, [{core}])
from dgm_jax.commands import learn
assert learn.run("digits", {argv!r}) == 0
"""


@pytest.mark.parametrize(
    "words, message",
    [
        (["--jobs", "2"], "--jobs is how many seeds are trained at once; it needs --seeds"),
        (["--jobs", "0", "--seeds", "0,1"], "--jobs 0: expected a whole number of at least 1"),
        (["--jobs", "2", "--seeds", "0,1", "--distributed"], "--jobs and --distributed do not go together; leave one"),
    ],
)
def test_what_does_not_go_together(words, message, tmp_path, capsys):
    assert learn.run("digits", [*words, "--workdir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_one_run_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert learn.run("digits", ["--jobs", "1", "--seeds", "0,1", "--workdir", str(tmp_path)]) == 2
    assert f"{tmp_path} is the folder of a run of one seed" in capsys.readouterr().err


@pytest.mark.skipif(len(CORES) < 2, reason="this machine has one core")
@pytest.mark.parametrize("method", slow_but(list(METHODS), "er"))
def test_a_seed_is_bit_for_bit_a_run_of_its_own_on_as_many_cores(method, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # As `children` sets it.
    options = [*METHODS[method], *TINY]
    one = ["--seed", "3", "--workdir", str(tmp_path / "alone"), *options]
    children.outputs(children.start(ALONE.format(core=CORES[0], argv=one)))
    several = ["--seeds", "3,0", "--jobs", "2", "--workdir", str(tmp_path / "both"), *options]
    assert learn.run("digits", several) == 0
    assert "2 of 2 done" in (out := capsys.readouterr().out) and "seeds 3, 0: A_10, strict protocol: " in out

    alone, apart = (small_runs.newest(tmp_path / name).tree for name in ("alone", "both/seed3"))
    assert _leaves(alone).keys() == _leaves(apart).keys()
    for name, array in _leaves(alone).items():
        np.testing.assert_array_equal(array, _leaves(apart)[name], err_msg=name)
    mine, its = (_summary(tmp_path / name) for name in ("both/seed3", "alone"))
    seconds = mine.pop("seconds")
    assert seconds and its.pop("seconds") and mine == its

    summary, other = _summary(tmp_path / "both"), _summary(tmp_path / "both/seed0")
    reading = next(iter(mine["A_10"]))
    assert summary["seeds"] == [3, 0] and summary["runs"] == ["seed3", "seed0"]
    assert summary["A_10"][reading]["macro"]["values"] == [run["A_10"][reading]["macro"] for run in (mine, other)]
    assert summary["seconds"]["evaluate"] == pytest.approx(seconds["evaluate"] + other["seconds"]["evaluate"], abs=2e-3)
    assert "--seeds 3,0 --jobs 2" in (tmp_path / "both" / "seed3" / "commands.txt").read_text()


def _summary(folder):
    return json.loads((folder / "summary.json").read_text())


def _leaves(tree, name=""):
    if isinstance(tree, dict):
        return {k: v for key, node in tree.items() for k, v in _leaves(node, f"{name}/{key}").items()}
    if isinstance(tree, list):
        return {k: v for number, node in enumerate(tree) for k, v in _leaves(node, f"{name}/{number}").items()}
    return {name: np.asarray(tree)}
