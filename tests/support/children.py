"""Tests in other processes."""

import os
import subprocess
import sys
from pathlib import Path

from support import programs


def virtual_devices(n: int) -> dict[str, str]:
    """The environment of a process that has `n` virtual CPU devices."""
    # Collectives that are not waited for can dead-lock on fewer cores than devices.
    flags = f"--xla_force_host_platform_device_count={n} {programs.QUICK}"
    return {"XLA_FLAGS": flags, "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false"}


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a Python of its own that can import the tests; compiled programs are shared."""
    tests = Path(__file__).parents[1]
    rooms = [tests / room for room in ("methods", "runs", "training")]
    path = [tests, *rooms, tests.parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    }
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | settings | environment, stdout=pipe, stderr=pipe, text=True)


def outputs(*children: subprocess.Popen[str], seconds: float = 300) -> list[str]:
    """What each child prints. None outlives this: all are killed if one takes too long, or fails."""
    try:
        outputs = []
        for child in children:
            out, error = child.communicate(timeout=seconds)
            assert child.returncode == 0, error
            outputs.append(out)
        return outputs
    finally:
        for child in children:
            child.kill()  # jax.distributed would swallow a mere SIGTERM.
            child.communicate()
