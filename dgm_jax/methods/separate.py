"""One generator a task: what DGM would be if its tasks shared nothing and protected nothing.

It is the control for DGM's masks. Everything else is DGM's: critic, training step, replay, consolidation and readings.
All generators together have as many bytes as DGM's memory if `--generator-width` is chosen so (`width_for`).
"""

import itertools
import math
from dataclasses import replace
from typing import Any

import jax

from dgm_jax.config import Config
from dgm_jax.methods.dgm import DGM, Training
from dgm_jax.methods.dgm_state import State
from dgm_jax.methods.generative import without_gates
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.methods.method import Learnt, Setting, Watch
from dgm_jax.models import pair
from dgm_jax.training.state import TrainState


class Separate(DGM):
    """Trains a fresh generator, all of whose gates are open, for every task, and keeps the earlier ones as they are."""

    paper = "a control: DGM (arXiv 1904.03137) with a generator of its own for each task, and without masks"

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings and devices; arrays are as wide as the generator, which never grows."""
        opened = setting.config.with_changes(masks="none", sparsity_weight=0.0, headroom=1)
        super().__init__(replace(setting, config=opened))

    def _conditional(self, setting: Setting) -> bool:
        """False for tasks of one class: weights that read a constant class would be bytes for nothing."""
        return max(map(len, setting.tasks)) > 1

    def facts(self, state: State) -> dict[str, Any]:
        """Those of DGM, and what this is."""
        return super().facts(state) | {"paper": self.paper}

    def train_epoch(self, training: Training, epoch: int, watch: Watch) -> list[dict[str, float]]:
        """One epoch, as DGM's."""
        return without_gates(super().train_epoch(training, epoch, watch))

    def _freeze(self, training: Training, run: int, train_state: TrainState) -> Learnt[State]:
        """Puts the whole generator beside the earlier ones."""
        learnt = super()._freeze(training, run, train_state)
        memory = learnt.state.memory
        *earlier, newest = memory.tasks
        newest = replace(newest, masks=[], kernels=memory.kernels)
        state = replace(learnt.state, memory=replace(memory, tasks=(*earlier, newest)))
        return replace(learnt, state=state, capacity=[])

    def expand(self, task: int, key: jax.Array, state: State) -> State:
        """Begins the next task's generator with fresh weights."""
        memory = state.memory
        kernels = self.networks.new_kernels(derive_key(key, Purpose.EXPAND, task), memory.widths)
        return replace(state, memory=replace(memory, kernels=kernels))


def generator_bytes(config: Config, width: int, *, channels: int, classes: int = 1) -> int:
    """Bytes of one generator without masks: weights, norms with their statistics, and output layers, in float32.

    Args:
      config: its network, the size of its images, and its noise.
      width: its `generator_width`.
      channels: of the images, 1 or 3.
      classes: output layers: one for each class of a task in `separate`; dgr and mergan have one for all classes.
    """
    network, size = pair(config.networks.network), config.data.image_size
    wiring, widths = network.generator(size), network.generator_widths(width, size)
    kernels = sum(map(math.prod, wiring.kernel_shapes(widths, config.networks.noise_dim)))
    return 4 * (kernels + wiring.task_parameters(widths, channels, classes))


def width_for(n_bytes: int, config: Config, *, generators: int, channels: int, classes: int = 1) -> int:
    """The `generator_width` with which so many generators have about `n_bytes` together.

    Widths are whole numbers, and for small generators the bytes differ much from one to the next. Most of them are then
    the weights that read the noise: a smaller `noise_dim` allows a larger width.

    Args:
      n_bytes: of all generators together.
      config: their network, the size of their images, and their noise.
      generators: how many there are: tasks in `separate`, 1 in dgr and mergan.
      channels: of the images, 1 or 3.
      classes: as in `generator_bytes`.

    Returns:
      The width that comes nearest, at least 1.
    """

    def total(width: int) -> int:
        return generators * generator_bytes(config, width, channels=channels, classes=classes)

    above = next(width for width in itertools.count(1) if total(width) >= n_bytes)
    return min((max(above - 1, 1), above), key=lambda width: abs(total(width) - n_bytes))
