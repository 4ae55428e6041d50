"""One unmasked generator for all classes, retrained at every task: what dgr and mergan have in common.

It is DGM's network with every gate open, trained by DGM's own step: nothing is protected, nothing grows, and one norm
and one output layer serve all classes.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dgm_jax import consolidation
from dgm_jax.baselines.method import ClassifierMethod, Setting, Tree, Watch
from dgm_jax.errors import NotFinite
from dgm_jax.memory import Memory, TaskMemory
from dgm_jax.training.epoch import ReplayedImages, TaskImages, padded
from dgm_jax.training.state import Capacity, TrainState
from dgm_jax.training.step import Step
from dgm_jax.training.task import FrozenTask, Trainer

_OF_GATES = {"scale", "open_share", "sparsity", "sparsity_term"}  # Metrics of DGM's step that say nothing here.


class UnmaskedGenerator(ClassifierMethod):
    """Holds a generator, its discriminator, and the classifier that was learnt last."""

    step: type[Step] = Step
    conditional = True  # Whether the noise carries the class.

    def __init__(self, setting: Setting) -> None:
        """Begins with fresh networks."""
        super().__init__(setting)
        config = dataclasses.replace(
            self.config,
            variant="dgma",
            masks="none",
            gate_position="last",
            gate_gradient="closed",
            sparsity_weight=0.0,
            auxiliary_generator=self.conditional,
            replay_steps=1,
        )
        self.trainer = Trainer(
            config,
            setting.devices,
            channels=setting.image_shape[2],
            n_classes=setting.n_classes,
            max_heads=1,
            backend=setting.backend,
            n_conditioned=None if self.conditional else 0,
            step=self.step,
        )
        self.memory: Memory | None = None
        self.discriminator: tuple[Any, Any] | None = None

    def plan(self, task: int) -> tuple[int, int]:
        """As DGM's."""
        return self.config.epochs, sum(self.setting.counts[task]) // self.config.batch_size

    def train_generator(
        self, task: int, data: TaskImages, key: jax.Array, watch: Watch, adapt: Callable[[Capacity], Capacity]
    ) -> None:
        """Goes on training both networks, for as many iterations as DGM takes on this task.

        Args:
          task: its number.
          data: real images, and replayed ones if the method mixes them in.
          key: a PRNG key.
          watch: told of the epochs and their iterations.
          adapt: adds to the capacity what the method's own step needs.

        Raises:
          NotFinite: if training breaks down.
        """
        trainer, config = self.trainer, self.trainer.config
        begin_key, train_key = jax.random.split(key)
        state, capacity = trainer.begin(
            begin_key,
            self.memory.kernels if self.memory else trainer.new_kernels(begin_key, trainer.first_widths),
            [np.zeros(width, bool) for width in trainer.first_widths],
            physical=trainer.first_widths,
            classes=range(int(self.setting.seen(task).sum())),
            discriminator=self.discriminator,
        )
        state, capacity = trainer.together([self._go_on(state)]), trainer.together([adapt(capacity)])
        data = trainer.together([data])
        nothing = trainer.together([_nothing_replayed(self.setting.image_shape)])
        epochs, steps = self.plan(task)
        for epoch in range(epochs):
            begun = time.perf_counter()
            state, (means,) = trainer.run_epoch(
                *(state, data, nothing, capacity, [train_key]),
                task=0,  # The images are a mixture already.
                epoch=epoch,
                steps=steps,
                on_steps=_counted(watch, "train", steps, epoch),
            )
            broken = [name for name, mean in means.items() if not math.isfinite(mean)]
            if broken:
                raise NotFinite(
                    f"{self.config.method}: {broken[0]} is not finite in task {task}, epoch {epoch}, seed "
                    f"{config.seed}; the tasks before are saved. Try a smaller step size."
                )
            told = {name: mean for name, mean in means.items() if name not in _OF_GATES}
            watch.epoch_ended(epoch, told, time.perf_counter() - begun)
        state = jax.device_get(state)
        self.discriminator = (state.discriminator, state.discriminator_statistics)
        self.memory = self._remember(trainer.freeze(state, trainer.first_widths, n_heads=1), task)

    def consolidate(self, task: int, data: TaskImages, key: jax.Array, watch: Watch) -> None:
        """Learns the classifier afresh from `data`, as DGM's consolidated one is."""
        on_steps = _counted(watch, "consolidate", self.config.consolidation_steps)
        data = self.trainer.together([data])
        ((state, means),) = self.trainer.consolidate([key], [data], self.setting.seen(task), on_steps=on_steps)
        self.classifier = jax.device_get(state)
        watch.consolidated(means)

    def drawn_of_all(self, key: jax.Array) -> TaskImages:
        """Generated images of all classes seen, for the classifier."""
        assert self.memory is not None
        return consolidation.draw(
            self.memory,
            self.config,
            key,
            n_classes=self.setting.n_classes,
            image_shape=self.setting.image_shape,
        )

    def replayed(self, task: int, key: jax.Array, watch: Watch) -> tuple[np.ndarray, np.ndarray]:
        """For each earlier class as many images as the current task has per class, with the classes asked for."""
        old = range(int(self.setting.seen(task - 1).sum()))
        each = round(sum(self.setting.counts[task]) / len(self.setting.tasks[task]))
        images = [np.zeros((0, *self.setting.image_shape), np.uint8)]
        for index in old:
            assert self.memory is not None
            images.append(self.memory.images(index, each, jax.random.fold_in(key, index)))
            watch.moved("replay", index + 1, len(old))
        return np.concatenate(images), np.repeat(np.asarray(old, np.int32), each)

    def mixture(self, *parts: tuple[np.ndarray, np.ndarray]) -> TaskImages:
        """Several sets of images as one, with room for the largest."""
        room = self.setting.n_classes * max(max(counts) for counts in self.setting.counts)
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return padded(images, labels, max(room, len(images)))

    def to_tree(self) -> Tree:
        """All networks."""
        assert self.memory is not None
        own = self.memory.tasks[0]
        generator = {
            "kernels": list(self.memory.kernels),
            "norms": own.norms,
            "statistics": own.statistics,
            "heads": own.heads[:1],
        }
        return super().to_tree() | {"generator": generator, "discriminator": list(self.discriminator or ())}

    def restore(self, tree: Tree, finished_tasks: int) -> None:
        """Takes them back."""
        super().restore(tree, finished_tasks)
        own = tree["generator"]
        masks = [np.ones(width, bool) for width in self.trainer.first_widths]
        frozen = FrozenTask(own["kernels"], masks, own["norms"], own["statistics"], own["heads"])
        self.memory = self._remember(frozen, finished_tasks - 1)
        self.discriminator = tuple(tree["discriminator"])

    def memory_bytes(self) -> dict[str, int]:
        """The generator's parameters."""
        total = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(self.to_tree()["generator"]))
        return {"generator": total, "total": total}

    def _go_on(self, state: TrainState) -> TrainState:
        """Takes norms and output layer from the task before."""
        if self.memory is None:
            return state
        own = self.memory.tasks[0]
        generator = state.generator | {"norms": own.norms, "heads": own.heads[:1]}
        return dataclasses.replace(state, generator=generator, generator_statistics=own.statistics)

    def _remember(self, frozen: FrozenTask, task: int) -> Memory:
        setting = self.setting
        classes = tuple(range(int(setting.seen(task).sum())))
        own = TaskMemory(
            classes=classes,
            widths=tuple(self.trainer.first_widths),
            masks=[np.ones(width, bool) for width in self.trainer.first_widths],
            norms=frozen.norms,
            statistics=frozen.statistics,
            heads=np.broadcast_to(frozen.heads, (len(classes), *frozen.heads.shape[1:])),  # One for all classes.
            n_conditioned=setting.n_classes if self.conditional else 0,
        )
        return Memory(
            kernels=frozen.kernels,
            reserved=[np.zeros(width, bool) for width in self.trainer.first_widths],
            tasks=(own,),
            noise_dim=self.config.noise_dim,
            network=self.config.network,
            image_size=self.config.image_size,
            labels=tuple(range(setting.n_classes)),
            names=tuple(map(str, range(setting.n_classes))),
        )


def _counted(watch: Watch, phase: str, steps: int, epoch: int | None = None) -> Callable[[int], None]:
    """Tells of the steps of a phase as they are done, n at a time."""
    done = 0

    def on_steps(n: int) -> None:
        nonlocal done
        done += n
        watch.moved(phase, done, steps, epoch=epoch)

    return on_steps


def _nothing_replayed(image_shape: tuple[int, int, int]) -> ReplayedImages:
    return ReplayedImages(np.zeros((1, 1, *image_shape), np.uint8), np.zeros((1, 1), np.int32), np.zeros(1, np.int32))
