"""Kills a run with SIGKILL at random moments, resumes it, and compares its end with that of an undisturbed run.

Every second kill waits until a checkpoint is being written. A run that ends before its next kill is compared (all
arrays of the last checkpoint bit for bit, and every other file except for times), and the next run begins, until the
number of kills is reached. Then one bit of every byte of a checkpoint's files is flipped, one at a time: each flip must
be noticed.

    python -m benchmarks.kills --kills 100 --out kills.jsonl
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from benchmarks import machine
from dgm_jax import Learner, data
from dgm_jax.config import Config, Variant, preset
from dgm_jax.errors import exit_status
from dgm_jax.runs import checkpoints
from dgm_jax.runs.events import Callback
from dgm_jax.system import checkpoint
from dgm_jax.system.compilation import keep_programs

_CLASSES = 4
_LEARN = "import pathlib, sys; from benchmarks import kills; kills.learn(sys.argv[1], pathlib.Path(sys.argv[2]))"


def config(variant: Variant) -> Config:
    """Returns the settings of a run of seconds on real digits, which saves after each epoch."""
    return preset("digits", variant).with_changes(
        generator_width=6,
        discriminator_width=8,
        epochs=8,
        checkpoint_seconds=0,
        consolidation_steps=60,
    )


def learn(variant: Variant, workdir: Path) -> None:
    """Begins or resumes the run in this folder; its phase is written to a file beside the folder."""
    keep_programs()
    digits = data.load("digits").of_classes(range(_CLASSES)).resized(config(variant).data.image_size)
    stream = data.class_incremental(digits)
    Learner(config(variant), devices=1, callbacks=[_Phase(phase_file(workdir))]).fit(stream, workdir)


class _Phase(Callback):
    """Writes the phase of the run to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_task_start(self, event: Any) -> None:
        self._write(f"task {event.task} begins")

    def on_progress(self, event: Any) -> None:
        self._write(f"task {event.task}, {event.phase}")

    def on_epoch_end(self, event: Any) -> None:
        self._write(f"task {event.task}, end of epoch")

    def on_task_end(self, event: Any) -> None:
        self._write(f"task {event.task} over")

    def _write(self, text: str) -> None:
        other = self.path.with_suffix(".next")
        other.write_text(text)
        other.replace(self.path)


def phase_file(workdir: Path) -> Path:
    """Returns the file to which the phase is written."""
    return workdir.with_suffix(".phase")


def start(variant: Variant, workdir: Path) -> subprocess.Popen[bytes]:
    """Starts the run in a separate process."""
    phase_file(workdir).unlink(missing_ok=True)
    command = [sys.executable, "-c", _LEARN, variant, str(workdir)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_at_random(child: subprocess.Popen[bytes], workdir: Path, chance: random.Random, *, in_write: bool) -> str:
    """Waits for a random moment and kills; returns the phase, or "" if the run ended first."""
    while child.poll() is None and not phase_file(workdir).exists():
        time.sleep(0.01)
    writes = chance.randint(1, 4)
    deadline = time.monotonic() + chance.uniform(0.0, 6.0)
    seen, there = 0, False
    while child.poll() is None:
        if in_write:
            now = is_writing(workdir)
            seen, there = seen + (now and not there), now
            if seen == writes:
                time.sleep(chance.uniform(0, 0.05))
                break
        elif time.monotonic() > deadline:
            break
        time.sleep(0.001)
    if child.poll() is not None:
        return ""
    writing = is_writing(workdir)
    child.send_signal(signal.SIGKILL)
    child.wait()
    phase = phase_file(workdir).read_text()
    return "a checkpoint is written" if writing else phase.partition(", ")[2] or phase.partition(" ")[2].split()[-1]


def is_writing(workdir: Path) -> bool:
    """Returns whether a checkpoint is being written, of a finished task or within one."""
    return any(any(workdir.glob(f"{folder}/.*.partial")) for folder in ("checkpoints", "checkpoints/within_task"))


def end_of(workdir: Path) -> tuple[Any, dict[str, Any]]:
    """Returns what must be equal in two runs: the last checkpoint's arrays, and all other files, without times."""
    restored = checkpoints.restore(workdir / "checkpoints", on_damage=print)
    assert restored is not None
    rest: dict[str, Any] = {"checkpoints": sorted(path.name for path in (workdir / "checkpoints").iterdir())}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if path.is_dir() or name.startswith(("checkpoints", ".")) or name == "report.html":  # It shows the time.
            continue
        if name == "summary.json":
            summary = json.loads(path.read_text())
            rest[name] = {key: value for key, value in summary.items() if key != "seconds"}
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                rest[name] = {key: arrays[key].tobytes() for key in arrays}
        else:
            rest[name] = path.read_bytes()
    return restored.tree, rest


def differences(a: tuple[Any, Any], b: tuple[Any, Any]) -> list[str]:
    """Returns the names of arrays and files that are not equal bit for bit."""
    paths, others = (
        {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (a[0], b[0])
    )
    return [
        name
        for ours, theirs in ((paths, others), (a[1], b[1]))
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]


def kill(variant: Variant, n: int) -> dict[str, Any]:
    """Kills `n` times, then flips bytes of a checkpoint; returns the counts."""
    chance = random.Random(0)
    phases: Counter[str] = Counter()
    finished = same = tries = 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        child = start(variant, undisturbed)
        _, errors = child.communicate()
        assert child.returncode == 0, errors.decode()
        expected = end_of(undisturbed)
        workdir = Path(folder) / "run"
        while sum(phases.values()) < n or workdir.exists():
            child = start(variant, workdir)
            to_kill = sum(phases.values()) < n
            phase = kill_at_random(child, workdir, chance, in_write=tries % 2 == 1) if to_kill else ""
            tries += 1
            if phase:
                phases[phase] += 1
                print(f"{variant}: kill {sum(phases.values())} of {n}: {phase}", flush=True)
                continue
            _, errors = child.communicate()
            assert child.returncode == 0, errors.decode()
            different = differences(end_of(workdir), expected)
            finished, same = finished + 1, same + (not different)
            if different:
                print(f"{variant}: run {finished} differs in {', '.join(different)}", flush=True)
            shutil.rmtree(workdir)
        flips = flip_every_byte(undisturbed / "checkpoints")
    return {
        "variant": variant,
        "kills": sum(phases.values()),
        "phases": dict(phases),
        "runs": finished,
        "equal": same,
        "flips": flips,
    }


def flip_every_byte(directory: Path) -> dict[str, int]:
    """Flips one bit of each byte of each file of the smallest checkpoint; counts flips and unnoticed ones."""
    folder = min((path for path in directory.iterdir() if path.name.isdecimal()), key=_bytes)
    flipped = unnoticed = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDWR)
        for at in range(os.fstat(descriptor).st_size):
            byte = os.pread(descriptor, 1, at)
            os.pwrite(descriptor, bytes([byte[0] ^ (1 << at % 8)]), at)
            flipped += 1
            try:
                checkpoint.read(folder)
                unnoticed += 1
                print(f"not noticed: {path}, byte {at}", flush=True)
            except checkpoint.DamagedCheckpoint:
                pass
            os.pwrite(descriptor, byte, at)
        os.close(descriptor)
    checkpoint.read(folder)
    return {"flipped": flipped, "unnoticed": unnoticed}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(kills: int = 100, variant: Variant | None = None, out: Path | None = None) -> int:
    """Kills, resumes and compares; returns 1 if anything was lost.

    Args:
      kills: number of kills, of both variants together.
      variant: only this one (default: both).
      out: file of JSON Lines; a line for each variant is added.
    """
    variants = [variant] if variant else get_args(Variant)
    lost = False
    for each in variants:
        begun = time.perf_counter()
        found = kill(each, kills // len(variants))
        print(json.dumps(found))
        machine.keep(out, **found, minutes=(time.perf_counter() - begun) / 60)
        lost = lost or found["equal"] < found["runs"] or found["flips"]["unnoticed"] > 0
    return int(lost)


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.kills", description=__doc__)))
