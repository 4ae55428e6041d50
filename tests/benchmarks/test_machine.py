"""All benchmarks report mistakes of the user before they measure anything."""

import pytest

from benchmarks import gpu, machine, run, step
from dgm_jax.errors import ConfigError, exit_status


@pytest.mark.parametrize(
    "main, argv, message",
    [
        (step.main, ["--precision", "tf32"], "error: precision='tf32', but a CPU has no such numbers"),
        (step.main, ["--out", "/nope/x.jsonl"], "error: /nope/x.jsonl: there is no folder /nope; make it first"),
        (step.main, ["--data-dir", "/nope"], "/nope"),
        (run.main, ["--classes", "12", "--data-dir", "/nope"], "/nope"),
        (run.main, ["--out", "/nope/x.jsonl"], "there is no folder /nope"),
        (gpu.main, ["--npz", "/nope.npz", "--out", "/nope/gpu.jsonl"], "there is no folder /nope"),
        (gpu.main, ["--npz", "/nope.npz", "--out", "gpu.jsonl"], "error: /nope.npz: no such file"),
    ],
)
def test_mistakes_are_reported_before_anything_is_measured(main, argv, message, capsys):
    assert exit_status(lambda: main(argv)) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err and out == ""


def test_an_interrupt_is_reported(capsys):
    def stopped():
        raise KeyboardInterrupt

    assert exit_status(stopped) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_valid_arguments_are_accepted(tmp_path):
    machine.check("bf16", tmp_path / "x.jsonl")
    with pytest.raises(ConfigError):
        machine.check("tf32", None)
