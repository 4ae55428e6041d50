"""Cuts the power of a run at every moment, on paper: what a disk may then hold is built, restored and compared.

`disk.py` replays what the run asks of the file system, and says what may be left. Each state whose content differs is
opened as the package opens a folder. The run must stand at its newest save that was over or later; its arrays must be
those that were saved, bit for bit, and its metrics those that go with them. Some of the states, chosen by the seed, are
run to the end, which must be that of the undisturbed run.

    python -m benchmarks.power_cut --out power_cut.jsonl

It needs Linux and strace.
"""

import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import disk, kills, machine
from dgm_jax import Learner, data
from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.errors import UserError, exit_status
from dgm_jax.runs import checkpoints
from dgm_jax.runs.checkpoints import Position
from dgm_jax.runs.events import Callback
from dgm_jax.runs.folder import Workdir
from dgm_jax.system import checkpoint
from dgm_jax.system.compilation import keep_programs

NOTHING = (0, 0)  # The position of a run that has saved nothing.
RUN = "new/run"  # The run's folder; it makes both, so that the upper one can be lost, too.
SAVED = "newest save on the disk: "  # Then its position: finished tasks, and epochs done of the next.
_LEARN = "import pathlib, sys; from benchmarks import power_cut; power_cut.learn(pathlib.Path(sys.argv[1]))"


def config() -> Config:
    """Returns the settings of a run of seconds, which saves three times within a task and keeps two of these."""
    return kills.config("dgma").with_changes(checkpoint_seconds=0, consolidation_steps=20)


def stream() -> TaskStream:
    """Returns three tasks of real digits."""
    return data.class_incremental(data.load("digits").of_classes(range(3)).resized(config().data.image_size))


def learn(workdir: Path, *callbacks: Callback) -> None:
    """Begins or resumes the run in this folder."""
    keep_programs()
    Learner(config(), devices=1, callbacks=[_Saved(workdir), *callbacks]).fit(stream(), workdir)


class _Saved(Callback):
    """Says in the trace which save is over; each event comes after the save before it."""

    def __init__(self, workdir: Path) -> None:
        self.folder = workdir / "checkpoints"

    def on_epoch_end(self, event: Any) -> None:
        newest = checkpoints.restore(self.folder, on_damage=print)
        finished_tasks, epochs_done = checkpoints.position(newest) if newest else NOTHING
        with open(os.devnull, "w") as file:
            file.write(SAVED + f"{finished_tasks} {epochs_done}\n")

    on_task_end = on_epoch_end


class Cut(NamedTuple):
    """What a power cut leaves: of which kind it is, and the position of the newest save that was over."""

    kind: str
    content: disk.Tree
    saved: Position


class Save(NamedTuple):
    """A checkpoint when it got its name, and the metrics of that moment."""

    checkpoint: checkpoint.Checkpoint
    metrics: bytes


def cut_everywhere(made: Sequence[disk.Call], base: str, seed: int) -> tuple[list[Cut], dict[str, disk.Tree]]:
    """Cuts the power after each call, in all kinds.

    Returns:
      The cuts whose content differs, each with the newest save that was over at the last moment when it may come; and
      by the path of each checkpoint below the run's, what a process saw when the run named it.
    """
    files, saved, folder = disk.Disk(base), NOTHING, Path(base) / RUN / "checkpoints"
    found: dict[str, Cut] = {}
    named: dict[str, disk.Tree] = {}
    for at, call in enumerate(made):
        if call.data.startswith(SAVED.encode()):
            saved = (int(call.data.split()[-2]), int(call.data.split()[-1]))
        elif call.paths[0].startswith(base):
            files.do(call)
        else:
            continue
        if call.name.startswith("rename") and (path := Path(call.paths[1])).name.isdecimal():
            named[str(path.relative_to(folder))] = disk.tree(files.now)
        for number, kind in enumerate(disk.KINDS):
            content = files.after_cut(kind, random.Random(f"{seed} {at} {number}"))
            name = disk.content_hash(content)
            found[name] = Cut(found[name].kind if name in found else kind, content, saved)
    if disk.tree(files.now) != disk.read(Path(base)):
        raise disk.NotReplayed("the run used calls that are not replayed: its files are not those of the replay")
    return list(found.values()), named


def choose(found: Sequence[Cut], n: int, chance: random.Random) -> list[Cut]:
    """Chooses cuts; first one of each content outside of hidden files, which are what no save has named yet."""
    shuffled = chance.sample(found, len(found))
    shown = {disk.content_hash({p: data for p, data in cut.content.items() if "/." not in p}): cut for cut in shuffled}
    first = {id(cut) for cut in shown.values()}
    return sorted(shuffled, key=lambda cut: id(cut) not in first)[:n]


class _Opened(Exception):
    pass


class _StopAtOnce(Callback):
    def on_run_start(self, event: Any) -> None:
        raise _Opened


def judge(cut: Cut, folder: Path, saves: Mapping[Position, Save]) -> str:
    """Opens what a cut left, as the package does; returns what is wrong, or ""."""
    disk.write(cut.content, folder)
    workdir = Workdir(folder / RUN)
    try:
        restored = checkpoints.restore(workdir.checkpoints, on_damage=lambda _: None)
        with contextlib.suppress(_Opened):
            learn(workdir.path, _StopAtOnce())
    except UserError as error:
        return f"refused: {str(error)[:200]}".replace(str(folder), "")
    position = NOTHING if restored is None else checkpoints.position(restored)
    if position < cut.saved:
        return "lost a finished task" if position[0] < cut.saved[0] else "lost a save within a task"
    metrics = workdir.metrics.read_bytes() if workdir.metrics.exists() else b""
    if restored is None:
        return "metrics without a checkpoint" if metrics else ""
    expected = saves[position]
    if kills.differences((restored.tree, restored.metadata), (expected.checkpoint.tree, expected.checkpoint.metadata)):
        return "restored wrongly"
    return "" if metrics == expected.metrics else "restored with other metrics"


def measure(n_states: int, n_ends: int, seed: int) -> dict[str, Any]:
    """Cuts, restores and compares; returns the counts."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        base = folder / "disk"
        base.mkdir()
        state, workdir = folder / "state", Workdir(folder / "state" / RUN)
        disk.trace([sys.executable, "-c", _LEARN, str(base / RUN)], folder / "trace")
        made = disk.calls(folder / "trace", str(base), SAVED)
        found, named = cut_everywhere(made, str(base), seed)
        saves = {}
        for path, content in named.items():
            disk.write(content, state)
            restored = checkpoint.read(workdir.checkpoints / path)
            saves[checkpoints.position(restored)] = Save(restored, workdir.metrics.read_bytes())
        chosen = choose(found, n_states, chance)
        wrong: Counter[str] = Counter()
        for number, cut in enumerate(chosen):
            if fault := judge(cut, state, saves):
                wrong[fault] += 1
                print(f"state {number} ({cut.kind}): {fault}", flush=True)
        expected, equal = kills.end_of(base / RUN), 0
        for cut in chance.sample(chosen, n_ends):
            disk.write(cut.content, state)
            try:
                learn(workdir.path)
                differs = kills.differences(kills.end_of(workdir.path), expected)
            except UserError as error:
                differs = [str(error)]
            equal += not differs
            if differs:
                print(f"an end differs ({cut.kind}): {', '.join(differs)}", flush=True)
        return {
            "calls": len(made),
            "saves": sorted(saves),
            "states_that_differ": len(found),
            "restored": len(chosen),
            "kinds": dict(Counter(cut.kind for cut in chosen)),
            "wrong": dict(wrong),
            "runs": n_ends,
            "equal": equal,
        }


def main(states: int = 1500, ends: int = 20, seed: int = 0, out: Path | None = None) -> int:
    """Cuts, restores and compares; returns 1 if anything was lost.

    Args:
      states: number of states to restore, at most.
      ends: how many of them are run to the end.
      seed: chooses what each cut leaves, and which states are restored and run to the end.
      out: file of JSON Lines; a line is added.
    """
    begun = time.perf_counter()
    found = measure(states, ends, seed)
    print(json.dumps(found))
    machine.keep(out, **found, seed=seed, minutes=(time.perf_counter() - begun) / 60)
    return int(bool(found["wrong"]) or found["equal"] < found["runs"])


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.power_cut", description=__doc__)))
