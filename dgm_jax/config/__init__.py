"""Every setting of a run, in groups, and named sets of them (presets)."""

from dgm_jax.config.choices import FROZEN, GENERATIVE, KEEPS_IMAGES, TRAINS, Method, Network, Precision, Variant
from dgm_jax.config.formats import require_none_removed, upgraded
from dgm_jax.config.groups import Consolidation, Data, Features, Gan, Gates, MethodSettings, Networks, Replay
from dgm_jax.config.presets import BY_IMAGES, NAMED_PRESETS, PRESETS, best, preset
from dgm_jax.config.setting import setting
from dgm_jax.config.settings import Config, all_facts, flattened, unread_defaults

__all__ = [
    "BY_IMAGES",
    "FROZEN",
    "GENERATIVE",
    "KEEPS_IMAGES",
    "NAMED_PRESETS",
    "PRESETS",
    "TRAINS",
    "Config",
    "Consolidation",
    "Data",
    "Features",
    "Gan",
    "Gates",
    "Method",
    "MethodSettings",
    "Network",
    "Networks",
    "Precision",
    "Replay",
    "Variant",
    "all_facts",
    "best",
    "flattened",
    "preset",
    "require_none_removed",
    "setting",
    "unread_defaults",
    "upgraded",
]
