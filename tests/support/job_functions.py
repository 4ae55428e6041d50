"""What jobs of tests do; the processes that do it import this."""

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


def crash() -> int:
    raise RuntimeError("a mistake in the program")


def be_killed() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def wait_for_the_end(file: Path) -> int:
    """Works until SIGTERM; then it saves, unless a second one comes."""
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    file.with_suffix(".begun").touch()
    while not heard:
        time.sleep(0.02)
    if (file.with_suffix(".slow")).exists():
        while len(heard) < 2:
            time.sleep(0.02)
        return 143
    file.write_text("saved")
    return 143


def end_when_told(folder: Path) -> int:
    """Works until SIGTERM and ends as a run that has saved; when it is started again, it finishes."""
    begun = folder / "begun"
    if begun.exists():
        return 0
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    begun.write_text(str(os.getpid()))
    while not heard:
        time.sleep(0.02)
    (folder / "patience").write_text(str(Signals.patience))
    return 143
