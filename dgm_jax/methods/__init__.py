"""How a stream is learnt: DGM and what it is compared with, a method a file, each behind the same interface."""

from dgm_jax.methods.dgm import DGM
from dgm_jax.methods.dgr import DeepGenerativeReplay
from dgm_jax.methods.er import ExperienceReplay
from dgm_jax.methods.ewc import OnlineEWC
from dgm_jax.methods.finetune import Finetune
from dgm_jax.methods.icarl import ICaRL
from dgm_jax.methods.joint import Joint
from dgm_jax.methods.mergan import JointRetraining, ReplayAlignment
from dgm_jax.methods.method import Method

METHODS: dict[str, type[Method]] = {
    "dgm": DGM,
    "joint": Joint,
    "finetune": Finetune,
    "er": ExperienceReplay,
    "icarl": ICaRL,
    "ewc": OnlineEWC,
    "dgr": DeepGenerativeReplay,
    "mergan": ReplayAlignment,
    "mergan-jtr": JointRetraining,
}
