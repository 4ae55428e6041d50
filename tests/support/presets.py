"""All presets, with the best settings for images like those of three data sets."""

from dgm_jax.config import PRESETS, Config, Variant, best

SHOWN = {
    "digits": {"side": 8, "channels": 1, "per_class": 144, "classes": 10},
    "mnist": {"side": 28, "channels": 1, "per_class": 6000, "classes": 10},
    "cifar10": {"side": 32, "channels": 3, "per_class": 5000, "classes": 10},
}


def config(name: str, variant: Variant = "dgma") -> Config:
    """A preset by its name, or "best-NAME" for images like those of NAME."""
    if name in PRESETS:
        return PRESETS[name][variant]
    return best(variant, **SHOWN[name.removeprefix("best-")])


NAMES = (*sorted(PRESETS), *(f"best-{name}" for name in SHOWN))
