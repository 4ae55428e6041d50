"""How a stream is learnt: DGM and what it is compared with, a method a file, each behind the same interface.

docs/extend.md shows how to add a method.
"""

from collections.abc import Mapping
from typing import Any

from dgm_jax.config import Config, MethodSettings, flattened, require_none_removed, upgraded
from dgm_jax.errors import ConfigError
from dgm_jax.methods.analytic import Analytic
from dgm_jax.methods.dgm import DGM
from dgm_jax.methods.dgr import DeepGenerativeReplay
from dgm_jax.methods.er import ExperienceReplay
from dgm_jax.methods.ewc import OnlineEWC
from dgm_jax.methods.finetune import Finetune
from dgm_jax.methods.gdumb import GDumb
from dgm_jax.methods.icarl import ICaRL
from dgm_jax.methods.joint import Joint
from dgm_jax.methods.mergan import JointRetraining, ReplayAlignment
from dgm_jax.methods.method import Method
from dgm_jax.methods.separate import Separate

METHODS: dict[str, type[Method]] = {
    "dgm": DGM,
    "joint": Joint,
    "analytic": Analytic,
    "separate": Separate,
    "mergan": ReplayAlignment,
    "mergan-jtr": JointRetraining,
    "dgr": DeepGenerativeReplay,
    "er": ExperienceReplay,
    "icarl": ICaRL,
    "gdumb": GDumb,
    "ewc": OnlineEWC,
    "finetune": Finetune,
}


def with_method_settings(config: Config) -> Config:
    """The settings with the method's own, which have their defaults if none are given.

    Raises:
      ConfigError: if a setting is not at its default that the method does not read.
    """
    kind = METHODS[config.method].settings
    if type(config.method_settings) is MethodSettings:
        config = config.with_changes(method_settings=kind())
    if not isinstance(config.method_settings, kind):
        raise ConfigError(
            f"method_settings={config.method_settings} has no effect for method {config.method!r}, whose "
            f"settings are of class {kind.__name__}; remove it"
        )
    config.check_method_reads_all()
    return config


def config_of(settings: Mapping[str, Any]) -> Config:
    """The settings of a run from its config.json or summary.json, of any version.

    Raises:
      OtherConfiguration: if the run needs a removed setting.
      ConfigError: if there is no such setting, or a value cannot work.
    """
    found = upgraded(settings)
    require_none_removed(found, "summary")
    flat = flattened(found)
    if flat.get("method") not in METHODS:
        raise ConfigError(f"method={flat.get('method')!r} is unknown; choose one of {', '.join(METHODS)}")
    return Config(method_settings=METHODS[flat["method"]].settings()).with_changes(**flat)


def methods_with(name: str) -> list[str]:
    """The methods that have a setting of this name as their own."""
    return [method for method, kind in METHODS.items() if name in kind.settings.__dataclass_fields__]
