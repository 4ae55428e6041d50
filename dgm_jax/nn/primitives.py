"""Linear maps as primitives of JAX, in pairs: each is the other's transpose.

A `custom_vjp` would have no forward mode, and its derivatives fail under `shard_map`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Map = Callable[..., jax.Array]


def transposes(name: str, function: Map, other_name: str, other: Map) -> tuple[Primitive, Primitive]:
    """Two linear maps of one array, each the transpose of the other, as primitives; `vmap` adds a leading axis."""
    first, second = linear(name, function), linear(other_name, other)
    ad.deflinear2(first, lambda gradient, _, **options: [second.bind(gradient, **options)])
    ad.deflinear2(second, lambda gradient, _, **options: [first.bind(gradient, **options)])
    return first, second


def linear(name: str, function: Map) -> Primitive:
    """A map of arrays as a primitive that is still without derivatives; `vmap` adds a leading axis to each array."""
    primitive = Primitive(name)

    @lru_cache(maxsize=1024)
    def shape_of(*arguments: Any, **options: Any) -> Any:
        return jax.make_jaxpr(partial(function, **options))(*arguments).out_avals[0]

    def batched(arguments: Sequence[jax.Array], axes: Sequence[int | None], **options: Any) -> tuple[jax.Array, int]:
        (size,) = {a.shape[axis] for a, axis in zip(arguments, axes) if axis is not None}
        led = [
            jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
            for a, axis in zip(arguments, axes)
        ]
        return primitive.bind(*led, **options), 0

    primitive.def_impl(function)
    primitive.def_abstract_eval(shape_of)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    return primitive
