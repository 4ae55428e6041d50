"""Vectors as the data of a stream: how arrays and files of them are checked and read, and how they are scaled."""

import zipfile
from typing import TYPE_CHECKING

import numpy as np

from dgm_jax.errors import DataError, is_of_environment
from dgm_jax.system.files import PathLike

if TYPE_CHECKING:  # JAX is slow to import, and --help does not need it.
    from dgm_jax.types import Scale

_LEAST_DEVIATION = 0.1  # Of a number of the vectors, as a share of that of all numbers (root mean square).


def are_vectors(images: np.ndarray) -> bool:
    """Whether an array of a `Dataset` holds vectors."""
    return bool(images.dtype == np.float32)


def as_vectors(values: np.ndarray, what: str) -> np.ndarray:
    """Floats [n, d] as float32 [n, 1, 1, d]; raises a DataError that begins with `what`."""
    if values.size == 0 or values.shape[1] < 2:
        raise DataError(
            f"{what} has shape {values.shape}; expected vectors [n, d], at least one, of at least 2 numbers."
        )
    with np.errstate(over="ignore"):  # It is refused below.
        vectors = values.astype(np.float32)
    rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if rows.size:
        raise DataError(
            f"{what} has numbers that are not finite as float32, in {len(rows)} of {len(vectors)} rows, e.g. row "
            f"{rows[0]}: leave those rows out."
        )
    return vectors[:, None, None]


def scale_of(vectors: np.ndarray) -> "Scale":
    """Scales each number of vectors [n, d] to the mean 0 and the deviation 1.

    A number that hardly varies in the first task may vary in later ones: its deviation counts as at least a tenth of
    the root mean square of all deviations.
    """
    from dgm_jax.types import Scale

    mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    least = _LEAST_DEVIATION * np.sqrt(np.mean(deviation**2)) or 1.0  # All vectors are equal.
    return Scale(np.float32(mean), np.float32(np.maximum(deviation, least)))


def holds_vectors(path: PathLike) -> bool:
    """Whether an npz file's x_train is of floats [n, d]. Reads no more than that; False if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as file, file.open("x_train.npy") as array:
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, _, dtype = read[np.lib.format.read_magic(array)[0]](array)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False
    return len(shape) == 2 and np.issubdtype(dtype, np.floating)


def read_vectors(path: PathLike) -> np.ndarray:
    """Reads the one array of an .npy file, or of an .npz file, where it may also be the one called x.

    Raises:
      DataError: if the file cannot be read, or holds other arrays.
    """
    try:
        found = np.load(path, allow_pickle=False)  # A pickle could run code.
        if isinstance(found, np.ndarray):
            return found
        with found as file:
            names = ["x"] if "x" in file.files else file.files
            if len(names) == 1:
                return np.asarray(file[names[0]])
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise different errors for damaged files.
        if is_of_environment(error):
            raise
        raise DataError(f"{path} cannot be read ({error}); expected a file of np.save or np.savez.") from error
    raise DataError(f"{path} holds the arrays {', '.join(names)}; expected one, or one called x.")
