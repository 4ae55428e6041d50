"""The matrix product that all layers use, in the precision of `jax.default_matmul_precision`."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad

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
        multiply = rounded(jnp.matmul) if is_placed(x) or is_placed(matrix) else _rounded_product_p.bind
        return multiply(x, matrix)
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


def _rounded_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product in bfloat16, with sums in float32: faster than `rounded` where a device has such a product.

    If `matrix` has more than two axes, it is a stack of matrices, and `x` one of as many arrays.
    """

    def multiply(x: jax.Array, matrix: jax.Array) -> jax.Array:
        return jnp.matmul(x.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16), preferred_element_type=jnp.float32)

    for _ in range(matrix.ndim - 2):
        multiply = jax.vmap(multiply)
    return multiply(x, matrix)


def _by_x(gradient: jax.Array, _: jax.Array, matrix: jax.Array) -> jax.Array:
    return _rounded_product_p.bind(gradient, matrix.mT)


def _by_matrix(gradient: jax.Array, x: jax.Array, matrix: Any) -> jax.Array:
    stacked = matrix.aval.ndim - 2
    rows, gradients = _rows(x, stacked), _rows(gradient, stacked)
    # There are two ways to multiply them; transposing the wider matrix is faster.
    if gradients.shape[-1] > rows.shape[-1]:
        return _rounded_product_p.bind(gradients.mT, rows).mT
    return _rounded_product_p.bind(rows.mT, gradients)


_rounded_product_p = linear("rounded_product", _rounded_product)
ad.defbilinear(_rounded_product_p, _by_x, _by_matrix)


def _rows(x: jax.Array, stacked: int = 0) -> jax.Array:
    """`x` as a matrix, or as a stack of matrices: all other axes become one, but for the last."""
    lead = x.shape[:stacked]
    return x.reshape(*lead, math.prod(x.shape[stacked:-1]), x.shape[-1])
