"""The core: what works without the extras, without `fcntl`, and what importing the layers costs."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from support import children, small_runs
from support.core import draw

from dgm_jax import errors
from dgm_jax.errors import EXTRAS, MissingExtra, exit_status, naming_extras
from dgm_jax.memory import file as memory_file

ROOT = Path(__file__).resolve().parents[1]
CORE = ("jax", "jaxlib", "numpy", "optax", "safetensors", "scipy")

# Lets nobody find some modules, as if they were not installed.
WITHOUT = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nowhere())
"""


@pytest.fixture(scope="module")
def memory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "memory.safetensors"
    memory_file.write(path, small_runs.finished(small_runs.small("dgma")).memories[-1])
    return path


def test_without_the_extras_a_memory_draws_the_same_and_the_layers_work(memory: Path) -> None:
    program = (
        f"import runpy; sys.argv = ['core.py', {str(memory)!r}]; runpy.run_module('support.core', {{}}, '__main__')"
    )
    (out,) = children.outputs(children.start(WITHOUT.format(names=tuple(EXTRAS)) + program))
    assert out.split() == [str(ROOT / "dgm_jax" / "__init__.py"), draw(str(memory))]


def test_without_the_extras_a_command_says_in_one_line_what_to_install(tmp_path: Path) -> None:
    program = "import runpy; sys.argv = ['dgm-jax', *{words!r}]; runpy.run_module({module!r}, {{}}, '__main__')"
    for module, words in (("dgm_jax", ["learn", "digits"]), ("experiments.digits", [])):
        code = WITHOUT.format(names=tuple(EXTRAS)) + program.format(words=words, module=module)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        expected = 'error: tyro is not installed; run: python -m pip install "dgm-jax[train]"\n'
        assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_other_modules_that_are_missing_are_no_extras() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as error, naming_extras():
        import no_such_module  # noqa: F401
    assert not isinstance(error.value, MissingExtra)


def test_a_package_that_is_there_and_too_old_is_not_called_missing() -> None:
    with pytest.raises(ImportError, match="cannot import name 'no_such_name' from 'rich'") as error, naming_extras():
        from rich import no_such_name  # noqa: F401
    assert not isinstance(error.value, MissingExtra)


def test_what_jax_misses_is_named_too(capsys, monkeypatch) -> None:
    """JAX raises an error of its own for flatbuffers, which exporting a program needs."""
    monkeypatch.setattr(errors, "_is_installed", lambda package: False)

    def command() -> None:
        try:
            raise ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers")
        except ImportError as error:
            raise ImportError("Please install 'flatbuffers'") from error

    assert exit_status(command) == 2
    assert "flatbuffers is not installed" in capsys.readouterr().err


# Modules of JAX and NumPy import some of these themselves, under Unix; so they are hidden from this package only.
ELSEWHERE = """
import builtins, os, signal, sys
real = builtins.__import__
def without_unix(name, globals=None, *rest):
    here = (globals or {}).get("__name__", "").startswith("dgm_jax")
    if here and name in ("fcntl", "grp", "pwd", "resource", "termios"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *rest)
builtins.__import__ = without_unix
for module, names in ((os, ("statvfs", "pread", "getuid", "fork")), (signal, ("SIGKILL", "SIGALRM", "SIGHUP"))):
    for name in names:
        delattr(module, name)
"""


def test_without_unix_everything_is_imported_and_a_memory_draws(memory: Path, tmp_path: Path) -> None:
    code = f"""
import pkgutil, importlib
from support.core import draw
import dgm_jax
for module in pkgutil.walk_packages(dgm_jax.__path__, "dgm_jax."):
    importlib.import_module(module.name)
print(draw({str(memory)!r}))
from dgm_jax.system.lock import RunLock, WorkdirError
try:
    RunLock({str(tmp_path / "run")!r}).__enter__()
except WorkdirError as error:
    print(error)
"""
    (out,) = children.outputs(children.start(ELSEWHERE + code))
    checksum, message = out.splitlines()
    assert checksum == draw(str(memory))
    assert message == "this system (Windows?) has no locks for a run; learn on Linux, macOS or WSL."


def test_the_layers_import_nothing_but_jax() -> None:
    """Optax is imported by what uses it; then importing the layers costs less than JAX and Optax."""
    code = """
import sys
import jax
before = set(sys.modules)
from dgm_jax import nn
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    (out,) = children.outputs(children.start(code))
    assert set(ast.literal_eval(out)) <= {"dgm_jax", "jax"}


def _imported_from_outside() -> set[str]:
    """The packages that some module of ours imports, at its top or in a function."""
    names = set()
    for path in (ROOT / "dgm_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"dgm_jax"}


def test_every_package_that_is_imported_has_its_extra() -> None:
    used = _imported_from_outside()
    assert len(used) > 10
    assert used - set(CORE) <= set(EXTRAS)
    assert set(EXTRAS) - used <= {"flatbuffers"}  # JAX uses it.


def test_the_extras_bring_what_they_are_named_for(extras: dict[str, list[str]]) -> None:
    distributions = metadata.packages_distributions()
    for package, extra in EXTRAS.items():
        bringing = {_plain(name) for name in extras[extra]}
        for name in extras[extra]:
            bringing |= {_plain(needed) for needed in metadata.requires(name) or () if "extra ==" not in needed}
        assert {_plain(name) for name in distributions[package]} & bringing, f"{package} does not come with {extra}"


@pytest.fixture
def extras() -> dict[str, list[str]]:
    """The names of what each extra of setup.cfg requires."""
    import configparser

    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    section = parser["options.extras_require"]
    return {extra: re.findall(r"^([\w-]+)", value, re.MULTILINE) for extra, value in section.items()}


def _plain(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found[0].lower().replace("_", "-")


def test_without_flax_its_layers_name_the_extra() -> None:
    code = WITHOUT.format(names=("flax",)) + (
        "try:\n    import dgm_jax.nn.flax.nnx\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    (out,) = children.outputs(children.start(code))
    assert out == 'flax is not installed; run: python -m pip install "dgm-jax[flax]"\n'
