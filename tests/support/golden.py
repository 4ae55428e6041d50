"""Reads the golden files: inputs and expected outputs from an independent implementation, in float64.

The small ones are in `tests/fixtures/golden`. All of them are looked for in the folder `DGM_GOLDEN_DIR` (by default
`../shared/golden`, from the root of the repository); a test that asks for a large one is skipped where there is none.
"""

import os
from pathlib import Path

import numpy as np
import pytest

_ROOT = Path(__file__).resolve().parents[2]


def load_flat(name: str) -> dict[str, np.ndarray]:
    """Loads `name`.npz under its flat names, such as "params.conv1"; skips the running test if it is not there."""
    whole = Path(os.environ.get("DGM_GOLDEN_DIR", _ROOT.parent / "shared" / "golden"))
    for folder in (whole, _ROOT / "tests" / "fixtures" / "golden"):
        if (folder / f"{name}.npz").is_file():
            with np.load(folder / f"{name}.npz") as file:
                return dict(file)
    pytest.skip(f"no golden file {name}.npz in {whole}; set DGM_GOLDEN_DIR")


def load(name: str) -> dict:
    """Loads `name`.npz as nested dicts: "params.conv1" becomes ["params"]["conv1"]."""
    return nest(load_flat(name))


def nest(flat: dict[str, np.ndarray]) -> dict:
    """Splits the names at their dots."""
    tree: dict = {}
    for name, value in flat.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


def assert_close(actual, expected, dtype, *, gradient: bool = False, err_msg: str = "") -> None:
    """Compares with the tolerance that the golden files' page gives for a result computed in `dtype`.

    Args:
      actual: the result.
      expected: the golden array, float64.
      dtype: what `actual` was computed in; its own dtype must be the same.
      gradient: whether float32 gets the tolerance of gradients, relative to the array's largest, or that of outputs.
      err_msg: shown on failure.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == dtype, f"computed in {actual.dtype}, not in {dtype} {err_msg}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, not {expected.shape} {err_msg}"
    if dtype == np.float64:
        rtol, atol = 1e-9, 1e-12
    elif gradient:
        rtol, atol = 1e-4, max(1e-6, 2e-5 * np.abs(expected).max(initial=0))
    else:
        rtol, atol = 1e-4, 1e-5
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=err_msg)
