"""The matrix product of all layers, in the precision of `jax.default_matmul_precision`."""

import jax
import jax.numpy as jnp


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies `x`, [..., a], by a matrix [a, b]: [..., b].

    Within `jax.default_matmul_precision("bfloat16")` both factors of a float32 product are rounded to bfloat16, and so
    are those of its derivatives, on every platform; sums, and all that is not a product, stay in float32. A factor of 0
    stays 0: closed gates stay closed. In any other precision it is JAX's own product.
    """
    return _rounded_product(x, matrix) if rounds(x) else x @ matrix


def rounds(x: jax.Array) -> bool:
    """Whether products of `x` are to be of numbers rounded to bfloat16."""
    return jax.config.jax_default_matmul_precision == "bfloat16" and x.dtype == jnp.float32  # type: ignore[attr-defined]


@jax.custom_vjp
def _rounded_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(x.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _forward(x, matrix):
    return _rounded_product(x, matrix), (x, matrix)


def _backward(factors, gradient):
    x, matrix = factors
    rows, gradients = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    return _rounded_product(gradient, matrix.T), _rounded_product(rows.T, gradients)


_rounded_product.defvjp(_forward, _backward)
