"""Online elastic weight consolidation: weights that old tasks needed are held near where they were."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.config import MethodSettings, setting
from dgm_jax.methods.classifying import ClassifierMethod, State
from dgm_jax.methods.method import Tree, bytes_of_arrays
from dgm_jax.models import pair
from dgm_jax.models.discriminator import for_classes
from dgm_jax.models.prediction import to_unit_range
from dgm_jax.training.losses import cross_entropy, only_seen
from dgm_jax.types import DiscriminatorParams

_FISHER_IMAGES = 256  # Of a task, from which the Fisher information is estimated.


@dataclass(frozen=True, kw_only=True)
class EWCSettings(MethodSettings):
    """The settings of ewc."""

    ewc_weight: float = setting(1e5, at_least=0)
    """Weight of the quadratic penalty."""


class OnlineEWC(ClassifierMethod):
    """In class-incremental learning it knows little but the newest classes: no image ever compares old with new."""

    paper = (
        "Kirkpatrick et al. 2017 (arXiv 1612.00796), online as in Schwarz et al. 2018 (arXiv 1805.06370) without "
        "decay; here of a classifier with one head over all classes"
    )
    settings = EWCSettings

    @staticmethod
    def loss(params: Any, output: Any, images: Any, labels: Any, seen: Any, anchor: Any) -> jax.Array:
        """Cross-entropy + weight / 2 * sum F (theta - theta*)^2 (Kirkpatrick et al., equation 3)."""
        squares = jax.tree.map(lambda f, p, a: jnp.sum(f * (p - a) ** 2), anchor["fisher"], params, anchor["params"])
        return cross_entropy(output.logits, labels, seen) + anchor["weight"] / 2 * sum(jax.tree.leaves(squares))

    def new_state(self, key: jax.Array) -> State:
        """A fresh classifier, and no weight that is held."""
        state = super().new_state(key)
        return replace(state, kept={"fisher": jax.tree.map(np.zeros_like, state.params)})

    def anchor(self, task: int, state: State) -> Any:
        """The weights after the last task, and how much each mattered."""
        return {
            "params": state.params,
            "fisher": state.kept["fisher"],
            "weight": np.float32(self.method_settings.ewc_weight),
        }

    def remember(self, task: int, state: State, images: np.ndarray, labels: np.ndarray, key: jax.Array) -> State:
        """Adds the Fisher information of the task's images."""
        pick_key, label_key = jax.random.split(key)
        picked = images[np.asarray(jax.random.randint(pick_key, (_FISHER_IMAGES,), 0, len(images)))]
        network, seen = self.config.classifier_network, self.setting.seen(task)
        new = _fisher(state.params, state.statistics, picked, seen, label_key, network=network)
        fisher = jax.tree.map(lambda total, added: total + np.asarray(added), state.kept["fisher"], new)
        return replace(state, kept={"fisher": fisher})

    def from_tree(self, tree: Tree, plain: Mapping[str, Any], finished_tasks: int) -> State:
        """Undoes `to_tree`; weights of new classes are not held."""
        fisher = for_classes(DiscriminatorParams.from_tree(tree["fisher"]), self.setting.n_classes)
        return replace(super().from_tree(tree, plain, finished_tasks), kept={"fisher": fisher})

    def kept_bytes(self, state: State) -> dict[str, int]:
        """The Fisher information; the weights that are held are those of the classifier."""
        return {"fisher": bytes_of_arrays(state.kept["fisher"])}


@partial(jax.jit, static_argnames="network")
def _fisher(params: Any, statistics: Any, images: jax.Array, seen: jax.Array, key: jax.Array, *, network: str) -> Any:
    """The diagonal of the Fisher information, with labels drawn from the classifier's predictions."""

    def score(params: Any, image: jax.Array, key: jax.Array) -> jax.Array:
        output, _ = pair(network).discriminate(params, statistics, to_unit_range(image[None]), train=False)
        label = jax.random.categorical(key, only_seen(jax.lax.stop_gradient(output.logits), seen))
        return cross_entropy(output.logits, label, seen)

    def add(total: Any, one: Any) -> tuple[Any, None]:
        gradient = jax.grad(partial(score, image=one[0], key=one[1]))(params)
        return jax.tree.map(lambda t, g: t + g**2 / len(images), total, gradient), None

    keys = jax.random.split(key, len(images))
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (images, keys))[0]
