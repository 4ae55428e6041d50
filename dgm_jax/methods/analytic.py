"""Ridge regression on fixed features, from sums over images: nothing is trained, and no image is kept.

Relatives: ACIL (Zhuang et al. 2022), which first trains a network on many classes; Deep SLDA (Hayes and Kanan 2020),
whose reading `slda` comes from the same sums; RanDumb (Prabhu et al. 2024), with random features. Here filters are
found in the images of the first task (models/patch_filters.py), and then never change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from dgm_jax.methods.feature_memory import GIVES_AWAY, FeatureLearner, FeatureMemory, classifiers
from dgm_jax.methods.method import Forgotten, InProgress, Learnt, Method, Plan, Setting, TaskInput, Tree, Watch
from dgm_jax.models.closed_form import Sums, linear_discriminant, nearest_mean, ridge_discriminant
from dgm_jax.training.feature_sums import AT_ONCE, IMAGES_PER_BLOCK

_SOLUTIONS = {"analytic": ridge_discriminant, "slda": linear_discriminant, "ncm": nearest_mean}


@dataclass
class Training(InProgress[FeatureMemory]):
    """A task in progress, of all seeds side by side."""

    sums: list[Sums]  # Of each seed, float64 on the host: those of earlier tasks, and of this one's images so far.


class Analytic(Method[FeatureMemory, Training]):
    """Keeps sums of features. Three classifiers are read off them, in closed form."""

    paper = (
        "closed-form ridge regression on features of one layer (Coates et al. 2011), read as penalised discriminant "
        "analysis (Hastie et al. 1995); related: ACIL (Zhuang et al. "
        "2022, arXiv 2205.14922), Deep SLDA (Hayes and Kanan 2020, arXiv 1909.01520), RanDumb (Prabhu et al. 2024, "
        "arXiv 2402.08823)"
    )
    readings = tuple(_SOLUTIONS)
    learns_more_of_known = True
    checkpoints_kept = 2  # Each holds the Gram matrix.

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings and devices."""
        super().__init__(setting)
        self.learner = FeatureLearner(setting)

    def new_state(self, key: jax.Array) -> FeatureMemory:
        """No filters yet, and sums over no image."""
        return self.learner.new()

    def plan(self, task: int, states: Sequence[FeatureMemory]) -> Plan:
        """One pass over the images; a run can be interrupted between two blocks of them."""
        n, at_once = sum(self.setting.counts[task]), AT_ONCE * len(self.setting.devices)
        return Plan(epochs=-(-n // IMAGES_PER_BLOCK), steps=-(-min(n, IMAGES_PER_BLOCK) // at_once))

    def begin(self, task: int, inputs: Sequence[TaskInput[FeatureMemory]], watch: Watch) -> Training:
        """Finds the filters, if this is the first task."""
        with watch.phase("filters"):
            states = [self.learner.with_filters(own.state, own.key, own.images) for own in inputs]
        so_far = [
            Sums(**own.in_progress["sums"]) if own.in_progress else state.sums
            for own, state in zip(inputs, states, strict=True)
        ]
        return Training(task, inputs, states, [jax.tree.map(np.float64, sums) for sums in so_far])

    def train_epoch(self, training: Training, epoch: int, watch: Watch) -> list[dict[str, float]]:
        """Adds a block of images to the sums."""
        rows = slice(epoch * IMAGES_PER_BLOCK, (epoch + 1) * IMAGES_PER_BLOCK)
        total = sum(len(own.images[rows]) for own in training.inputs)
        with watch.phase("train", total, epoch=epoch) as on_images:
            for run, (own, state) in enumerate(zip(training.inputs, training.states, strict=True)):
                training.sums[run] = self.learner.sums.with_images(
                    training.sums[run], state.filters, own.images[rows], own.labels[rows], on_images
                )
        return [{} for _ in training.inputs]

    def in_progress(self, training: Training) -> list[Tree]:
        """The sums so far of each seed."""
        return [{"sums": dict(vars(sums))} for sums in training.sums]

    def end(self, training: Training, watch: Watch) -> list[Learnt[FeatureMemory]]:
        """Reads the classifiers off the sums."""
        states = [
            replace(state, sums=jax.tree.map(np.float32, sums))
            for state, sums in zip(training.states, training.sums, strict=True)
        ]
        return [Learnt(state, classifiers(state, self.setting.n_seen(training.task), _SOLUTIONS)) for state in states]

    def advice(self, states: Sequence[FeatureMemory] = ()) -> list[str]:
        """Says that sums of features leak."""
        return [GIVES_AWAY]

    def forget(
        self, state: FeatureMemory, forgotten: Sequence[int], key: jax.Array, watch: Watch
    ) -> Forgotten[FeatureMemory]:
        """Removes the sums of classes; the classifiers are solved for without them when they are asked."""
        n_seen = self.setting.n_classes + len(forgotten)
        kept = [index for index in range(n_seen) if index not in forgotten]
        return Forgotten(state.of_classes(kept), remains=state.remains)

    def to_tree(self, state: FeatureMemory) -> tuple[Tree, dict[str, Any]]:
        """The filters and the sums."""
        return state.to_tree(), {}

    def from_tree(self, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> FeatureMemory:
        """Undoes `to_tree`; there is room for classes that are new in the stream."""
        return FeatureMemory.from_tree(tree, self.setting.n_classes)

    def memory_bytes(self, state: FeatureMemory) -> dict[str, int]:
        """Bytes of the filters and of the sums."""
        parts = state.bytes()
        return parts | {"total": sum(parts.values())}
