"""Every setting of a run, and named sets of them (presets)."""

from dgm_jax.config.presets import PRESETS, preset
from dgm_jax.config.settings import GENERATIVE, KEEPS_IMAGES, Config, Method, Precision, Variant

__all__ = ["GENERATIVE", "KEEPS_IMAGES", "PRESETS", "Config", "Method", "Precision", "Variant", "preset"]
