"""The one place that maps training over devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dgm_jax.errors import ConfigError
from dgm_jax.nn import platforms
from dgm_jax.system import processes

AXIS = "devices"


def choose_devices(count: int | None, batch_size: int) -> list[jax.Device]:
    """Returns the devices to train on, equally many of each process: `count` in all, or every one if None.

    Raises:
      NoDevice: if JAX has none of the kind that it was asked for.
      ConfigError: if there are fewer, or they do not split over processes, or the batch not over them.
    """
    processes.require_device()
    present, n_processes = jax.devices(), jax.process_count()
    n = len(present) if count is None else count
    devices = [d for process in range(n_processes) for d in jax.local_devices(process)[: n // n_processes]]
    if n < 1 or len(devices) != n:
        here = f"{len(present)} ({present[0].platform})"
        if n_processes == 1:
            raise ConfigError(f"devices={n}, but here are {here}; use 1 to {len(present)}")
        raise ConfigError(f"devices={n}, but {n_processes} processes have {here}; use equally many of each process")
    if batch_size % n:
        fitting = [d for d in range(n_processes, n, n_processes) if batch_size % d == 0]
        raise ConfigError(
            f"batch_size={batch_size} does not split over {n} devices; "
            f"use a multiple of {n}, e.g. {-(-batch_size // n) * n}"
            + (f" (or --devices {fitting[-1]})" if fitting else "")
        )
    return devices


_JAX_NAMES = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}


def matmul_precision(precision: str) -> str:
    """The setting `precision` as JAX calls it; "auto" is that of the platform that a program is compiled for."""
    return _JAX_NAMES[platforms.form("precision") if precision == "auto" else precision]


def precision_of(device: jax.Device) -> str:
    """The precision that "auto" stands for on a device."""
    with platforms.compiled_for(device.platform):
        return platforms.form("precision")


def check_precision(precision: str, device: jax.Device) -> None:
    """Refuses a precision that the device lacks; raises ConfigError."""
    if precision == "tf32" and device.platform != "gpu":
        name = device.platform.upper()
        raise ConfigError(f"precision='tf32', but a {name} has no such numbers; use float32 or bf16")


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts a copy of each array on each of this process's devices, in its natural shape."""
    own = [device for device in devices if device.process_index == jax.process_index()]
    return jax.device_put(tree, NamedSharding(Mesh(np.asarray(own), (AXIS,)), PartitionSpec()))


def data_parallel(
    function: Callable[..., Any], devices: Sequence[jax.Device], backend: str = "pmap"
) -> Callable[..., Any]:
    """Maps `function(state, *arguments, shard)` over devices.

    Every device gets the whole of `state` and `arguments` and its own number `shard`; by it, the function takes its
    share of each batch (`share`) and averages gradients over the axis `AXIS`, so that all results are equal. They come
    back once, in natural shape, on this process's devices. `state` is donated. One device is mapped like many. All
    processes make the same calls, each with its own copy of the arguments.

    Args:
      function: pure.
      devices: of all processes, those of each side by side.
      backend: "pmap", or "shard_map" for `jit` of it.

    Raises:
      ConfigError: if there is no such backend.
    """
    if backend not in _BACKENDS:
        raise ConfigError(f"backend {backend!r} is unknown; choose one of {', '.join(_BACKENDS)}")

    def in_its_forms(*arguments: Any) -> Any:
        if platforms.is_known():
            return function(*arguments)
        with platforms.compiled_for(devices[0].platform):
            return function(*arguments)

    return _BACKENDS[backend](in_its_forms, devices)


def _pmap(function: Callable[..., Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    mapped = jax.pmap(
        lambda state, arguments, shard: function(state, *arguments, shard),
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )
    # A process passes what its own devices are to get.
    shards = np.flatnonzero([device.process_index == jax.process_index() for device in devices])

    def call(state: Any, *arguments: Any) -> Any:
        return mapped(state, arguments, shards)

    return call


def _shard_map(function: Callable[..., Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    mesh, whole = Mesh(np.asarray(devices), (AXIS,)), PartitionSpec()
    body = jax.shard_map(
        lambda state, arguments: function(state, *arguments, lax.axis_index(AXIS)),
        mesh=mesh,
        in_specs=whole,
        out_specs=whole,
        check_vma=False,  # With it, gradients would be summed over devices before the function averages them.
    )
    mapped = jax.jit(body, donate_argnums=0)

    def call(state: Any, *arguments: Any) -> Any:
        # Here a program over several processes takes and gives arrays that span them; the buffers stay where they are.
        inputs = multihost_utils.host_local_array_to_global_array((state, arguments), mesh, whole)
        return multihost_utils.global_array_to_host_local_array(mapped(*inputs), mesh, whole)

    return call


_BACKENDS = {"pmap": _pmap, "shard_map": _shard_map}


def share(batch: jax.Array, shard: jax.Array, n_devices: int) -> jax.Array:
    """The part of a batch, [batch, ...], that belongs to device number `shard`: [batch / n_devices, ...]."""
    size = batch.shape[0] // n_devices
    return lax.dynamic_slice_in_dim(batch, shard * size, size)
