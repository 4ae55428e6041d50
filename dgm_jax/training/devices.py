"""The one place that maps training over devices."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dgm_jax.errors import ConfigError
from dgm_jax.nn import platforms
from dgm_jax.system import processes

AXIS = "devices"


def choose_devices(count: int | Literal["all"] | None) -> list[jax.Device]:
    """Returns the devices of a run, equally many of each process: `count` in all, or one of each process if None.

    Raises:
      NoDevice: if JAX has none of the kind that it was asked for.
      ConfigError: if there are fewer, or they do not split over processes.
    """
    processes.require_device()
    present, n_processes = jax.devices(), jax.process_count()
    n = n_processes if count is None else len(present) if count == "all" else count
    devices = [d for process in range(n_processes) for d in jax.local_devices(process)[: n // n_processes]]
    if n < 1 or len(devices) != n:
        here = f"{len(present)} ({present[0].platform})"
        if n_processes == 1:
            raise ConfigError(f"devices={n}, but here are {here}; use 1 to {len(present)}")
        raise ConfigError(f"devices={n}, but {n_processes} processes have {here}; use equally many of each process")
    return devices


def check_batch(batch_size: int, n_devices: int) -> None:
    """Refuses a mini-batch that does not split over devices; raises ConfigError."""
    if batch_size % n_devices:
        n_processes = jax.process_count()
        fitting = [d for d in range(n_processes, n_devices, n_processes) if batch_size % d == 0]
        raise ConfigError(
            f"batch_size={batch_size} does not split over {n_devices} devices; "
            f"use a multiple of {n_devices}, e.g. {-(-batch_size // n_devices) * n_devices}"
            + (f" (or --devices {fitting[-1]})" if fitting else "")
        )


def most_devices(n_runs: int, n_devices: int) -> int:
    """The largest number of devices, at most `n_devices`, that can each train equally many of `n_runs` whole runs."""
    return max(n for n in range(1, n_devices + 1) if n_runs % n == 0)


_JAX_NAMES = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}


def matmul_precision(precision: str) -> str:
    """The setting `precision` as JAX calls it; "auto" is that of the platform that a program is compiled for."""
    return _JAX_NAMES[platforms.form("precision") if precision == "auto" else precision]


def precision_of(device: jax.Device) -> str:
    """The precision that "auto" stands for on a device; on a GPU without tf32 that is float32, which it computes."""
    with platforms.compiled_for(device.platform):
        precision = platforms.form("precision")
    return "float32" if precision == "tf32" and not _has_tf32(device) else precision


def _has_tf32(gpu: jax.Device) -> bool:
    """Whether NVIDIA's compute capability of a GPU is 8.0 or more; others have none, or it is no number."""
    try:
        return float(getattr(gpu, "compute_capability", 0)) >= 8.0
    except ValueError:
        return False


def check_precision(precision: str, device: jax.Device) -> None:
    """Refuses a precision that the device lacks; raises ConfigError."""
    if precision == "tf32" and device.platform != "gpu":
        name = device.platform.upper()
        raise ConfigError(f"precision='tf32', but a {name} has no such numbers; use float32 or bf16")


def placement(devices: Sequence[jax.Device], *, apart: bool = False) -> NamedSharding:
    """Where mapped programs of one process take arrays: whole on each device, or `apart`, entry i on device i."""
    return NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS) if apart else PartitionSpec())


def place(tree: Any, devices: Sequence[jax.Device], *, apart: bool = False) -> Any:
    """Puts arrays where mapped programs take them (`placement`).

    With several processes, each calls this with its own copy, and the arrays span the devices of all; they are whole.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, placement(devices, apart=apart))
    mesh, whole = Mesh(np.asarray(devices), (AXIS,)), PartitionSpec()
    here = jax.device_put(tree, NamedSharding(mesh.local_mesh, whole))
    return multihost_utils.host_local_array_to_global_array(here, mesh, whole)


def local(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """The copy of this process of whole arrays that may span processes; nothing is copied."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.global_array_to_host_local_array(tree, Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())


class Mapped:
    """A function that is mapped over devices."""

    def __init__(self, program: Any, *shards: np.ndarray) -> None:
        """Wraps a compiled program that takes the state, a tuple of all arguments, and perhaps numbers of devices."""
        self._program, self._shards = program, shards

    def __call__(self, state: Any, *arguments: Any) -> Any:
        """Calls it; `state` is donated."""
        return self._program(state, arguments, *self._shards)

    def compile(self, state: Any, *arguments: Any) -> None:
        """Compiles the program of a call, which then finds it. Of large arguments, `jax.ShapeDtypeStruct`s will do."""
        self._program.lower(state, arguments, *self._shards).compile()


def data_parallel(function: Callable[..., Any], devices: Sequence[jax.Device], backend: str = "pmap") -> Mapped:
    """Maps `function(state, *arguments, shard)` over devices that share each mini-batch.

    Every device gets the whole of `state` and `arguments` and its own number `shard`; by it, the function takes its
    share of each batch (`share`) and averages gradients over the axis `AXIS`, so that all results are equal. They come
    back once, in natural shape. `state` is donated. One device is mapped like many. All processes make the same calls,
    each with its own copy of the arguments; those that are large should be made global once (`place`).

    Args:
      function: pure.
      devices: of all processes, those of each side by side.
      backend: "pmap", or "shard_map" for `jit` of it.

    Raises:
      ConfigError: if there is no such backend.
    """
    return _backend(backend)(_in_its_forms(function, devices), devices, None)


def run_parallel(
    function: Callable[..., Any], devices: Sequence[jax.Device], backend: str, axes: Sequence[int | None]
) -> Mapped:
    """Maps `function(state, *arguments, shard)` over devices that train runs of their own, in one process.

    Args:
      function: pure; it computes nothing together with other devices.
      devices: one for each entry of the arguments that are split.
      backend: as in `data_parallel`.
      axes: for the state and each argument 0 if its first axis is split over the devices, None if all get the whole.

    Returns:
      A function whose results have such a first axis, too. `state` is donated.
    """
    return _backend(backend)(_in_its_forms(function, devices), devices, axes)


def _in_its_forms(function: Callable[..., Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    """The function, traced in the forms that its devices take, unless it is said which others."""

    def traced(*arguments: Any) -> Any:
        if platforms.is_known():
            return function(*arguments)
        with platforms.compiled_for(devices[0].platform):
            return function(*arguments)

    return traced


def _pmap(function: Callable[..., Any], devices: Sequence[jax.Device], axes: Sequence[int | None] | None) -> Mapped:
    state_axis, argument_axes = (axes[0], tuple(axes[1:])) if axes else (None, None)
    program = jax.pmap(
        lambda state, arguments, shard: function(state, *arguments, shard),
        axis_name=AXIS,
        in_axes=(state_axis, argument_axes, 0),
        out_axes=state_axis,
        devices=devices,
        donate_argnums=0,
    )
    # A process passes what its own devices are to get.
    return Mapped(program, np.flatnonzero([device.process_index == jax.process_index() for device in devices]))


def _shard_map(
    function: Callable[..., Any], devices: Sequence[jax.Device], axes: Sequence[int | None] | None
) -> Mapped:
    def on_one_device(state: Any, arguments: Any) -> Any:
        if axes is None:
            return function(state, *arguments, lax.axis_index(AXIS))
        state, *arguments = (
            tree if axis is None else jax.tree.map(lambda leaf: leaf[0], tree)
            for axis, tree in zip(axes, (state, *arguments), strict=True)
        )
        return jax.tree.map(lambda leaf: leaf[None], function(state, *arguments, lax.axis_index(AXIS)))

    state_spec, *argument_specs = (PartitionSpec() if axis is None else PartitionSpec(AXIS) for axis in axes or [None])
    mapped = jax.shard_map(
        on_one_device,
        mesh=Mesh(np.asarray(devices), (AXIS,)),
        in_specs=(state_spec, tuple(argument_specs) if axes else state_spec),
        out_specs=state_spec,
        check_vma=False,  # With it, gradients would be summed over devices before the function averages them.
    )
    return Mapped(jax.jit(mapped, donate_argnums=0))


_BACKENDS = {"pmap": _pmap, "shard_map": _shard_map}


def _backend(name: str) -> Callable[..., Any]:
    if name not in _BACKENDS:
        raise ConfigError(f"backend {name!r} is unknown; choose one of {', '.join(_BACKENDS)}")
    return _BACKENDS[name]


def shape_of(array: Any, sharding: NamedSharding, run_axes: Sequence[int] = ()) -> jax.ShapeDtypeStruct:
    """What stands for an array when a program is compiled; several runs add axes before its own."""
    weak = not run_axes and getattr(array, "weak_type", False)
    return jax.ShapeDtypeStruct((*run_axes, *np.shape(array)), array.dtype, sharding=sharding, weak_type=weak)


def share(batch: jax.Array, shard: jax.Array, n_devices: int) -> jax.Array:
    """The part of a batch, [batch, ...], that belongs to device number `shard`: [batch / n_devices, ...]."""
    if n_devices == 1:
        return batch
    size = batch.shape[0] // n_devices
    return lax.dynamic_slice_in_dim(batch, shard * size, size)


def mean_over_devices(tree: Any, axis_name: str | None) -> Any:
    """The average of each array over devices that share a mini-batch; unchanged if there is no such axis.

    All arrays travel as one vector: a small exchange takes as long as a large one, because devices wait for each other.
    """
    if axis_name is None:
        return tree
    if lax.axis_size(axis_name) == 1:
        return lax.pmean(tree, axis_name)
    vector, restored = ravel_pytree(tree)
    return restored(lax.pmean(vector, axis_name))
