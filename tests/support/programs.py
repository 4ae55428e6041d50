"""Programs that tests compile once and share."""

import functools
import os
from pathlib import Path

import jax

DTYPES = ("float32", "float64")


# Compiles ten times as fast; for programs that run once, on a handful of images.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
)


def scratch() -> Path:
    """A folder for what tests share, also with other workers; removed when all tests have ended."""
    return Path(os.environ["DGM_JAX_TESTS_SCRATCH"])
