"""A finished run of DGM or `separate` that was judged on training images, opened for a study."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from dgm_jax import data, metrics
from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.errors import UserError
from dgm_jax.loading import load_method
from dgm_jax.methods import config_of
from dgm_jax.methods.confidence import calibrated, real_to_drawn
from dgm_jax.methods.dgm import DGM
from dgm_jax.methods.dgm_state import State
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.runs.reading import read_summary, require_run


@dataclass(frozen=True)
class Finished:
    """The settings, the data and the memory of the run."""

    config: Config
    new_stream: Callable[[], TaskStream]  # The run's tasks, from the first one on.
    method: DGM
    state: State
    images: np.ndarray  # That judge: uint8 [n, h, w, c].
    truth: np.ndarray  # Their class indices.

    @property
    def n_classes(self) -> int:
        """Classes of all tasks."""
        return self.method.setting.n_classes

    def accuracy(self, logits: np.ndarray) -> float:
        """The mean over classes of the accuracy, a share, with these scores [n, classes] of `images`."""
        right = metrics.per_class_accuracy(logits.argmax(axis=1), self.truth, self.n_classes)
        return metrics.macro_accuracy(right)

    def temperature(self) -> tuple[float, float]:
        """The best temperature for drawn images, and how many times higher it is for real ones of the last task."""
        assert self.state.classifier
        classifier, memory, stream = self.state.classifier, self.state.memory, self.new_stream()
        last = stream.n_tasks - 1
        key = derive_key(jax.random.key(self.config.seed), Purpose.CALIBRATE, last)
        stream.begin(last)
        drawn = calibrated(classifier, memory, key, 1.0).temperature
        return drawn, real_to_drawn(classifier, memory, key, *stream.train(last))


def opened(run: Path, name: str, data_dir: Path | None) -> Finished:
    """Opens the folder of a run on the data set `name`.

    Raises:
      UserError: if the run is not finished, is of a method without a memory, or was judged on test images.
    """
    summary = read_summary(require_run(run))
    if summary is None or not summary.finished:
        raise UserError(f"{run} is not finished; run its command again first")
    config = config_of(summary.config)
    whole = data.load(name, data_dir or data.default_folder())
    if config.data.train_per_class is not None:
        whole = whole.first_per_class(config.data.train_per_class)
    dataset = whole.for_choosing().resized(config.data.image_size)
    if dataset.name != summary.dataset:
        raise UserError(f"{run} is a run on {summary.dataset!r}; make one with --evaluate-on training")
    order = [label for task in summary.tasks for label in task]
    sizes = tuple(map(len, summary.tasks))
    new_stream = partial(data.class_incremental, dataset, classes_per_task=sizes, class_order=order)
    method, state = load_method(config, new_stream(), run)
    if not isinstance(method, DGM):
        raise UserError(f"{run} is a run of {config.method}; expected one of dgm or separate")
    truth = np.array([order.index(label) for label in dataset.y_test])
    return Finished(config, new_stream, method, state, dataset.x_test, truth)
