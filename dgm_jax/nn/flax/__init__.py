"""Masked layers for Flax: the same layers and functions for `flax.nnx` (`nnx`) and for `flax.linen` (`linen`).

Importing `dgm_jax.nn` does not import this package, and so not Flax.
"""
