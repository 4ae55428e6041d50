"""The machine of a measurement: what it is, how fast it multiplies matrices, and how much memory was used."""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import records
from dgm_jax.errors import ConfigError
from dgm_jax.training.devices import check_precision

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_LEAST_ROUNDS = 3
LARGE = 2048  # Side of the matrices whose product says what the device can do.


def describe() -> dict[str, Any]:
    """Returns the device, the processor, its load, and the versions of what ran."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES},
    }


def commit(checkout: Path = Path(__file__).parent) -> str | None:
    """Returns the commit of a checkout (this one), with a + if files differ from it; None if git does not know."""
    described = ["git", "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=7"]
    try:
        return subprocess.run(described, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def where() -> dict[str, Any]:
    """Returns the fields of a record that say where it was measured."""
    return {"machine": describe(), "commit": commit()}


def keep(file: Path | None, **record: Any) -> None:
    """Adds a record to a file, with where it was measured; without a file it does nothing."""
    if file is not None:
        records.append(file, record | where())


def peak_bytes() -> dict[str, Any]:
    """Returns the peak memory of this process so far, and of its first device (None if the device does not count)."""
    stats = jax.devices()[0].memory_stats()
    return {
        "peak_host_bytes": in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss),
        "peak_device_bytes": stats.get("peak_bytes_in_use") if stats else None,
    }


def in_bytes(maxrss: int) -> int:
    """Converts the peak memory of a process to bytes: Linux reports KiB, macOS bytes."""
    return maxrss if sys.platform == "darwin" else 1024 * maxrss


def peak_in_words() -> str:
    """Returns what `peak_bytes` finds as text, in GB."""
    peak = peak_bytes()
    device = peak["peak_device_bytes"]
    return f"peak memory: host {peak['peak_host_bytes'] / 1e9:.2f} GB, device " + (
        "not counted" if device is None else f"{device / 1e9:.2f} GB"
    )


def alternately(calls: Sequence[Callable[[], Any]], *, seconds: float) -> np.ndarray:
    """Times calls in turns, A B A B ..., so that other load on the machine affects all of them equally.

    Args:
      calls: each runs once before, to compile; the timing includes waiting for the arrays that it returns.
      seconds: about how long to measure; at least three rounds.

    Returns:
      Seconds, [rounds, calls].
    """
    for call in calls:
        jax.block_until_ready(call())
    rounds: list[list[float]] = []
    begun = time.perf_counter()
    while len(rounds) < _LEAST_ROUNDS or time.perf_counter() - begun < seconds:
        rounds.append([timed(call) for call in calls])
    return np.asarray(rounds)


@contextmanager
def compiled_once() -> Iterator[None]:
    """Keeps compiled programs in a folder, so that each `Trainer` does not compile the same programs again."""
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        if before is None:
            jax.config.update("jax_compilation_cache_dir", folder)
        yield
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


def timed(call: Callable[[], Any]) -> float:
    """Returns the seconds that one call takes until its arrays are ready."""
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun


def large_product() -> tuple[Callable[[], Any], float]:
    """Returns a product of large square float32 matrices, the fastest work for the device, and its GFLOP."""
    a = jax.device_put(np.random.default_rng(0).standard_normal((LARGE, LARGE), np.float32))
    product = jax.jit(jnp.matmul)
    return lambda: product(a, a), 2e-9 * LARGE**3


def gflops(*, seconds: float = 2.0) -> float:
    """Measures the GFLOP/s of a large float32 product."""
    product, gflop = large_product()
    return gflop / statistics.median(alternately([product], seconds=seconds)[:, 0])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def check(precision: str, file: Path | None) -> None:
    """Checks, before anything is measured, that the device has this precision and that the file can be written.

    Raises:
      ConfigError: names the one that is wrong.
    """
    check_precision(precision, jax.devices()[0])
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.absolute().parent}; make it first")
