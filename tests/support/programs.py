"""Programs that tests compile once and share."""

import functools
import tempfile
from pathlib import Path

import jax

DTYPES = ("float32", "float64")


# Compiles ten times as fast; for programs that run once, on a handful of images.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
)


@functools.cache
def scratch() -> Path:
    """A folder for what several test modules share; removed when the process ends."""
    holder = tempfile.TemporaryDirectory(prefix="dgm_jax_tests_")
    scratch.holder = holder  # type: ignore[attr-defined]  # Its finaliser removes the folder.
    return Path(holder.name)
