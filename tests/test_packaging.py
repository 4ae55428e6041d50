"""What is shipped: one version, typed, with the files that the package reads."""

import configparser
import re
from pathlib import Path

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


def test_what_is_installed_is_what_is_pinned() -> None:
    """Each requirement of the package is pinned at a version that it allows; nothing else is needed to run."""
    wanted = {
        line.split(">=")[0].strip().replace("_", "-"): tuple(map(int, line.split(">=")[1].strip().split(".")))
        for line in setup()["options"]["install_requires"].split("\n")
        if line
    }
    pinned = dict(re.findall(r"^([A-Za-z0-9_-]+)==([0-9.]+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    pinned = {name.replace("_", "-"): tuple(map(int, version.split("."))) for name, version in pinned.items()}
    assert set(pinned) - set(wanted) == {"jaxlib"}
    for name, least in wanted.items():
        assert pinned[name][: len(least)] >= least, name


def test_files_of_the_package_that_are_no_code_are_shipped() -> None:
    shipped = setup()["options.package_data"]
    found = {
        (path.parent.relative_to(ROOT).as_posix().replace("/", "."), path.suffix or path.name)
        for path in (ROOT / "dgm_jax").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert found == {("dgm_jax", ".typed"), ("dgm_jax.reporting", ".html")}
    assert shipped["dgm_jax"] == "py.typed" and shipped["dgm_jax.reporting"] == "*.html"
