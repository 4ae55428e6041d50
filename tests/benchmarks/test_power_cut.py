"""What may be left after a power cut, on files of a few bytes and on four checkpoints."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import disk, power_cut
from dgm_jax.runs import checkpoints
from dgm_jax.system import checkpoint

ROOT = Path(__file__).parents[2]

WRITES = """
import os, sys
def path(name):
    return os.path.join(sys.argv[1], name)
os.mkdir(path("folder"))
for name in ("unsynced", "name synced", "whole", "folder/lost"):
    with open(path(name), "wb") as file:
        file.write(b"abc")
        file.flush()
        if name in ("whole", "folder/lost"):
            os.fsync(file.fileno())
    if name != "unsynced":
        descriptor = os.open(path(""), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
with open(path("whole"), "ab") as file:
    file.write(b"de")
os.rename(path("name synced"), path("renamed"))
"""

SAVES = """
import sys
import numpy as np
from pathlib import Path
from benchmarks.power_cut import RUN, SAVED
from dgm_jax.runs.checkpoints import RunCheckpoints
from dgm_jax.system import files
folder, sync = Path(sys.argv[1]) / RUN / "checkpoints", files.sync
if sys.argv[2] == "only folders of checkpoints":
    files.sync = lambda path: sync(path) if Path(path) in (folder, folder / "within_task", *folder.parents) else None
saves = RunCheckpoints(folder)
for position in ((0, 2), (1, 0), (1, 2), (2, 0)):
    tree = {"a": np.full(40, 10 * position[0] + position[1])}
    plain = {"record": dict(zip(("finished_tasks", "epochs_done"), position))}
    if position[1]:
        saves.save_in_progress(*position, tree, plain)
    else:
        saves.save_finished(position[0] - 1, tree, plain)
    print(f"{SAVED}{position[0]} {position[1]}", flush=True)
"""


@pytest.fixture(autouse=True)
def strace(monkeypatch):
    try:
        subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("strace is not installed, or it may not trace here")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def calls(code: str, base: Path, *words: str) -> list[disk.Call]:
    base.mkdir()
    trace = base.with_suffix(".trace")
    disk.trace([sys.executable, "-c", code, str(base), *words], trace)
    return disk.calls(trace, str(base), power_cut.SAVED)


def test_what_may_be_left_of_small_files(tmp_path: Path) -> None:
    files = disk.Disk(str(tmp_path / "base"))
    for call in calls(WRITES, tmp_path / "base"):
        files.do(call)
    chance = random.Random(0)
    left = {kind: files.after_cut(kind, chance) for kind in disk.KINDS}
    folders = {"folder": None}
    assert left["nothing"] == folders | {"unsynced": b"", "name synced": b"", "whole": b"abc"}
    assert left["data"] == folders | {"unsynced": b"abc", "name synced": b"abc", "whole": b"abcde"}
    assert left["names"] == folders | {"unsynced": b"", "renamed": b"", "whole": b"abc", "folder/lost": b"abc"}
    zeros = {"unsynced": bytes(3), "renamed": bytes(3), "whole": b"abc\0\0", "folder/lost": b"abc"}
    assert left["names and lengths"] == folders | zeros
    assert left["everything"] == disk.read(tmp_path / "base")
    parts = [files.after_cut("any part", chance) for _ in range(200)]
    assert {bytes(2), b"de", b"d", b""} == {part["whole"][3:] for part in parts}
    assert {b"", b"a", b"ab", b"abc", bytes(3)} == {part["unsynced"] for part in parts}
    assert len({disk.content_hash(part) for part in parts}) > 30
    disk.write(parts[0], tmp_path / "state")
    assert disk.read(tmp_path / "state") == parts[0]


def test_a_map_that_writes_is_refused(tmp_path: Path) -> None:
    code = (
        "import mmap, sys; file = open(sys.argv[1] + '/a', 'w+b'); file.write(b'abc'); file.flush(); "
        "mmap.mmap(file.fileno(), 3)[0] = 0"
    )
    with pytest.raises(NotImplementedError, match="mmap.*is not replayed"):
        power_cut.cut_everywhere(calls(code, tmp_path / "base"), str(tmp_path / "base"), 0)


@pytest.mark.parametrize("synced", ["all", "only folders of checkpoints"])
def test_a_save_that_is_over_is_not_lost(synced: str, tmp_path: Path) -> None:
    """If only Orbax syncs files, some states lose it: it gives its folder a name before all files are on the disk."""
    base = tmp_path / "base"
    found, named = power_cut.cut_everywhere(calls(SAVES, base, synced), str(base), 0)
    assert list(named) == ["within_task/2", "0", "within_task/1000002", "1"]
    lost = 0
    for cut in power_cut.choose(found, 60, random.Random(0)):
        disk.write(cut.content, tmp_path / "state")
        try:
            restored = checkpoints.restore(tmp_path / "state" / power_cut.RUN / "checkpoints", on_damage=lambda _: None)
        except checkpoint.DamagedCheckpoint:
            restored = None
        position = power_cut.NOTHING
        if restored is not None:
            position = checkpoints.position(restored)
            np.testing.assert_array_equal(restored.tree["a"], np.full(40, 10 * position[0] + position[1]))
        lost += position < cut.saved
    assert (lost > 0) == (synced != "all")
