"""What DGM is compared with, on the same streams, networks and budgets: a method a file."""

from dgm_jax.baselines.dgr import DeepGenerativeReplay
from dgm_jax.baselines.er import ExperienceReplay
from dgm_jax.baselines.ewc import OnlineEWC
from dgm_jax.baselines.finetune import Finetune
from dgm_jax.baselines.icarl import ICaRL
from dgm_jax.baselines.joint import Joint
from dgm_jax.baselines.mergan import JointRetraining, ReplayAlignment
from dgm_jax.baselines.method import Method

METHODS: dict[str, type[Method]] = {
    "joint": Joint,
    "finetune": Finetune,
    "er": ExperienceReplay,
    "icarl": ICaRL,
    "ewc": OnlineEWC,
    "dgr": DeepGenerativeReplay,
    "mergan": ReplayAlignment,
    "mergan-jtr": JointRetraining,
}
