"""What every test runs under: no silent broadcasting between ranks, full-precision products, float64 on request."""

import gc
import os
import signal
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from support.stubs import learner  # noqa: F401

from dgm_jax.system.compilation import cache_folder, keep_programs

_MOST_MAPS = 30_000


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # The workers get the folder from the process that starts them.
        config.shared = tempfile.TemporaryDirectory(prefix="dgm_jax_tests_")
        os.environ["DGM_JAX_TESTS_SCRATCH"] = config.shared.name
    # All workers, the programs that they start, and the next run share one folder of compiled programs.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder()))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    keep_programs()
    jax.config.update("jax_numpy_rank_promotion", "raise")  # A [c] gate meets a [n, h, w, c] map only explicitly.
    jax.config.update("jax_default_matmul_precision", "highest")  # Accelerators would otherwise use TF32 or bfloat16.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # A shell lets its background jobs ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config):
    if hasattr(config, "shared"):
        config.shared.cleanup()


@pytest.fixture
def float64():
    """Runs the test with 64-bit types enabled."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Runs the test in each precision; 64-bit types are enabled only for float64."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.fixture(autouse=True)
def few_programs():
    """Lets go of compiled programs before there are too many.

    On Linux a process may hold 65,530 memory maps, and each program for a CPU takes many; past them it crashes.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
        gc.collect()
        jax.clear_caches()
