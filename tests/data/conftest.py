"""Real images for the tests of the data package."""

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_image
from support.pictures import save

from dgm_jax import data

_ROOT = Path(__file__).parents[2]
_TFDS = Path(os.environ.get("DGM_DATA_DIR", _ROOT / "../shared/data/tfds"))


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """uint8 [427, 640, 3]; it comes with scikit-learn."""
    return load_sample_image("china.jpg")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    missing = [name for name in ("mnist", "cifar10", "svhn_cropped") if not (_TFDS / name).is_dir()]
    if missing:
        pytest.skip(f"{_TFDS} has no {', '.join(missing)} (set DGM_DATA_DIR)")
    return _TFDS


@pytest.fixture(scope="session")
def tfrecord_dir() -> Path:
    folder = _TFDS.with_name(_TFDS.name + "_tfrecord")
    if not folder.is_dir():
        pytest.skip(f"no tfrecord folders at {folder}")
    return folder


@pytest.fixture
def pieces(photo, tmp_path):
    """A folder of two classes, each five 16x16 pieces of a photograph, and the arrays."""
    tiles = photo[:160, :160].reshape(10, 16, 10, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
    chosen = {"cat": tiles[:5], "dog": tiles[50:55]}
    for name, images in chosen.items():
        for i, image in enumerate(images):
            save(tmp_path / "pieces" / name / f"{i}.png", image)
    return tmp_path / "pieces", chosen
