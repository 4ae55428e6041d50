"""All benchmarks report mistakes of the user before they measure anything."""

from pathlib import Path

import pytest

from benchmarks import gpu, jobs, machine, run, step
from dgm_jax.errors import ConfigError, exit_status

NOPE = Path("/nope/x.jsonl")


@pytest.mark.parametrize(
    "measure, message",
    [
        (lambda: step.main(precision="tf32"), "error: precision='tf32', but a CPU has no such numbers"),
        (lambda: step.main(out=NOPE), "error: /nope/x.jsonl: there is no folder /nope; make it first"),
        (lambda: step.main(data_dir=NOPE), "/nope"),
        (lambda: run.main(out=NOPE), "there is no folder /nope"),
        (lambda: jobs.main(out=NOPE), "there is no folder /nope"),
        (lambda: gpu.main(["--npz", "/nope.npz", "--out", "/nope/gpu.jsonl"]), "there is no folder /nope"),
        (lambda: gpu.main(["--npz", "/nope.npz", "--out", "gpu.jsonl"]), "error: /nope.npz: no such file"),
    ],
)
def test_mistakes_are_reported_before_anything_is_measured(measure, message, capsys):
    assert exit_status(measure) == 2
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
