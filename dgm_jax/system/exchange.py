"""Replaces several files and folders of a folder as one: after a kill at any moment all are replaced, or none is.

What is new is written below a staging folder. A journal, written whole, then says what to do; from then on the exchange
is done: by this process, or after a kill by the next one that calls `finish`. Only one process at a time may do this
(`lock.RunLock`).
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from dgm_jax.system import files

JOURNAL = ".exchange.json"
STAGING = ".exchange"
_OLD = ".old"  # In the staging folder: what has been replaced.


def begin(folder: Path) -> Path:
    """Makes an empty staging folder; what an exchange left behind that was never decided goes."""
    staging = folder / STAGING
    if staging.exists():
        shutil.rmtree(staging)
    files.make_folder(staging)
    return staging


def commit(folder: Path, *, new: Sequence[str], removed: Sequence[str]) -> None:
    """Decides an exchange, and does it.

    Args:
      folder: the folder.
      new: paths within it, of files or folders that lie, whole and synced, at the same places in the staging folder.
        They replace what is there.
      removed: paths within it of files and folders that go; none of them is, or holds, one of `new`.
    """
    files.write_json(folder / JOURNAL, {"removed": list(removed), "new": list(new)})
    finish(folder)


def is_pending(folder: Path) -> bool:
    """Whether an exchange is decided and not done."""
    return (folder / JOURNAL).exists()


def finish(folder: Path) -> None:
    """Does what was decided, from wherever a kill left it; nothing if nothing is pending."""
    if not is_pending(folder):
        return
    plan, staging = json.loads((folder / JOURNAL).read_text("utf-8")), folder / STAGING
    old = staging / _OLD
    if staging.exists():  # Otherwise only the journal is left to be deleted.
        old.mkdir(exist_ok=True)
        for number, name in enumerate(plan["removed"]):
            _set_aside(folder / name, old / f"removed{number}")
        for number, name in enumerate(plan["new"]):
            if os.path.lexists(staging / name):
                _set_aside(folder / name, old / f"new{number}")
                files.make_folder((folder / name).parent)
                os.rename(staging / name, folder / name)
        for parent in {(folder / name).parent for name in (*plan["removed"], *plan["new"])}:
            files.sync(parent)
        shutil.rmtree(staging)
        files.sync(folder)
    (folder / JOURNAL).unlink()
    files.sync(folder)


def _set_aside(path: Path, to: Path) -> None:
    """Moves what is to go into the staging folder, which is deleted as a whole."""
    if os.path.lexists(path):
        os.rename(path, to)
