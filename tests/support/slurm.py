"""A Slurm of one node for tests, where its programs are installed."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).with_name("one_node_slurm.sh")
_MISSING = [name for name in ("slurmctld", "slurmd", "munged", "sbatch", "runuser") if shutil.which(name) is None]

needs_slurm = pytest.mark.skipif(
    bool(_MISSING) or os.geteuid() != 0,
    reason=f"needs root and Slurm ({', '.join(_MISSING) or 'found'}): apt-get install slurm-wlm munge",
)


@contextmanager
def one_node() -> Iterator[None]:
    """Starts Slurm on this machine, for one test at a time, and ends it."""
    lock = Path(tempfile.gettempdir(), "dgm_jax_one_node_slurm.lock")
    with (
        lock.open("w") as held,
        tempfile.TemporaryDirectory(prefix="dgm_jax_slurm_", ignore_cleanup_errors=True) as folder,
    ):
        fcntl.flock(held, fcntl.LOCK_EX)
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
        try:
            subprocess.run([_SCRIPT, "start", folder], check=True, stdin=subprocess.DEVNULL)
            yield
        finally:
            subprocess.run([_SCRIPT, "stop", folder], check=False, stdin=subprocess.DEVNULL)
            os.environ.pop("SLURM_CONF")
            if before is not None:
                os.environ["SLURM_CONF"] = before


def queue() -> dict[str, tuple[str, str]]:
    """What is in the queue: name -> (number, state)."""
    command = ["squeue", "--noheader", "--format=%A|%t|%j"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split("|") for line in lines]
    return {name: (number, state) for number, state, name in found}


def send(number: str, signal: str) -> None:
    """Sends a signal to the processes of a job, as Slurm does before its time is over."""
    subprocess.run(["scancel", f"--signal={signal}", number], check=True)
