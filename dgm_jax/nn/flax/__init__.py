"""Masked layers for Flax: the same layers and functions for `flax.nnx` (`nnx`) and for `flax.linen` (`linen`).

Importing `dgm_jax.nn` does not import this package, and so not Flax.
"""

from importlib import import_module

try:
    import_module("flax")
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f'{missing.name} is not installed; run: python -m pip install "dgm-jax[flax]"', name=missing.name
    ) from None
