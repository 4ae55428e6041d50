"""What DGM is compared with, on the same streams, networks and budgets: a method a file."""

from dgm_jax.methods.dgr import DeepGenerativeReplay
from dgm_jax.methods.er import ExperienceReplay
from dgm_jax.methods.ewc import OnlineEWC
from dgm_jax.methods.finetune import Finetune
from dgm_jax.methods.icarl import ICaRL
from dgm_jax.methods.joint import Joint
from dgm_jax.methods.mergan import JointRetraining, ReplayAlignment
from dgm_jax.methods.method import Method

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


def new_method(config: Config, stream: TaskStream, devices: Sequence[jax.Device], backend: str) -> Method:
    setting = Setting(
        config=config,
        devices=devices,
        backend=backend,
        image_shape=stream.image_shape,
        stored_shape=stream.stored_shape,
        tasks=stream.tasks,
        counts=tuple(stream.train_counts(t) for t in range(stream.n_tasks)),
    )
    return METHODS[config.method](setting)
