"""The matrix product that all layers use, in the precision of `jax.default_matmul_precision`."""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

Product = Callable[[jax.Array, jax.Array], jax.Array]


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies `x`, [..., a], by a matrix [a, b]: [..., b].

    Within `jax.default_matmul_precision("bfloat16")` both factors of a float32 product are rounded to bfloat16, and so
    are those of its derivatives, on every platform. Sums and all other operations stay in float32. A factor of 0
    stays 0, so closed gates stay closed.

    Factors of different dtypes are promoted as JAX does. Differentiable in forward and reverse mode; in forward mode
    only if nothing is rounded.
    """
    x, matrix = promoted(x, matrix)
    if rounds(x):
        return _rounded_product(x, matrix)
    if x.ndim <= 2 or is_sharded(x, range(1, x.ndim)):
        return x @ matrix
    # As matrices: of a product over more axes, JAX's derivative makes XLA:CPU copy `x` into another memory order, and a
    # training iteration takes a quarter longer.
    return (x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[1])


def is_sharded(x: jax.Array, axes: Iterable[int]) -> bool:
    """Whether the type of `x` says that one of these axes is split over devices (explicit sharding)."""
    spec = jax.typeof(x).sharding.spec
    return any(spec[axis] is not None for axis in axes if axis < len(spec))


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

    @jax.custom_vjp
    def rounding(x, y):
        return multiply(_to_bfloat16(x), _to_bfloat16(y))

    def forward(x, y):
        return rounding(x, y), (x, y)

    def backward(factors, gradient):
        x, y = factors
        by_x = rounded(lambda g, y: jax.linear_transpose(lambda x: multiply(x, y), x)(g)[0])
        by_y = rounded(lambda x, g: jax.linear_transpose(lambda y: multiply(x, y), y)(g)[0])
        return by_x(gradient, y), by_y(x, gradient)

    rounding.defvjp(forward, backward)
    return rounding


def _to_bfloat16(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _with_derivative(multiply: Product) -> Product:
    """Gives a product a derivative that consists of the same product, applied to matrices.

    JAX's derivative contracts over all axes except the last one; for that, XLA:CPU first copies `x` into another memory
    order, and a training iteration takes a quarter longer.
    """
    differentiable = jax.custom_vjp(multiply)

    def forward(x, matrix):
        return differentiable(x, matrix), (x, matrix)

    def backward(factors, gradient):
        x, matrix = factors
        rows, gradients = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        by_x = differentiable(gradient, matrix.T)
        # There are two ways to multiply them; transposing the wider matrix is faster.
        if gradients.shape[1] > rows.shape[1]:
            return by_x, differentiable(gradients.T, rows).T
        return by_x, differentiable(rows.T, gradients)

    differentiable.defvjp(forward, backward)
    return differentiable


@_with_derivative
def _rounded_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(x.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
