"""The paper protocol: of a task's epochs, the one counts that is best on REAL held-out images of all classes so far.

It exists only to compare with published numbers; in the strict protocol the last epoch counts.
"""

from typing import Any

from dgm_jax import metrics
from dgm_jax.methods.method import Setting, TaskInput, Tree
from dgm_jax.training.state import TrainState, from_tree, to_tree


class BestEpoch:
    """The best training state of one seed so far in a task."""

    def __init__(self, setting: Setting, task: int, own: TaskInput) -> None:
        """Starts with the best state of an interrupted task, if there is one."""
        assert own.validation is not None
        self._setting, self._task = setting, task
        self._pixels, self._labels = own.validation
        self._tree: Tree = (own.in_progress or {}).get("best")
        self._accuracy = 0.0
        if self._tree is not None:
            self._accuracy = self._measure(self._tree["discriminator"], self._tree["discriminator_statistics"])

    def offer(self, state: TrainState) -> float:
        """Keeps a state if it is better than those before; returns its accuracy."""
        accuracy = self._measure(state.discriminator, state.discriminator_statistics)
        if self._tree is None or accuracy > self._accuracy:
            self._accuracy, self._tree = accuracy, to_tree(state)
        return accuracy

    def state(self, like: TrainState) -> TrainState:
        """The best state; `like` is one of the same structure."""
        return like if self._tree is None else from_tree(like, self._tree)

    def to_tree(self) -> dict[str, Tree]:
        """What a checkpoint of the task in progress holds of it."""
        return {} if self._tree is None else {"best": self._tree}

    def _measure(self, params: Any, statistics: Any) -> float:
        """Mean accuracy over classes of the auxiliary classifier."""
        setting = self._setting
        auxiliary = setting.classifier(params, statistics, setting.config.networks.network, self._task)
        predicted = auxiliary.logits(self._pixels).argmax(axis=1)
        n_seen = setting.n_seen(self._task)
        return metrics.macro_accuracy(metrics.per_class_accuracy(predicted, self._labels, n_seen))
