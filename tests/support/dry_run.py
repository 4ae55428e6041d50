"""All compiled programs of a run, found without compiling any: what would be computed is recorded, and is zero."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dgm_jax.config import Config
from dgm_jax.methods.method import TaskInput, Watch
from dgm_jax.nn import platforms
from dgm_jax.runs.session import new_method
from dgm_jax.training import devices as training_devices
from dgm_jax.training import feature_sums, trainer
from support import small_runs


class Program(NamedTuple):
    """A function under `jit`, and arguments that it was called with."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def lowered(self, platform: str) -> str:
        """The program for a platform that need not be here, as text."""
        with platforms.compiled_for(platform):
            return jax.export.export(self.function, platforms=[platform])(*self.arguments, **self.options).mlir_module()

    def compile_for(self, devices: Sequence[Any]) -> None:
        """Compiles the program for devices that need not be here, whole arrays on each."""
        whole = NamedSharding(Mesh(np.asarray(devices), (training_devices.AXIS,)), PartitionSpec())

        def abstract(leaf: Any) -> Any:
            is_array = isinstance(leaf, np.ndarray | np.generic | jax.Array)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole) if is_array else leaf

        self.function.lower(*jax.tree.map(abstract, self.arguments), **self.options).compile()


def programs(
    config: Config, devices: Sequence[jax.Device] = (), *, n_tasks: int = 2, **options: Any
) -> dict[str, Program]:
    """The programs of a run of the first tasks, by name; of each only the first shapes."""
    found: dict[str, Program] = {}
    with _recorded(found):
        stream = small_runs.stream(config, **options)
        method = new_method(config, stream, devices or jax.local_devices()[:1])
        key = jax.random.key(0)
        state = method.new_state(key)
        for task in range(2):
            stream.begin(task)
            training = method.begin(task, [TaskInput(key, state, *stream.train(task))], Watch())
            for epoch in range(method.plan(task, [state]).epochs):
                method.train_epoch(training, epoch, Watch())
            (learnt,) = method.end(training, Watch())
            for reading in learnt.classifiers.values():
                reading.logits(stream.train(task)[0])
            state = method.expand(task, key, learnt.state)
    return found


@contextmanager
def _recorded(found: dict[str, Program]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:

        def data_parallel(function: Any, devices: Sequence[jax.Device], backend: str) -> Callable[..., Any]:
            mapped = training_devices.data_parallel(function, devices, backend)
            adds_features = function.func is feature_sums.add_features

            def call(state: Any, *arguments: Any) -> Any:
                found.setdefault(function.func.__name__, Program(jax.jit(mapped), (state, *arguments), {}))
                if adds_features:
                    return jax.tree.map(np.ones_like, state)  # As if images had been added: classifiers divide by them.
                return state, arguments[-3]  # The sums of metrics.

            return call

        for module in (trainer, feature_sums):
            patched.setattr(module, "data_parallel", data_parallel)
            patched.setattr(module, "place", lambda tree, devices, **_: tree)  # The devices need not be here.
        kind = type(jax.jit(lambda: None))
        modules = [module for name, module in sys.modules.items() if name.startswith("dgm_jax.")]
        for module in modules:
            for name, value in vars(module).copy().items():
                if isinstance(value, kind):
                    patched.setattr(module, name, _recording(value, found))
        yield


def _recording(function: Any, found: dict[str, Program]) -> Callable[..., Any]:
    """The function inside other programs; otherwise what it returns is zero, and the call is recorded."""

    def call(*arguments: Any, **options: Any) -> Any:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, options))):
            return function(*arguments, **options)
        found.setdefault(function.__name__, Program(function, arguments, options))
        shapes = function.eval_shape(*arguments, **options)
        return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    return call
