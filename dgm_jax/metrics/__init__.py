"""Measures of a run, as pure functions of arrays."""

from dgm_jax.metrics.accuracy import (
    backward_transfer,
    capacity,
    confusion_matrix,
    forgetting,
    macro_accuracy,
    micro_accuracy,
    per_class_accuracy,
)
from dgm_jax.metrics.distributions import frechet_distance, nearest, precision_and_recall

__all__ = [
    "backward_transfer",
    "capacity",
    "confusion_matrix",
    "forgetting",
    "frechet_distance",
    "macro_accuracy",
    "micro_accuracy",
    "nearest",
    "per_class_accuracy",
    "precision_and_recall",
]
