"""The settings of JAX that results hang on: pinned, because any library may set others for a whole process."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax
import jax.numpy as jnp

from dgm_jax.errors import UserError
from dgm_jax.system import processes

KEYS = "threefry2x32"  # The generator of random numbers of everything that is trained or drawn.


class OtherGenerator(UserError, ValueError):
    """A random key of another generator than the one that images are drawn with."""


@contextmanager
def pinned() -> Iterator[None]:
    """Within it, and in functions that it decorates, JAX works as if none of these settings had been changed.

    With 64-bit types or strict promotion, training and drawing would fail; with the other form of threefry, every image
    would be another one.

    Raises:
      NoDevice: if JAX has no device.
    """
    processes.require_device()
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(False))
        stack.enter_context(jax.default_prng_impl(KEYS))
        stack.enter_context(jax.threefry_partitionable(True))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.transfer_guard("allow"))
        yield


def new_key(seed: int) -> jax.Array:
    """The random key that `jax.random.key` makes of a seed below 2**32, whatever offset a process adds to seeds."""
    with pinned():
        return jax.random.wrap_key_data(jnp.array([0, seed], jnp.uint32), impl=KEYS)


def as_key(key: jax.Array) -> jax.Array:
    """A random key in JAX's present form; one of another generator is refused, because it would draw other images.

    Raises:
      OtherGenerator: naming the generator, and the line that makes a right key.
      TypeError: if it is no key at all.
    """
    if not hasattr(key, "dtype"):
        raise TypeError(f"key={key!r}; expected a random key, such as jax.random.key(0)")
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.shape == (2,):  # The raw form, of `jax.random.PRNGKey`: two numbers are a key of threefry.
        return jax.random.wrap_key_data(key, impl=KEYS)
    generator = str(jax.random.key_impl(key)) if typed else f"whose keys have the shape {list(key.shape)}"
    if generator != KEYS:
        raise OtherGenerator(
            f"a key of the generator {generator} would draw other images than those of {KEYS}; make the key with "
            f"jax.random.key(seed, impl={KEYS!r})"
        )
    return key
