"""Programs that tests compile once and share."""

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

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


def program_cache() -> Path:
    return scratch() / "programs"


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Keeps compiled programs on disk during a module: each `Learner` and each child process maps its own function.

    Import it into the modules that need it.
    """
    wanted = {
        "jax_compilation_cache_dir": str(program_cache()),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    configure(wanted)
    yield
    configure(before)


def configure(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
