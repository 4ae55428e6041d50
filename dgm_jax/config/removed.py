"""Settings that earlier versions had, up to commit c36b15c; files of their runs still name them."""

from collections.abc import Mapping
from typing import Any

from dgm_jax.errors import OtherConfiguration

_LAST_COMMIT = "c36b15c"  # The last one that has these settings.
REMOVED: dict[str, Any] = {  # Setting -> its default, which is what all runs do now.
    "adversarial_loss": "wasserstein",
    "penalty": "gradient",
    "critic_steps": 1,
    "critic_shift": 0,
    "discriminator_norm": "batch",
    "gate_learning_rate": None,
    "gate_reach": None,
    "scale_schedule": "linear",
    "replay_confidence": 1.0,
    "consolidation_real": 0.0,
    "consolidation_turn": 0.0,
    "consolidation_average": 0.0,
    "distillation_weight": 0.0,
}


def require_none_removed(settings: Mapping[str, Any], folder: object) -> None:
    """Refuses the settings of an earlier run that needs a removed setting: no run of this version equals that one.

    Args:
      settings: from `upgraded`.
      folder: where the run lies, for the message.

    Raises:
      OtherConfiguration: if a removed setting was not at its default.
    """
    changed = [f"{name}={value!r}" for name, value in settings.get("removed", {}).items()]
    if changed:
        raise OtherConfiguration(
            f"{folder} holds a run with {', '.join(changed)}, removed after commit {_LAST_COMMIT}; go on "
            "with that run at this commit, or choose another folder"
        )
