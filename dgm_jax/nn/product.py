"""The matrix product of all layers, in the precision of `jax.default_matmul_precision`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Product = Callable[[jax.Array, jax.Array], jax.Array]


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies `x`, [..., a], by a matrix [a, b]: [..., b].

    Within `jax.default_matmul_precision("bfloat16")` both factors of a float32 product are rounded to bfloat16, and so
    are those of its derivatives, on every platform; sums, and all that is not a product, stay in float32. A factor of 0
    stays 0: closed gates stay closed.

    The derivative is of reverse mode only, unless `x` has two axes and nothing is rounded.
    """
    if rounds(x):
        return _rounded_product(x, matrix)
    return x @ matrix if x.ndim == 2 else _float_product(x, matrix)


def rounds(x: jax.Array) -> bool:
    """Whether products of `x` are to be of numbers rounded to bfloat16."""
    return jax.config.jax_default_matmul_precision == "bfloat16" and x.dtype == jnp.float32  # type: ignore[attr-defined]


def rounded(multiply: Product) -> Product:
    """Rounds both factors of a bilinear map to bfloat16, and those of its derivatives of any order.

    They stay float32 arrays: their products are exact, and no device has to add them up in bfloat16.
    """

    @jax.custom_vjp
    def own(x, y):
        return multiply(_to_bfloat16(x), _to_bfloat16(y))

    def forward(x, y):
        return own(x, y), (x, y)

    def backward(factors, gradient):
        x, y = factors
        by_x = rounded(lambda g, y: jax.linear_transpose(lambda x: multiply(x, y), x)(g)[0])
        by_y = rounded(lambda x, g: jax.linear_transpose(lambda y: multiply(x, y), y)(g)[0])
        return by_x(gradient, y), by_y(x, gradient)

    own.defvjp(forward, backward)
    return own


def _to_bfloat16(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _with_derivative(multiply: Product) -> Product:
    """Gives a product a derivative that is made of the same product, of matrices.

    JAX's own contracts over all axes but the last as they stand, for which XLA:CPU first copies `x` into another order:
    a training iteration then takes a quarter longer.
    """
    own = jax.custom_vjp(multiply)

    def forward(x, matrix):
        return own(x, matrix), (x, matrix)

    def backward(factors, gradient):
        x, matrix = factors
        rows, gradients = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        # Of the two ways to multiply them, the one that transposes the narrower is the slower.
        if gradients.shape[1] > rows.shape[1]:
            return own(gradient, matrix.T), own(gradients.T, rows).T
        return own(gradient, matrix.T), own(rows.T, gradients)

    own.defvjp(forward, backward)
    return own


@_with_derivative
def _float_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return x @ matrix


@_with_derivative
def _rounded_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(x.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
