"""Programs that tests compile once and share."""

import functools
import os
from pathlib import Path

import jax

DTYPES = ("float32", "float64")


# Compiles ten times as fast; for programs that run once, on a handful of images.
_QUICK = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # From there on XLA does not know this flag.
    _QUICK["xla_cpu_use_fusion_emitters"] = False
quick_jit = functools.partial(jax.jit, compiler_options=_QUICK)
QUICK = " ".join(f"--{name}={value}".lower() for name, value in _QUICK.items())  # The same in XLA_FLAGS.


def scratch() -> Path:
    """A folder for what tests share, also with other workers; removed when all tests have ended."""
    return Path(os.environ["DGM_JAX_TESTS_SCRATCH"])
