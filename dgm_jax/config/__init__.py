"""Every setting of a run, and named sets of them (presets)."""

from dgm_jax.config.presets import NAMED_PRESETS, PRESETS, preset, preset_for
from dgm_jax.config.removed import without_removed
from dgm_jax.config.settings import GENERATIVE, KEEPS_IMAGES, Config, Method, Precision, Variant

__all__ = [
    "GENERATIVE",
    "KEEPS_IMAGES",
    "NAMED_PRESETS",
    "PRESETS",
    "Config",
    "Method",
    "Precision",
    "Variant",
    "preset",
    "preset_for",
    "without_removed",
]
