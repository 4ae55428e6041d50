"""Which form of a computation each platform takes; the forms give the same numbers, to rounding."""

from collections.abc import Callable

import jax
from jax import lax

Form = Callable[..., jax.Array]

# XLA's CPU backend is slow at the convolutions that a derivative needs (dilated and transposed ones). On GPUs some of
# them become convolutions with a window as large as the image, each is a call that no CUDA graph holds, and none
# computes in bfloat16. TPUs have units for convolutions.
FORMS = {"convolution": {"cpu": "patches", "gpu": "patches", "tpu": "xla"}}


def by_platform(what: str, *arrays: jax.Array, **forms: Form) -> jax.Array:
    """Computes `what` (a name in `FORMS`) in the form of the platform that the program is compiled for.

    All forms are traced, whatever the platform.
    """
    taken = FORMS[what]
    gpu, tpu, others = (forms[taken[platform]] for platform in ("gpu", "tpu", "cpu"))
    return lax.platform_dependent(*arrays, cuda=gpu, rocm=gpu, tpu=tpu, default=others)


def form_here(what: str) -> str:
    """The name of the form that JAX's default platform takes: for those of which not all can be traced."""
    return FORMS[what].get(jax.default_backend(), FORMS[what]["cpu"])
