"""One short document per experiment: what it shows, the command, what to expect."""

from dataclasses import dataclass
from importlib import import_module

from dgm_jax.commands.arguments import did_you_mean
from dgm_jax.commands.options import Options
from dgm_jax.errors import UserError

NAMES = (
    *("digits", "mnist", "fashion", "emnist", "svhn", "cifar10", "cifar100", "imagenet50"),
    *("folder", "arrays", "tfds", "joined"),
)


@dataclass(frozen=True)
class Experiment:
    """What is particular about an experiment; the preset of its name has its settings, if no other is the default."""

    name: str
    document: str  # What it shows, with commands that begin with `dgm-jax learn NAME`.
    options: type[Options]  # They decide where the data come from.
    preset: str  # The default of --preset.
    shown: dict[str, int] | None = None  # Of a known data set, what `Dataset.shown` says; None: it has to be read.


def find(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
      UserError: if there is none.
    """
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or f"choose from {', '.join(NAMES)}."
        raise UserError(f"unknown experiment {name}; {hint}")
    module = import_module(f"{__name__}.{name}")
    default = getattr(module, "PRESET", name)
    return Experiment(name, module.__doc__ or "", module.OPTIONS, default, getattr(module, "SHOWN", None))
