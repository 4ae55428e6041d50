"""The one place that maps training over devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dgm_jax.errors import ConfigError

AXIS = "devices"


def choose_devices(count: int | None, batch_size: int) -> list[jax.Device]:
    """Returns the devices to train on: the first `count` of this process's, or all of them if None.

    Raises:
      ConfigError: if there are fewer, or the batch does not split over them.
    """
    present = jax.local_devices()
    if count is not None and not 1 <= count <= len(present):
        here = f"{len(present)} ({present[0].platform})"
        raise ConfigError(f"devices={count}, but here are {here}; use 1 to {len(present)}")
    devices = present[:count]
    n = len(devices)
    if batch_size % n:
        fitting = next(d for d in range(n, 0, -1) if batch_size % d == 0)
        raise ConfigError(
            f"batch_size={batch_size} does not split over {n} devices; "
            f"use a multiple of {n}, e.g. {-(-batch_size // n) * n} (or --devices {fitting})"
        )
    return devices


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts a copy of each array on each device, in its natural shape."""
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())
    return jax.device_put(tree, sharding)


def data_parallel(function: Callable[..., Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    """Maps `function(state, *arguments, shard)` over devices by pmap.

    Every device gets the whole of `state` and `arguments` and its own number `shard`; by it, the function takes its
    share of each batch (`share`) and averages gradients over the axis `AXIS`, so that all results are equal. They come
    back once, in natural shape. `state` is donated. One device is mapped like many.
    """
    mapped = jax.pmap(
        lambda state, arguments, shard: function(state, *arguments, shard),
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )
    shards = np.arange(len(devices))

    def call(state: Any, *arguments: Any) -> Any:
        return mapped(state, arguments, shards)

    return call


def share(batch: jax.Array, shard: jax.Array, n_devices: int) -> jax.Array:
    """The part of a batch, [batch, ...], that belongs to device number `shard`: [batch / n_devices, ...]."""
    size = batch.shape[0] // n_devices
    return lax.dynamic_slice_in_dim(batch, shard * size, size)
