"""One short document per experiment: what it shows, the command, what to expect."""

from dataclasses import dataclass
from importlib import import_module

from dgm_jax.commands.arguments import did_you_mean
from dgm_jax.commands.options import Options
from dgm_jax.errors import UserError

NAMES = ("digits", "mnist", "fashion", "svhn", "cifar10", "imagenet50", "folder", "arrays", "joined")


@dataclass(frozen=True)
class Experiment:
    """What is particular about an experiment; the preset of its name has its settings."""

    name: str
    document: str  # What it shows, with commands that begin with `dgm-jax learn NAME`.
    options: type[Options]  # They decide where the data come from.
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
    return Experiment(name, module.__doc__ or "", module.OPTIONS, getattr(module, "SHOWN", None))
