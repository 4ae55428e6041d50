"""The paper protocol: of a task's epochs, the best one on REAL held-out images of all classes so far counts.

It exists only to compare with published numbers; in the strict protocol the last epoch counts.
"""

import jax

from dgm_jax import metrics
from dgm_jax.methods.method import Setting, TaskInput, Tree
from dgm_jax.training.state import TrainState, from_tree, to_tree


class BestEpoch:
    """The best training state of one seed so far in a task."""

    def __init__(self, setting: Setting, task: int, own: TaskInput, like: TrainState) -> None:
        """Starts with the best state of an interrupted task, if there is one; `like` has its structure."""
        assert own.validation is not None
        self._setting, self._task = setting, task
        self._pixels, self._labels = own.validation
        kept = (own.in_progress or {}).get("best")
        self.state: TrainState | None = None if kept is None else from_tree(like, kept)
        self._accuracy = 0.0 if self.state is None else self._measure(self.state)

    def offer(self, state: TrainState) -> float:
        """Keeps a state if it is better than those before; returns its accuracy."""
        accuracy = self._measure(state)
        if self.state is None or accuracy > self._accuracy:
            self._accuracy, self.state = accuracy, jax.device_get(state)
        return accuracy

    def to_tree(self) -> dict[str, Tree]:
        """What a checkpoint of the task in progress holds of it."""
        return {} if self.state is None else {"best": to_tree(self.state)}

    def _measure(self, state: TrainState) -> float:
        """Mean accuracy over classes of the auxiliary classifier."""
        setting, network = self._setting, self._setting.config.networks.network
        params, statistics = state.discriminator, state.discriminator_statistics
        auxiliary = setting.classifier(params, statistics, self._task, network=network)
        predicted = auxiliary.logits(self._pixels).argmax(axis=1)
        n_seen = setting.n_seen(self._task)
        return metrics.macro_accuracy(metrics.per_class_accuracy(predicted, self._labels, n_seen))
