"""How long programs take to build, and where they are kept so that the next run need not build them again."""

import hashlib
import os
import platform
import time
from pathlib import Path

import jax
import jaxlib

_BUILDING = "/jax/core/compile/"  # How JAX names these events.


def cache_folder() -> Path:
    """The user's own folder for compiled programs: under $XDG_CACHE_HOME or else ~/.cache.

    Programs for CPUs hold the instructions of the machine that built them. So machines whose processors differ, and
    versions of XLA, have folders of their own, even where they share a home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "dgm_jax" / "programs" / _machine()


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Not Linux.
        lines = [platform.processor()]
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    identity = "\n".join([platform.machine(), jaxlib.version.__version__, *processor])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def keep_programs() -> Path | None:
    """Lets JAX keep compiled programs for the next process, in a folder that only the user can read.

    $JAX_COMPILATION_CACHE_DIR, JAX's own variable, names another folder.

    Returns:
      The folder; None if it cannot be made: then nothing is kept, and all else works.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = Path(chosen) if chosen else cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def keep_no_programs() -> None:
    """Compiles every program anew and keeps none, $JAX_COMPILATION_CACHE_DIR or not."""
    jax.config.update("jax_enable_compilation_cache", False)


class BuildClock:
    """Adds up the time that goes into building programs (tracing, lowering, compiling) while it is entered."""

    def __init__(self) -> None:
        """Starts at 0 seconds."""
        self._spans: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Spent so far."""
        return sum(end - start for start, end in self._spans)

    def __enter__(self) -> "BuildClock":
        """Starts to listen."""
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if not event.startswith(_BUILDING):
            return
        now = time.perf_counter()
        start = now - duration_secs
        # Tracing a program traces the functions it calls: these spans lie within that of the whole, and came first.
        while self._spans and self._spans[-1][1] > start:
            start = min(start, self._spans.pop()[0])
        self._spans.append((start, now))
