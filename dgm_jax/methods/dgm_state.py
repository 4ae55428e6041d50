"""What DGM knows between two tasks: how a checkpoint holds it, and what a run reports of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from dgm_jax.memory import forgetting
from dgm_jax.memory.classifier import CONFIDENCE, Classifier
from dgm_jax.memory.memory import Memory
from dgm_jax.methods.feature_memory import GIVES_AWAY, FeatureMemory
from dgm_jax.methods.memory_limit import KB, said_of_growth
from dgm_jax.methods.method import Method, Training, Tree, bytes_of_arrays, with_total
from dgm_jax.training.estimate import estimated_seconds
from dgm_jax.types import Linear, params_to_tree


@dataclass(frozen=True)
class State:
    """What one seed knows between two tasks."""

    memory: Memory
    classifier: Classifier | None = None  # Consolidated after the last task.
    auxiliary: Classifier | None = None  # The discriminator's own class head after the last task.
    begun_as: tuple[tuple[int, ...], ...] = ()  # For each task, the earlier classes that it began as (warm start).
    programs: tuple[tuple[int, ...], ...] = ()  # Physical widths that were trained at, each once.
    limited_after: tuple[int, ...] = ()  # Tasks after which the limit to the memory stopped the generator's growth.
    features: FeatureMemory | None = None  # Sums of features of real images, if the settings ask for them.
    means: np.ndarray | None = None  # The mean image of each class learnt (`mean_images`), if they ask for it.


def without_classes(state: State, forgotten: Collection[int]) -> State:
    """What is left of a state without classes, given by index; the others are numbered anew, without gaps.

    The consolidated classifier, which learnt them, goes. The auxiliary one loses its outputs for them.
    """
    memory = state.memory
    kept = [index for index in range(memory.n_classes) if index not in forgotten]
    left = [task for task, own in enumerate(memory.tasks) if set(own.classes) & set(kept)]
    begun_as = zip(state.begun_as, memory.tasks)  # Early tasks may lack an entry; then all do.
    return replace(
        state,
        memory=forgetting.without_classes(memory, forgotten),
        classifier=None,
        auxiliary=None if state.auxiliary is None else _of_classes(state.auxiliary, kept),
        begun_as=tuple(
            tuple(kept.index(index) for index in earlier if index in kept)
            for earlier, task in begun_as
            if set(task.classes) & set(kept)
        ),
        limited_after=tuple(left.index(task) for task in state.limited_after if task in left),
        features=None if state.features is None else state.features.of_classes(kept),
        means=None if state.means is None else state.means[kept],
    )


def _of_classes(classifier: Classifier, kept: list[int]) -> Classifier:
    """A classifier with the outputs of these classes only."""
    head = classifier.params.classifier
    params = replace(classifier.params, classifier=Linear(head.kernel[:, kept], head.bias[kept]))
    labels = tuple(classifier.labels[index] for index in kept)
    return replace(classifier, params=params, labels=labels, names=tuple(classifier.names[index] for index in kept))


class GenerativeMemory(Method[State, Training]):
    """A method that knows a memory and two classifiers; DGM says how they are learnt."""

    def to_tree(self, state: State) -> tuple[Tree, dict[str, Any]]:
        """The memory, both classifiers, and what the settings ask for besides."""
        arrays, plain = state.memory.to_tree()
        tree = {"memory": arrays}
        for name, classifier in (("classifier", state.classifier), ("auxiliary", state.auxiliary)):
            if classifier is not None:
                arrays = {"params": classifier.params, "statistics": classifier.statistics}
                tree[name] = params_to_tree(jax.device_get(arrays))
        if state.features is not None:
            tree["features"] = state.features.to_tree()
        if state.means is not None:
            tree["means"] = state.means
        facts: dict[str, Any] = {
            "begun_as": state.begun_as,
            "programs": state.programs,
            "limited_after": state.limited_after,
        }
        if state.classifier is not None:
            facts |= {name: getattr(state.classifier, name) for name in CONFIDENCE}
        return tree, {"memory": plain, **facts}

    def from_tree(self, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> State:
        """Undoes `to_tree`; reads checkpoints of earlier versions as well, and widens class heads for new classes."""
        setting, memory = self.setting, Memory.from_tree(tree["memory"], plain["memory"])
        earlier = plain["record"]  # Early versions kept some facts here.

        def classifier(network: str, *names: str) -> Classifier | None:
            kept = next((tree[name] for name in names if name in tree), None)
            if kept is None:
                return None
            trained = setting.trained(kept["params"], kept["statistics"])
            return setting.classifier(*trained, finished_tasks - 1, network=network)

        consolidated = classifier(self.config.classifier_network, "classifier", "classifier_before")
        if consolidated is not None:
            consolidated = replace(consolidated, **{name: plain[name] for name in CONFIDENCE if name in plain})
        # Early versions did not write how many images a task had.
        tasks = [replace(task, counts=own) for task, own in zip(memory.tasks, setting.counts)]
        # A continued run knows more classes now.
        memory = replace(memory, tasks=tuple(tasks), labels=setting.labels, names=setting.names)
        return State(
            memory,
            consolidated,
            classifier(self.config.networks.network, "auxiliary", "discriminator"),
            begun_as=tuple(map(tuple, plain.get("begun_as", earlier.get("begun_as", ())))),
            programs=tuple(map(tuple, plain.get("programs", earlier.get("programs", ())))),
            limited_after=tuple(plain.get("limited_after", ())),
            features=FeatureMemory.from_tree(tree["features"], setting.n_classes) if "features" in tree else None,
            means=tree.get("means"),
        )

    def memory(self, state: State) -> Memory:
        """The generative memory."""
        return state.memory

    def memory_bytes(self, state: State) -> dict[str, int]:
        """Weights, masks, what each task keeps, a network that the next task needs, means, sums: what is there."""
        config = self.config
        parts = {name: size for name, size in state.memory.bytes().items() if name != "total"}
        goes_on: dict[str, Classifier | None] = {}
        if not config.gan.reinitialise_discriminator:
            goes_on = {"discriminator": state.auxiliary}
        elif config.gates.warm_start:
            goes_on = {"classifier": state.classifier}  # It finds similar classes.
        for name, network in goes_on.items():
            if network is not None:
                parts[name] = bytes_of_arrays((network.params, network.statistics))
        if state.means is not None:
            parts["means"] = state.means.nbytes
        return with_total(parts | ({} if state.features is None else state.features.bytes()))

    def facts(self, state: State) -> dict[str, Any]:
        """Widths, number of weights, programs, which classes tasks began as, and what a limit to the memory did."""
        limit = self.config.gates.memory_limit_kb
        limited = {"bytes": KB * (limit or 0), "growth_stopped_after": list(state.limited_after)}
        return {
            "widths": list(state.memory.widths),
            "programs": [list(widths) for widths in state.programs],  # One compiled training iteration for each.
            "parameters": state.memory.parameters(),
            "begun_as": [[self.setting.labels[i] for i in classes] for classes in state.begun_as],
            **({} if limit is None else {"memory_limit": limited}),
        }

    def advice(self, states: Sequence[State] = ()) -> list[str]:
        """Says what limits the next task, what leaks, and if nothing tells the generator which class to draw."""
        config = self.config
        newest = {state.limited_after[-1:] for state in states} & {(len(s.memory.tasks) - 1,) for s in states}
        notes = [said_of_growth(config.gates.memory_limit_kb, task) for (task,) in sorted(newest)]
        notes += [f"{GIVES_AWAY}; --no-combined keeps none"] if config.features.combined else []
        guided = (
            config.gan.auxiliary_generator or config.gan.reconstruction_weight or config.gan.critic_condition != "none"
        )
        if max(map(len, self.setting.tasks)) == 1 or guided:
            return notes
        return [
            *notes,
            "tasks have several classes, and nothing tells the generator which of them to draw; "
            "use auxiliary_generator=True or critic_condition='projection'",
        ]

    def estimated_seconds(self, epochs_done: int) -> float:
        """From the arithmetic to be done, and the measured speed of a matrix product."""
        return estimated_seconds(
            self.config,
            self.setting.devices,
            train_counts=list(map(sum, self.setting.counts)),
            channels=self.setting.image_shape[2],
            epochs_done=epochs_done,
        )
