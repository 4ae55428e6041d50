"""Several processes in one run: all of them compute the same, and only the first one writes.

Every process must call these functions at the same points of its program; if one omits a call, the others wait for it.
With one process, nothing is communicated.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dgm_jax.errors import ConfigError, UserError


class NoDevice(UserError, RuntimeError):
    """JAX does not find the device that it was asked for."""


class OtherProcessFailed(UserError, RuntimeError):
    """Another process of this run failed; its output says why."""


def require_device() -> None:
    """Makes JAX start its devices.

    Raises:
      NoDevice: if it cannot, because `JAX_PLATFORMS` names a kind of device that is not here or not installed.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # The latter, without a text, for a GPU whose plugin is missing.
        chosen = jax.config.jax_platforms  # type: ignore[attr-defined]
        reason = f": {str(error).splitlines()[0]}" if str(error) else ""
        raise NoDevice(
            f"JAX finds no device of the kind JAX_PLATFORMS={chosen or ''}{reason}; unset JAX_PLATFORMS, or install "
            'JAX for this device (e.g. python -m pip install "jax[cuda13]")'
        ) from error


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Makes this process part of a run of several processes. Call it before anything uses a device.

    Args:
      coordinator: HOST:PORT of the first process; every host must be able to reach it.
      num_processes: number of processes, >= 1.
      process_id: number of this process, from 0.

    Without arguments, JAX detects them on Slurm, Kubernetes, Open MPI and TPU pods.

    Raises:
      ConfigError: if only some arguments are given, they do not fit each other, or JAX cannot detect them.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and any(value is not None for value in given):
        raise ConfigError("--coordinator, --num-processes and --process-id belong together; give all three or none")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ConfigError(f"--coordinator {coordinator} is not HOST:PORT, e.g. {coordinator}:9876")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ConfigError(f"--process-id {process_id} is not one of 0 to {num_processes - 1}")
    try:
        # An ending process waits so long for the others. JAX's 300 seconds are many if only one process failed.
        jax.distributed.initialize(coordinator, num_processes, process_id, shutdown_timeout_seconds=60)
    except ValueError as error:
        raise ConfigError(
            f"--distributed: JAX cannot detect the processes of this run ({error}); "
            "give --coordinator HOST:PORT --num-processes N --process-id I"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return jax.process_index() == 0


def call_on_all(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function` on every process; if it raises on one of them, this raises on all.

    Returns:
      The value that it returned on this process.

    Raises:
      OtherProcessFailed: if it raised on another process.
    """
    if jax.process_count() == 1:
        return function(*arguments)
    result, failure = None, None
    try:
        result = function(*arguments)
    except BaseException as error:  # Ctrl-C too: the others must not wait for a process that has ended.
        failure = error
    failed = np.flatnonzero(multihost_utils.process_allgather(np.bool_(failure is not None)))
    if failure is not None:
        raise failure
    if failed.size:
        raise OtherProcessFailed(f"process {failed[0]} failed; its output says why")
    return result


def on_first(function: Callable[..., Any], *arguments: Any) -> None:
    """Calls `function` on the first process while the others wait; if it raises there, this raises on all.

    Raises:
      OtherProcessFailed: on the other processes, if `function` raised.
    """
    call_on_all(function if is_first() else lambda *_: None, *arguments)


def value_of_first(value: int) -> int:
    """Returns the value of the first process on all processes; for values that depend on a clock."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def must_stop(requested: bool, point: int) -> bool:
    """Whether the run must stop at this point; all processes stop at the same one.

    Args:
      requested: whether this process was asked to, if it is the only one. Of several, JAX hears the signal of any.
      point: the number of this call, counted from 1 without gaps.
    """
    preempted = bool(multihost_utils.reached_preemption_sync_point(point))
    return preempted or jax.process_count() == 1 and requested


def check_equal(what: str, value: Any) -> None:
    """Checks that all processes have the same `value`, which JSON must be able to hold.

    Raises:
      ConfigError: on all processes, if they differ; the message names the process and `what`.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(json.dumps(value).encode()).digest(), np.uint8)
    found = multihost_utils.process_allgather(digest)
    different = np.flatnonzero((found != found[0]).any(axis=-1))
    if different.size:
        raise ConfigError(
            f"process {different[0]} does not have the same {what} as process 0; "
            "all need the same command line, the same data, and one shared folder"
        )
