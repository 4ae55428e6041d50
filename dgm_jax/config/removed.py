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


def without_removed(settings: Mapping[str, Any], folder: object) -> dict[str, Any]:
    """The settings of an earlier run without those that were removed since.

    Args:
      settings: as the run's files have them.
      folder: where the run lies, for the message.

    Raises:
      OtherConfiguration: if a removed setting was not at its default: no present run is equal to that one.
    """
    changed = [
        f"{name}={settings[name]!r}"
        for name, default in REMOVED.items()
        if name in settings and settings[name] != default
    ]
    if changed:
        raise OtherConfiguration(
            f"{folder} holds a run with {', '.join(changed)}, removed after commit {_LAST_COMMIT}; go on "
            "with that run at this commit, or choose another folder"
        )
    return {name: value for name, value in settings.items() if name not in REMOVED}
