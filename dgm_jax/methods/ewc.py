"""Online elastic weight consolidation: weights that old tasks needed are held by springs."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.baselines import classifier
from dgm_jax.baselines.method import ClassifierMethod, Setting, Tree, Watch
from dgm_jax.models import pair
from dgm_jax.training.epoch import padded, to_unit_range
from dgm_jax.training.losses import cross_entropy, only_seen

_FISHER_IMAGES = 256  # Of a task, from which the Fisher information is estimated.


class OnlineEWC(ClassifierMethod):
    """Knows, in class-incremental learning, little but the newest classes: no image ever compares old with new."""

    paper = (
        "Kirkpatrick et al. 2017 (arXiv 1612.00796), online as in Schwarz et al. 2018 (arXiv 1805.06370) without "
        "decay; here with one head over all classes"
    )

    def __init__(self, setting: Setting) -> None:
        """Begins with no springs."""
        super().__init__(setting)
        self.fisher = jax.tree.map(np.zeros_like, self.classifier.params)

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Trains on the task's images under the penalty, then measures what they needed."""
        data = padded(images, labels, max(map(sum, self.setting.counts)))
        seen = self.setting.seen(task)
        train_key, pick_key, label_key = jax.random.split(key, 3)
        anchor = {
            "params": self.classifier.params,
            "fisher": self.fisher,
            "weight": np.float32(self.config.ewc_weight),
        }
        self.classifier = classifier.train(
            self.classifier, (data,), seen, train_key, self.config, watch, loss=_with_springs, anchor=anchor
        )
        picked = images[np.asarray(jax.random.randint(pick_key, (_FISHER_IMAGES,), 0, len(images)))]
        own = _fisher(
            self.classifier.params,
            self.classifier.statistics,
            picked,
            seen,
            label_key,
            network=self.config.classifier_network,
        )
        self.fisher = jax.tree.map(lambda total, new: total + np.asarray(new), self.fisher, own)

    def to_tree(self) -> Tree:
        """The classifier and its springs."""
        return super().to_tree() | {"fisher": self.fisher}

    def restore(self, tree: Tree, finished_tasks: int) -> None:
        """Takes both back."""
        super().restore(tree, finished_tasks)
        self.fisher = tree["fisher"]

    def memory_bytes(self) -> dict[str, int]:
        """The Fisher information; the weights it holds on to are the classifier's own."""
        total = sum(leaf.nbytes for leaf in jax.tree.leaves(self.fisher))
        return {"fisher": total, "total": total}


def _with_springs(params: Any, output: Any, images: Any, labels: Any, seen: Any, anchor: Any) -> jax.Array:
    """Cross-entropy + weight / 2 * sum F (theta - theta*)^2."""
    del images
    squares = jax.tree.map(lambda f, p, a: jnp.sum(f * (p - a) ** 2), anchor["fisher"], params, anchor["params"])
    return cross_entropy(output.logits, labels, seen) + anchor["weight"] / 2 * sum(jax.tree.leaves(squares))


@partial(jax.jit, static_argnames="network")
def _fisher(params: Any, statistics: Any, images: jax.Array, seen: jax.Array, key: jax.Array, *, network: str) -> Any:
    """The diagonal of the Fisher information, of labels drawn from the classifier's own distribution."""

    def score(params: Any, image: jax.Array, key: jax.Array) -> jax.Array:
        output, _ = pair(network).discriminate(params, statistics, to_unit_range(image[None]), train=False)
        label = jax.random.categorical(key, only_seen(jax.lax.stop_gradient(output.logits), seen))
        return cross_entropy(output.logits, label, seen)

    def add(total: Any, one: Any) -> tuple[Any, None]:
        gradient = jax.grad(partial(score, image=one[0], key=one[1]))(params)
        return jax.tree.map(lambda t, g: t + g**2 / len(images), total, gradient), None

    keys = jax.random.split(key, len(images))
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (images, keys))[0]
