"""What jobs of tests do; the processes that do it import this."""

import fcntl
import os
import signal
import time
from pathlib import Path

from dgm_jax.system.interruption import Signals


def report(folder: Path, name: str) -> int:
    """Leaves which cores it may use, and when it ran."""
    begun = time.monotonic()
    time.sleep(0.3)
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    (folder / name).write_text(f"{cores} {begun} {time.monotonic()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    print(f"{name} has reported")
    return 0


def refuse() -> int:
    print("error: this cannot work")
    return 2


def be_stopped() -> int:
    print("error: this has passed")
    print("stopped by SIGTERM")
    return 143


def crash() -> int:
    raise RuntimeError("a mistake in the program")


def be_killed() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def wait_for_the_end(file: Path) -> int:
    """Works until SIGTERM; then it saves, which takes two seconds if it is slow."""
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    file.with_suffix(".begun").touch()
    while not heard:
        time.sleep(0.02)
    if (file.with_suffix(".slow")).exists():
        time.sleep(2)
    file.write_text("saved")
    return 143


def do_not_hear(file: Path) -> int:
    """Works on, whatever comes, and holds a lock meanwhile."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file.with_suffix(".begun").touch()
        time.sleep(30)
        file.write_text("worked on")
    return 0


def starts(folder: Path) -> list[str]:
    """The starts of `end_when_told`, each a file with the number of its process."""
    return sorted(path.name for path in folder.glob("start*"))


def end_when_told(folder: Path, until: int, hears: bool = True) -> int:
    """Works until SIGTERM and ends as a run that has saved; the start of that number finishes."""
    number = len(starts(folder))
    if number == until:
        return 0
    heard = []
    if hears:
        signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    (folder / f"start{number}").write_text(str(os.getpid()))
    deadline = time.monotonic() + 30
    while not heard and time.monotonic() < deadline:
        time.sleep(0.02)
    (folder / "patience").write_text(str(Signals.patience))
    return 143
