"""Which form of a computation each platform takes; the forms give the same numbers, to rounding."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax import lax

FORMS = {
    # XLA's CPU backend is slow at the convolutions that a derivative needs (dilated and transposed ones). On GPUs some
    # of them become convolutions with a window as large as the image, each is a call that no CUDA graph holds, and none
    # computes in bfloat16. TPUs have units for convolutions.
    "convolution": {"cpu": "patches", "gpu": "patches", "tpu": "xla"},
    "rounded_product": {"cpu": "in_order", "gpu": "in_any_order", "tpu": "in_any_order"},  # How its factors lie.
    # On GPUs an iteration of small networks is as long as its kernels are many. On CPUs two passes stay, and so does
    # every bit of earlier runs.
    "statistics": {"cpu": "two_passes", "gpu": "one_pass", "tpu": "one_pass"},  # Of a batch norm.
    "label": {"cpu": "index", "gpu": "comparison", "tpu": "comparison"},  # How a label's logit is picked.
    "update": {"cpu": "arrays", "gpu": "vector", "tpu": "arrays"},  # Of parameters: each by itself, or all as one.
    # Of the factors of training's products, where a run does not say it. TPUs compute float32 in six passes.
    "precision": {"cpu": "float32", "gpu": "tf32", "tpu": "bf16"},
}

_platform = jax.make_user_context(default_value=None)
_GPUS = ("cuda", "rocm")


def compiled_for(platform: str) -> AbstractContextManager[None]:
    """Within it, what is traced takes the forms of a platform ("cpu", "cuda", "rocm", "gpu", "tpu") and no other."""
    return _platform("gpu" if platform in _GPUS else platform)


def is_known() -> bool:
    """Whether `compiled_for` says which platform a program is for."""
    return _platform.value is not None


def form(what: str) -> str:
    """The form of `what`, a name in `FORMS`, on the platform of `compiled_for`, else on JAX's default platform."""
    return FORMS[what].get(_platform.value or jax.default_backend(), FORMS[what]["cpu"])


def by_platform(what: str, *arrays: jax.Array, **forms: Callable[..., jax.Array]) -> jax.Array:
    """Computes `what` in the form of the platform that the program is compiled for.

    Args:
      what: a name in `FORMS`.
      *arrays: what each form takes.
      **forms: by their names; without `compiled_for` all are traced, and one is compiled.
    """
    if is_known():
        return forms[form(what)](*arrays)
    gpu, tpu, others = (forms[FORMS[what][platform]] for platform in ("gpu", "tpu", "cpu"))
    taken: dict[str, Any] = {**dict.fromkeys(_GPUS, gpu), "tpu": tpu}
    return lax.platform_dependent(*arrays, **taken, default=others)
