"""Checks of what a file says, before anything is made of it. Each raises DamagedMemoryFile."""

from typing import Any

import numpy as np

from dgm_jax.memory.container import DamagedMemoryFile
from dgm_jax.models import NETWORKS, OF_VECTORS
from dgm_jax.types import Scale

_IMAGE_SIZES = (8, 16, 32, 64, 128)
_MOST_NUMBERS = 2**20  # Of a vector.


def require_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    """Refuses an array of a file that has another dtype or shape, or a number that is not finite."""
    if array.dtype != dtype or array.shape != shape:
        raise DamagedMemoryFile(
            f"{name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}"
        )
    if dtype is np.float32 and not np.isfinite(array).all():
        raise DamagedMemoryFile(f"a number in {name} is not finite")


def require_classes(labels: Any, names: Any) -> None:
    """Refuses what are no labels and names of classes."""
    for values in (labels, names):
        require(type(values) is list, f"{values!r} is no list")
    require(len(labels) == len(names) > 0, f"{len(labels)} labels and {len(names)} names")
    for label in labels:
        require_number(label, -(2**63), 2**63 - 1, "label")
    require(all(type(name) is str for name in names), "a name that is no text")
    require(len(set(labels)) == len(labels), "a label that two classes have")


def require_images(network: Any, image_size: Any, channels: Any) -> None:
    """Refuses what is no network, or no shape of images or vectors."""
    require(network in NETWORKS, f"network {network!r} is none of {', '.join(NETWORKS)}")
    if network == OF_VECTORS:
        require_number(image_size, 1, 1, "image_size")
        require_number(channels, 2, _MOST_NUMBERS, "channels")
        return
    for name, value, choices in (("image_size", image_size, _IMAGE_SIZES), ("channels", channels, (1, 3))):
        # 8.0 and True are equal to such numbers, and are none.
        require(type(value) is int and value in choices, f"{name} {value!r} is none of {choices}")


def scale_in(array: np.ndarray) -> Scale:
    """The scale of vectors, of a file's array float32 [2, d]: means, then deviations."""
    if (array[1] <= 0).any():
        raise DamagedMemoryFile("a deviation in it is not above 0")
    return Scale(mean=array[0], deviation=array[1])


def require(right: bool, what: str) -> None:
    """Refuses a header unless something is right; `what` says what is not."""
    if not right:
        raise DamagedMemoryFile(f"its header is not valid: {what[:200]}")


def require_number(value: Any, low: int, high: int, what: str) -> None:
    """Refuses what is no whole number within these bounds."""
    require(type(value) is int and low <= value <= high, f"{what} {value!r} is not within {low} to {high}")
