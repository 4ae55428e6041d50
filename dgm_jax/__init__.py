"""Class-incremental learning with a generative memory: Dynamic Generative Memory (CVPR 2019) in JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dgm_jax.errors import naming_extras
from dgm_jax.version import __version__

if TYPE_CHECKING:
    from dgm_jax.forgetting import forget
    from dgm_jax.learner import Learner
    from dgm_jax.loading import load_classifier, load_memory
    from dgm_jax.memory.classifier import Classifier
    from dgm_jax.memory.memory import Memory
    from dgm_jax.runs.events import Callback

__all__ = ["Callback", "Classifier", "Learner", "Memory", "__version__", "forget", "load_classifier", "load_memory"]

_HOMES = {
    "Callback": "dgm_jax.runs.events",
    "Classifier": "dgm_jax.memory.classifier",
    "Learner": "dgm_jax.learner",
    "Memory": "dgm_jax.memory.memory",
    "forget": "dgm_jax.forgetting",
    "load_classifier": "dgm_jax.loading",
    "load_memory": "dgm_jax.loading",
}
_ROOMS = ("config", "data", "metrics", "nn")


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: `dgm_jax.nn` and `--help` need not wait for the rest."""
    if name in _HOMES:
        with naming_extras():
            return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"dgm_jax.{name}")
    raise AttributeError(f"module 'dgm_jax' has no attribute {name!r}")
