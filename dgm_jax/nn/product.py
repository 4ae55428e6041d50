"""The matrix product that all layers use, in the precision of `jax.default_matmul_precision`."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.interpreters import ad

from dgm_jax.nn import platforms
from dgm_jax.nn.primitives import linear, transposes

Product = Callable[[jax.Array, jax.Array], jax.Array]


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies `x`, [..., a], by a matrix [a, b]: [..., b].

    Within `jax.default_matmul_precision("bfloat16")` both factors of a float32 product are rounded to bfloat16, and so
    are those of its derivatives, on every platform. Sums and all other operations stay in float32. A factor of 0
    stays 0, so closed gates stay closed.

    Factors of different dtypes are promoted as JAX does. Differentiable in forward and reverse mode, any number of
    times.
    """
    x, matrix = promoted(x, matrix)
    if rounds(x):
        if is_placed(x) or is_placed(matrix):
            return rounded(jnp.matmul)(x, matrix)
        y = _rounded_product_p.bind(_rows(x), matrix, turned=(False, False))
        return y.reshape(*x.shape[:-1], matrix.shape[1])
    if x.ndim <= 2 or is_sharded(x, range(1, x.ndim)):
        return x @ matrix
    # As matrices: of a product over more axes, JAX's derivative makes XLA:CPU copy `x` into another memory order, and a
    # training iteration takes a quarter longer.
    return (_rows(x) @ matrix).reshape(*x.shape[:-1], matrix.shape[1])


def is_sharded(x: jax.Array, axes: Iterable[int]) -> bool:
    """Whether the type of `x` says that one of these axes is split over devices (explicit sharding)."""
    spec = jax.typeof(x).sharding.spec
    return any(spec[axis] is not None for axis in axes if axis < len(spec))


def is_placed(x: jax.Array) -> bool:
    """Whether the type of `x` says that devices hold different parts of it: explicit sharding, or `shard_map`."""
    return is_sharded(x, range(x.ndim)) or bool(jax.typeof(x).manual_axis_type.varying)


def promoted(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both arrays in the dtype to which JAX promotes them: the same eagerly and under `jit`."""
    dtype = jnp.result_type(x, y)
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def rounds(x: jax.Array) -> bool:
    """Whether the factors of products with `x` are rounded to bfloat16."""
    return jax.config.jax_default_matmul_precision == "bfloat16" and x.dtype == jnp.float32  # type: ignore[attr-defined]


def rounded(multiply: Product) -> Product:
    """Makes a bilinear map round both factors to bfloat16; its derivatives of any order round theirs, too.

    The rounded factors stay float32 arrays, so their products are exact and no device adds them up in bfloat16.
    """
    return lambda x, y: _unrounded_p.bind(multiply(_rounded_p.bind(x), _rounded_p.bind(y)))


# A derivative multiplies one factor by the gradient of the result. It is rounded because rounding, which counts as
# linear, is the transpose of the map that leaves a result as it is.
_rounded_p, _unrounded_p = transposes(
    "round_to_bfloat16",
    lambda x: jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7),
    "round_the_gradient_to_bfloat16",
    lambda y: y,
)


def _rounded_product(x: jax.Array, y: jax.Array, *, turned: tuple[bool, bool]) -> jax.Array:
    """The product of two matrices, or of two stacks of them, in bfloat16 with sums in float32.

    It is faster than `rounded` where a device has such a product. `turned` says which factors are transposed first.
    """
    x, y = (_factor(matrix, is_turned) for matrix, is_turned in zip((x, y), turned, strict=True))
    # On CPUs XLA has no product in bfloat16 whose result lies transposed.
    return _in_order(jnp.matmul(x, y, preferred_element_type=jnp.float32))


def _factor(matrix: jax.Array, is_turned: bool) -> jax.Array:
    matrix = matrix.astype(jnp.bfloat16)
    return _in_order(_in_order(matrix).mT) if is_turned else matrix


def _in_order(matrix: jax.Array) -> jax.Array:
    """The array as it is; on CPUs, written to memory with its last axis changing fastest.

    There a product in bfloat16 is several times as fast if no factor lies transposed, and a transpose if nothing else
    is computed in the same loop.
    """
    if platforms.form("rounded_product") == "in_any_order":
        return matrix
    return jax.lax.optimization_barrier(with_layout_constraint(matrix, Layout(tuple(range(matrix.ndim)))))


def _by_x(gradient: jax.Array, x: Any, y: jax.Array, *, turned: tuple[bool, bool]) -> jax.Array:
    x_is_turned, y_is_turned = turned
    if x_is_turned:
        return _rounded_product_p.bind(y, gradient, turned=(y_is_turned, True))
    return _rounded_product_p.bind(gradient, y, turned=(False, not y_is_turned))


def _by_y(gradient: jax.Array, x: jax.Array, y: Any, *, turned: tuple[bool, bool]) -> jax.Array:
    x_is_turned, y_is_turned = turned
    if y_is_turned:
        return _rounded_product_p.bind(gradient, x, turned=(True, x_is_turned))
    if x_is_turned or x.shape[-1] <= gradient.shape[-1]:
        return _rounded_product_p.bind(x, gradient, turned=(not x_is_turned, False))
    # The narrower of the two is transposed, because that is a copy.
    return _rounded_product_p.bind(gradient, x, turned=(True, False)).mT


_rounded_product_p = linear("rounded_product", _rounded_product)
ad.defbilinear(_rounded_product_p, _by_x, _by_y)


def _rows(x: jax.Array) -> jax.Array:
    """`x` as a matrix: all axes but the last become one."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
