"""Builds the package. setup.cfg has what is fixed; here is what follows from the address of the repository."""

import re
import runpy
from pathlib import Path

from setuptools import setup

# The address of the public repository, without "/" at the end; "" while there is none. A page on a package index cannot
# follow the README's relative links, so that its pictures and links, and the project's links, are made from this.
REPOSITORY = ""


def readme(repository: str, version: str) -> str:
    """The README, for a page outside the repository: its relative links lead to the files of this version."""
    text = Path(__file__).with_name("README.md").read_text("utf-8")
    if not repository:
        return text

    def whole(link: re.Match[str]) -> str:
        kind = "raw" if link[1].startswith("!") else "blob"  # GitHub shows a file at one and gives it at the other.
        return f"{link[1]}({repository}/{kind}/v{version}/{link[2]})"

    return re.sub(r"(!?\[[^]]*\])\((?![a-z]+:|#)([^)\s]+)\)", whole, text)


def links(repository: str, version: str) -> dict[str, str]:
    """What the package index lists beside the page."""
    if not repository:
        return {}
    files = f"{repository}/blob/v{version}"
    return {
        "Source": repository,
        "Documentation": f"{files}/docs/index.md",
        "Changes": f"{files}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


if __name__ == "__main__":
    here = runpy.run_path(str(Path(__file__).with_name("dgm_jax") / "version.py"))["__version__"]
    setup(long_description=readme(REPOSITORY, here), project_urls=links(REPOSITORY, here))
