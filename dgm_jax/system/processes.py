"""Several processes, one run: all compute the same, the first one writes.

Every process calls these functions at the same points of its program: a call that one leaves out, the others wait for.
With one process nothing is communicated.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dgm_jax.errors import ConfigError, UserError

# At its end a process waits for the others. By JAX's default, 300 seconds: so long one that fails alone would keep all.
_SHUTDOWN_SECONDS = 60


class OtherProcessFailed(UserError, RuntimeError):
    """Another process of this run met an error; that one says which."""


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Makes this process one of a run of several; to be called before anything touches a device.

    Args:
      coordinator: HOST:PORT of the first process, as every host can reach it.
      num_processes: how many there are.
      process_id: the number of this one, from 0.

    Without arguments, JAX finds them out on Slurm, Kubernetes, Open MPI and TPU pods.

    Raises:
      ConfigError: if only some arguments are given, they do not fit each other, or JAX finds nothing.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and any(value is not None for value in given):
        raise ConfigError("--coordinator, --num-processes and --process-id belong together; give all three, or none")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ConfigError(f"--coordinator {coordinator} is not HOST:PORT, e.g. {coordinator}:9876")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ConfigError(f"--process-id {process_id} is not one of 0 to {num_processes - 1}")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, shutdown_timeout_seconds=_SHUTDOWN_SECONDS)
    except ValueError as error:
        raise ConfigError(
            f"--distributed: JAX cannot tell the processes of this run by itself ({error}); "
            "give --coordinator HOST:PORT --num-processes N --process-id I"
        ) from error


def count() -> int:
    """How many processes this run has."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return jax.process_index() == 0


def together(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function` on every process; if it fails on one, it fails on all.

    Returns:
      What it returned on this process.

    Raises:
      OtherProcessFailed: if it failed on another process.
    """
    if jax.process_count() == 1:
        return function(*arguments)
    result, failure = None, None
    try:
        result = function(*arguments)
    except BaseException as error:  # Also Ctrl-C: the others must not wait for a process that is gone.
        failure = error
    failed = np.flatnonzero(multihost_utils.process_allgather(np.bool_(failure is not None)))
    if failure is not None:
        raise failure
    if failed.size:
        raise OtherProcessFailed(f"process {failed[0]} failed; what it printed says why")
    return result


def on_first(function: Callable[..., Any], *arguments: Any) -> None:
    """Calls `function` on the first process while the others wait; if it fails there, it fails on all.

    Raises:
      OtherProcessFailed: on the others, if it failed.
    """
    together(function if is_first() else lambda *_: None, *arguments)


def of_first(value: int) -> int:
    """The first process's value, on all: for what depends on a clock."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_equal(what: str, value: Any) -> None:
    """Makes sure that all processes have the same `value`, which JSON can hold.

    Raises:
      ConfigError: on all processes, if they do not; says which process, and `what`.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(json.dumps(value).encode()).digest(), np.uint8)
    found = multihost_utils.process_allgather(digest)
    different = np.flatnonzero((found != found[0]).any(axis=-1))
    if different.size:
        raise ConfigError(
            f"process {different[0]} does not have the same {what} as process 0; "
            "all need the same command line, the same data, and one folder that they share"
        )
