"""What all benchmarks do with a person's mistakes."""

import pytest

from benchmarks import gpu, machine, run, step
from dgm_jax.errors import ConfigError, exit_status


@pytest.mark.parametrize(
    "main, argv, said",
    [
        (step.main, ["--precision", "tf32"], "error: precision='tf32', but a CPU has no such numbers"),
        (step.main, ["--json", "/nope/x.json"], "error: /nope/x.json: there is no folder /nope; make it first"),
        (step.main, ["--data-dir", "/nope"], "/nope"),
        (run.main, ["--classes", "12", "--data-dir", "/nope"], "/nope"),
        (run.main, ["--json", "/nope/x.json"], "there is no folder /nope"),
        (gpu.main, ["--npz", "/nope.npz", "--out", "/nope/gpu.json"], "there is no folder /nope"),
        (gpu.main, ["--npz", "/nope.npz", "--out", "gpu.json"], "error: /nope.npz: no such file"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(main, argv, said, capsys):
    assert exit_status(lambda: main(argv)) == 2
    out, err = capsys.readouterr()
    assert said in err and "Traceback" not in err and out == ""


def test_an_interrupt_is_told(capsys):
    def stopped():
        raise KeyboardInterrupt

    assert exit_status(stopped) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_what_is_right_is_not_refused(tmp_path):
    machine.check("bf16", tmp_path / "x.json")
    with pytest.raises(ConfigError):
        machine.check("tf32", None)
