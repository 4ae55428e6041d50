"""Data: every source gives checked arrays (`Dataset`), which are split into streams of tasks (`TaskStream`)."""

from dgm_jax.data.classes import parse_classes
from dgm_jax.data.dataset import DataError, Dataset, from_arrays
from dgm_jax.data.folders import folder_classes, from_folder, parse_parts
from dgm_jax.data.folds import fold, fold_name, parse_fold
from dgm_jax.data.gathering import Gathering
from dgm_jax.data.image_files import read_images
from dgm_jax.data.joining import join
from dgm_jax.data.order import parse_class_order, parse_classes_per_task, task_sizes
from dgm_jax.data.sources import class_names, from_npz, load
from dgm_jax.data.stream import FutureTaskError, Past, PastTaskError, TaskStream, class_incremental
from dgm_jax.data.tfds import default_folder
from dgm_jax.data.vectors import holds_vectors

__all__ = [
    "DataError",
    "Dataset",
    "FutureTaskError",
    "Gathering",
    "Past",
    "PastTaskError",
    "TaskStream",
    "class_incremental",
    "class_names",
    "default_folder",
    "fold",
    "fold_name",
    "folder_classes",
    "from_arrays",
    "from_folder",
    "from_npz",
    "holds_vectors",
    "join",
    "load",
    "parse_class_order",
    "parse_classes",
    "parse_classes_per_task",
    "parse_fold",
    "parse_parts",
    "read_images",
    "task_sizes",
]
