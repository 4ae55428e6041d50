"""Measures of a run, as pure functions of arrays."""

from dgm_jax.metrics.accuracy import (
    accuracy_with_task_known,
    average_incremental_accuracy,
    backward_transfer,
    capacity,
    confusion_matrix,
    forgetting,
    forgetting_by_class,
    forward_transfer,
    macro_accuracy,
    micro_accuracy,
    per_class_accuracy,
    share_of_joint,
)
from dgm_jax.metrics.calibration import expected_calibration_error, log_probabilities, negative_log_likelihood
from dgm_jax.metrics.distributions import frechet_distance, nearest, precision_and_recall
from dgm_jax.metrics.open_set import auroc, oscr

__all__ = [
    "accuracy_with_task_known",
    "auroc",
    "average_incremental_accuracy",
    "backward_transfer",
    "capacity",
    "confusion_matrix",
    "expected_calibration_error",
    "forgetting",
    "forgetting_by_class",
    "forward_transfer",
    "frechet_distance",
    "log_probabilities",
    "macro_accuracy",
    "micro_accuracy",
    "nearest",
    "negative_log_likelihood",
    "oscr",
    "per_class_accuracy",
    "precision_and_recall",
    "share_of_joint",
]
