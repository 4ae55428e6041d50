"""Tests in other processes."""

import os
import subprocess
import sys
from pathlib import Path


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a Python of its own that can import the tests; compiled programs are shared."""
    tests = Path(__file__).parents[1]
    path = [tests, tests / "training", tests / "methods", tests.parent, *filter(None, [os.environ.get("PYTHONPATH")])]
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
