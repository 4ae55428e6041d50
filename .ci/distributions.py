"""Checks what was built: `python .ci/distributions.py FOLDER`, where FOLDER holds its wheel and its sdist.

The sdist has every file of the repository; the wheel has every file of the package and nothing else.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

MADE = ("PKG-INFO", "dgm_jax.egg-info")  # What setuptools adds to an sdist.


def main(folder: Path) -> None:
    """Ends with an error that names the files that are missing or superfluous."""
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()

    with tarfile.open(sdist) as archive:
        inner = [member.name.partition("/")[2] for member in archive if member.isfile()]
    compare(sdist, {name for name in inner if name.partition("/")[0] not in MADE}, set(listed))

    with zipfile.ZipFile(wheel) as archive:
        inner = [name for name in archive.namelist() if ".dist-info/" not in name]
    compare(wheel, set(inner), {name for name in listed if name.startswith("dgm_jax/")})


def compare(archive: Path, found: set[str], expected: set[str]) -> None:
    """Refuses a difference."""
    if found != expected:
        sys.exit(f"{archive.name} lacks {sorted(expected - found)}; it should not have {sorted(found - expected)}")
    print(f"{archive.name}: {len(found)} files, as expected")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
