"""What DGM knows between two tasks, and how a checkpoint holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax

from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import Memory
from dgm_jax.methods.method import Setting, Tree
from dgm_jax.models.discriminator import widened
from dgm_jax.types import DiscriminatorParams, params_to_tree, statistics_from_tree


@dataclass(frozen=True)
class State:
    """What one seed knows between two tasks."""

    memory: Memory
    classifier: Classifier | None = None  # Consolidated after the last task.
    auxiliary: Classifier | None = None  # The discriminator's own class head after the last task.
    begun_as: tuple[tuple[int, ...], ...] = ()  # For each task, the earlier classes that it began as (warm start).
    programs: tuple[tuple[int, ...], ...] = ()  # Physical widths that were trained at, each once.


def to_tree(state: State) -> tuple[Tree, dict[str, Any]]:
    """The memory and both classifiers as a checkpoint holds them: arrays, and plain values."""
    arrays, plain = state.memory.to_tree()
    tree = {"memory": arrays}
    for name, classifier in (("classifier", state.classifier), ("auxiliary", state.auxiliary)):
        if classifier is not None:
            arrays = {"params": classifier.params, "statistics": classifier.statistics}
            tree[name] = params_to_tree(jax.device_get(arrays))
    return tree, {"memory": plain, "begun_as": state.begun_as, "programs": state.programs}


def from_tree(setting: Setting, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> State:
    """Undoes `to_tree`; reads checkpoints of earlier versions as well, and widens class heads for new classes."""
    config, memory = setting.config, Memory.from_tree(tree["memory"], plain["memory"])
    earlier = plain["record"]  # Early versions kept some facts here.

    def classifier(network: str, *names: str) -> Classifier | None:
        kept = next((tree[name] for name in names if name in tree), None)
        if kept is None:
            return None
        params = widened(DiscriminatorParams.from_tree(kept["params"]), setting.n_classes)
        return setting.classifier(params, statistics_from_tree(kept["statistics"]), network, finished_tasks - 1)

    return State(
        replace(memory, labels=setting.labels, names=setting.names),  # A continued run knows more classes now.
        classifier(config.classifier_network, "classifier", "classifier_before"),
        classifier(config.networks.network, "auxiliary", "discriminator"),
        begun_as=tuple(map(tuple, plain.get("begun_as", earlier.get("begun_as", ())))),
        programs=tuple(map(tuple, plain.get("programs", earlier.get("programs", ())))),
    )
