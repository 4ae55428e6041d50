"""Commands in surroundings that others have made: no device, streams that cannot print, a notebook's variables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMORY = ROOT / "tests" / "fixtures" / "format-1" / "memory.dgm"
SAMPLE = ("-m", "dgm_jax", "sample", str(MEMORY), "--classes", "0", "--n", "2", "--out")


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *arguments], env=variables, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("platform", ["tpu", "cuda", "nonsense"])
def test_a_device_that_is_not_there_is_named_in_one_line(platform: str, tmp_path: Path) -> None:
    for command in ((*SAMPLE, str(tmp_path / "grid.png")), ("-m", "experiments.digits", "--workdir", str(tmp_path))):
        done = run(*command, JAX_PLATFORMS=platform)
        assert done.returncode == 2, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"error: JAX finds no device of the kind JAX_PLATFORMS={platform}"), done.stderr
        assert "unset JAX_PLATFORMS" in last and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


PRINT = """
import sys
from dgm_jax.errors import exit_status
def command():
    print("\\u732b and \\u72ac")
    print("to the other stream", file=sys.stderr)
sys.exit(exit_status(command))
"""


def test_letters_that_a_stream_lacks_are_escaped() -> None:
    done = run("-c", PRINT, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "\\u732b and \\u72ac\n")
    assert run("-c", PRINT, PYTHONIOENCODING="utf-8").stdout == "\u732b and \u72ac\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_ends_no_command(closed: str, tmp_path: Path) -> None:
    """And no file that is opened later takes its place, into which others would then print."""
    program = tmp_path / "program.py"
    number = f"open({str(tmp_path / 'number')!r}, 'w')"
    program.write_text(PRINT.replace("sys.exit(", "status = (") + f"file = {number}\nfile.write(str(file.fileno()))\n")
    with program.open("a") as file:
        file.write("sys.exit(status)\n")
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", f"{sys.executable} {program} {closed}"], env=variables, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "number").read_text()) > 2


def test_a_backend_that_is_not_installed_does_not_matter() -> None:
    """A notebook's kernel sets it for every command that is started from it."""
    code = "from dgm_jax.reporting.charts import svg; print(len(svg('a chart', lambda axes: axes.plot([0, 1]))))"
    code += "; import os; print(os.environ['MPLBACKEND'])"
    done = run("-c", code, MPLBACKEND="module://no_such_module.backend")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "module://no_such_module.backend"


def test_a_bucket_for_compiled_programs_makes_no_folder_here(tmp_path: Path) -> None:
    code = "from dgm_jax.system.compilation import keep_programs; print(keep_programs())"
    done = run("-c", code, cwd=tmp_path, JAX_COMPILATION_CACHE_DIR="gs://bucket/cache", NPROC="2")
    assert done.stdout == "gs://bucket/cache/2-cores\n" and not list(tmp_path.iterdir())
