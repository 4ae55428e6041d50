"""What is shipped: one version, typed, with the files that the package reads."""

import configparser
import fnmatch
import importlib
import re
import runpy
import subprocess
from pathlib import Path

import pytest

import dgm_jax

ROOT = Path(__file__).resolve().parents[1]


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_one_version_everywhere() -> None:
    assert setup()["metadata"]["version"] == "attr: dgm_jax.version.__version__"
    version = dgm_jax.__version__
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == version


def requirements(section: str, option: str) -> dict[str, tuple[int, ...]]:
    """What an option of setup.cfg requires: the least version of each name."""
    lines = [line.partition(">=") for line in setup()[section][option].split("\n") if line]
    return {plain(name): numbers(version) for name, _, version in lines}


def plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.strip().split(".")))


def pinned(file: str) -> dict[str, tuple[int, ...]]:
    lines = re.findall(r"^([A-Za-z0-9_-]+)==([0-9.]+)$", (ROOT / file).read_text(), re.MULTILINE)
    return {plain(name): numbers(version) for name, version in lines}


def test_what_is_installed_is_what_is_pinned() -> None:
    """requirements.txt pins the core and all extras but that of TensorBoard, at versions that they allow."""
    extras = set(setup()["options.extras_require"])
    assert extras == {"train", "data", "report", "flax", "cluster", "tensorboard", "all"}
    assert setup()["options.extras_require"]["all"].strip() == "dgm-jax[train,data,report,flax,cluster,tensorboard]"
    core = requirements("options", "install_requires")
    assert len(core) <= 5, "the core is light"
    wanted = core.copy()
    for extra in extras - {"all", "tensorboard"}:
        wanted |= requirements("options.extras_require", extra)
    versions = pinned("requirements.txt")
    assert set(versions) - set(wanted) == {"jaxlib"}
    for name, least in wanted.items():
        assert versions[name][: len(least)] >= least, name
    assert set(requirements("options.extras_require", "tensorboard")) - set(versions) == {"tensorboardx"}
    assert "tensorboardx" in pinned("requirements-dev.txt")


def test_files_of_the_package_that_are_no_code_are_shipped() -> None:
    shipped = {package: value.split(", ") for package, value in setup()["options.package_data"].items()}
    for path in (ROOT / "dgm_jax").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            package = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
            assert any(path.match(pattern) for pattern in shipped[package]), path


def test_the_licences_of_what_is_shipped_are_named() -> None:
    """What the texts beside data say, `CC BY 4.0`, is `CC-BY-4.0` in the metadata."""
    metadata = setup()["metadata"]
    texts = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "dgm_jax").rglob("*.txt"))
    assert metadata["license_files"].split() == ["LICENSE", *texts]
    named = set(re.findall(r"\((CC [A-Z-]+ [\d.]+)\)", "".join((ROOT / file).read_text() for file in texts)))
    assert metadata["license_expression"].split(" AND ") == ["Apache-2.0", *sorted(n.replace(" ", "-") for n in named)]


def test_the_command_is_there() -> None:
    name, _, place = setup()["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = place.partition(":")
    assert name == "dgm-jax" and callable(getattr(importlib.import_module(module), function))


def test_the_pythons_that_are_named_are_tested() -> None:
    classifiers = setup()["metadata"]["classifiers"]
    named = re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    assert named[0] == setup()["options"]["python_requires"].removeprefix(">=")
    workflow = (ROOT / ".github" / "workflows" / "checks.yml").read_text()
    assert re.findall(r'"(3\.\d+)"', workflow) == named
    assert f"You need Python {', '.join(named[:-1])} or {named[-1]}" in (ROOT / "README.md").read_text()
    assert "Typing :: Typed" in classifiers


# ---- for people who see the README elsewhere ----


def test_outside_the_repository_the_readme_leads_to_it() -> None:
    source = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
    text = (ROOT / "README.md").read_text()
    assert source["readme"]("", "1.2") == text and source["links"]("", "1.2") == {}

    repository = "https://example.org/somebody/dgm_jax"
    targets = re.compile(r"(!?)\[[^]]*\]\(([^)\s]+)\)")
    before, after = targets.findall(text), targets.findall(source["readme"](repository, "1.2"))
    pictures = 0
    for (mark, old), (_, new) in zip(before, after, strict=True):
        if re.match("[a-z]+:|#", old):
            assert new == old
            continue
        assert (ROOT / old.partition("#")[0]).exists(), old
        assert new == f"{repository}/{'raw' if mark else 'blob'}/v1.2/{old}"
        pictures += bool(mark)
    assert pictures >= 1
    for link in source["links"](repository, "1.2").values():
        file = link.removeprefix(repository).partition("/blob/v1.2/")[2]
        assert link.startswith(repository) and (not file or (ROOT / file).exists())


def test_no_other_place_needs_the_address() -> None:
    """It is "" until there is one; then the pictures of the README are written with it."""
    address = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["REPOSITORY"]
    assert address == "" or re.fullmatch(r"https://\S+[^/]", address)


# ---- the sdist ----


def test_the_sdist_has_every_file_of_the_repository() -> None:
    """By the rules of MANIFEST.in; `.ci/run` compares the sdist that it builds."""
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no checkout of git")
    rules = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    folders = {folder for verb, *folders in rules if verb == "graft" for folder in folders}
    patterns = [pattern for verb, *patterns in rules if verb == "include" for pattern in patterns]
    added = ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in")  # These setuptools adds.
    for file in listed.stdout.splitlines():
        top, _, rest = file.partition("/")
        if rest:
            assert top in folders | {"dgm_jax"}, file
        elif file not in added:
            assert any(fnmatch.fnmatch(file, pattern) for pattern in patterns), file
