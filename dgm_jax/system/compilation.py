"""Measures how long compilation takes, and keeps compiled programs on disk for the next run."""

import hashlib
import math
import os
import platform
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import jax
import jaxlib

from dgm_jax.system.compile_once import compile_once

WAITED = "/dgm_jax/compile/waited_duration"  # The event of having waited for a program that another thread compiles.
_BUILDING = ("/jax/core/compile/", WAITED)  # How the names of these events begin, JAX's own first.


def cache_folder() -> Path:
    """The user's folder for compiled programs: under $XDG_CACHE_HOME if it is set, otherwise under ~/.cache.

    A program for CPUs contains instructions of the processor that it was compiled for. Therefore each kind of processor
    and each version of jaxlib has a separate folder, even if several machines share a home folder. `keep_programs` adds
    the number of cores.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # Not Linux.
        lines = [platform.processor()]
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    identity = "\n".join([platform.machine(), jaxlib.version.__version__, *processor])
    return base / "dgm_jax" / "programs" / hashlib.sha256(identity.encode()).hexdigest()[:16]


def usable_cores() -> int:
    """How many cores a program for CPUs is compiled for: those that this process may use, as XLA counts them."""
    for name in ("PJRT_NPROC", "NPROC"):  # In this order XLA asks for them.
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_programs() -> str | None:
    """Lets JAX keep compiled programs for later processes, in a folder that only the user can read.

    If $JAX_COMPILATION_CACHE_DIR, a variable of JAX, is set, it names the folder, or a bucket such as gs://mine/cache.
    Whoever may use that folder may use the programs in it; where it cannot be written to, programs are only read.
    There is a subfolder for each number of cores: work is split over cores when a program is compiled, and JAX takes a
    program for one core also where there are two, where it is slower.

    Returns:
      The subfolder; None if it cannot be created or read: then no programs are kept, and everything else works.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = (chosen or str(cache_folder())).removeprefix("file://").rstrip("/") + f"/{usable_cores()}-cores"
    is_bucket = "://" in folder  # JAX finds it by itself.
    if not is_bucket:
        _make(Path(folder), like_parent=bool(chosen))
        if not os.access(folder, os.R_OK | os.X_OK):
            jax.config.update("jax_compilation_cache_dir", None)  # JAX has read the variable, too.
            return None
    keeps = is_bucket or os.access(folder, os.W_OK)
    jax.config.update("jax_compilation_cache_dir", folder)
    # JAX would warn of every program that it cannot write.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0 if keeps else math.inf)
    compile_once()
    return folder


def _make(folder: Path, *, like_parent: bool) -> None:
    """Makes a folder, if that is possible, with the permissions of its parent, or for the user alone."""
    with suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        if like_parent:
            folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode))


def keep_no_programs() -> None:
    """Compiles every program again and keeps none, even if $JAX_COMPILATION_CACHE_DIR is set."""
    jax.config.update("jax_enable_compilation_cache", False)


class BuildClock:
    """A context manager that adds up the seconds spent on building programs: tracing, lowering, compiling.

    What another thread compiles counts only as long as the thread that entered the block waits for it.
    """

    def __init__(self) -> None:
        """Starts at 0 seconds."""
        self._thread = threading.get_ident()
        self._spans: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Seconds spent so far."""
        return sum(end - start for start, end in self._spans)

    def __enter__(self) -> "BuildClock":
        """Starts to listen."""
        self._thread = threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if not event.startswith(_BUILDING) or threading.get_ident() != self._thread:
            return
        now = time.perf_counter()
        start = now - duration_secs
        # Tracing a program traces the functions that it calls. Their time spans lie within its span, but ended earlier.
        while self._spans and self._spans[-1][1] > start:
            start = min(start, self._spans.pop()[0])
        self._spans.append((start, now))
