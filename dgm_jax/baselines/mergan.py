"""Memory replay GANs: a conditional generator, retrained on its own replay, or held to what it drew before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from dgm_jax.baselines.generative import UnmaskedGenerator
from dgm_jax.baselines.method import Watch
from dgm_jax.training.state import Array, Capacity, Params
from dgm_jax.training.step import Metrics, Step


class JointRetraining(UnmaskedGenerator):
    """Joint retraining with replay (MeRGAN-JTR): new images and replayed ones train both networks."""

    paper = "Wu et al. 2018 (arXiv 1809.02058), joint retraining; here with the networks and the step of DGM"

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Retrains on everything, then learns the classifier from generated images of all classes."""
        replay_key, train_key, draw_key, classifier_key = jax.random.split(key, 4)
        data = self.mixture((images, labels), self.replayed(task, replay_key, watch))
        self.train_generator(task, data, train_key, watch, lambda capacity: capacity)
        self.consolidate(task, self.drawn_of_all(draw_key), classifier_key, watch)


@struct.dataclass
class AlignedCapacity(Capacity):
    """What earlier tasks left, and the generator as it was after them."""

    before: Params
    statistics: Params
    n_old: Array  # Classes it knows.
    weight: Array


@dataclass(frozen=True)
class AlignedStep(Step):
    """DGM's step, whose generator must draw old classes as it did before this task."""

    @property
    def metric_names(self) -> list[str]:
        """Those of DGM's step, and the alignment."""
        return sorted([*super().metric_names, "alignment_term"])

    def extra_terms(
        self, params: Params, statistics: Params, masks: list[jax.Array], noise: jax.Array, capacity: Capacity
    ) -> Metrics:
        """Replay alignment: mean squared difference of the images drawn from the same noise and old classes.

        Both are drawn in evaluation mode, as replayed images are: what new classes do to the running statistics is
        made good too.
        """
        assert isinstance(capacity, AlignedCapacity)
        n_classes = capacity.seen.shape[0]
        classes = self.old_classes(noise, capacity.n_old)
        asked = jnp.concatenate([jax.nn.one_hot(classes, n_classes), noise[:, n_classes:]], axis=1)
        head = jnp.zeros(len(noise), jnp.int32)
        now, _ = self.generator.generate(params, jax.lax.stop_gradient(statistics), masks, asked, head, train=False)
        then, _ = self.generator.generate(capacity.before, capacity.statistics, masks, asked, head, train=False)
        difference = jnp.mean((now - jax.lax.stop_gradient(then)) ** 2)
        return {"alignment_term": jnp.where(capacity.n_old > 0, capacity.weight, 0) * difference}

    def old_classes(self, noise: jax.Array, n_old: jax.Array) -> jax.Array:
        """Which old class each image of this device's share is to show: all in turn, from a random one on.

        In turn, for every step is to hold all alike; from a random one on, for there may be more old classes than
        images; and over the whole batch, however many devices it is split over.
        """
        place, first = jnp.arange(len(noise)), noise[0, -1]
        if self.axis_name is not None:
            shard = lax.axis_index(self.axis_name)
            place += shard * len(noise)
            first = lax.psum(jnp.where(shard == 0, first, 0.0), self.axis_name)
        start = jnp.mod(first * 4096, 1.0) * n_old  # From digits of the noise that nothing else depends on.
        return (start.astype(jnp.int32) + place) % jnp.maximum(n_old, 1)


class ReplayAlignment(UnmaskedGenerator):
    """Replay alignment (MeRGAN-RA): only new images train the critic; the generator is held to its former self."""

    paper = "Wu et al. 2018 (arXiv 1809.02058), replay alignment; here with the networks and the step of DGM"
    step = AlignedStep

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray, key: jax.Array, watch: Watch) -> None:
        """Trains on the new images, then learns the classifier from generated images of all classes."""
        train_key, draw_key, classifier_key = jax.random.split(key, 3)
        self.train_generator(task, self.mixture((images, labels)), train_key, watch, self._aligned)
        self.consolidate(task, self.drawn_of_all(draw_key), classifier_key, watch)

    def _aligned(self, capacity: Capacity) -> AlignedCapacity:
        own: dict[str, Any] = {name: getattr(capacity, name) for name in capacity.__dataclass_fields__}
        old: Sequence[int] = self.memory.tasks[0].classes if self.memory else ()
        before, statistics = self._generator()
        return AlignedCapacity(
            **own,
            before=before,
            statistics=statistics,
            n_old=np.int32(len(old)),
            weight=np.float32(self.config.alignment_weight),
        )

    def _generator(self) -> tuple[Params, Params]:
        """Parameters and statistics as they are; before the first task, any of the right shapes."""
        trainer = self.trainer
        if self.memory is not None:
            own = self.memory.tasks[0]
            return {"kernels": self.memory.kernels, "norms": own.norms, "heads": own.heads[:1]}, own.statistics
        state, _ = trainer.begin(
            jax.random.key(0),
            trainer.new_kernels(jax.random.key(0), trainer.first_widths),
            [np.zeros(width, bool) for width in trainer.first_widths],
            physical=trainer.first_widths,
            classes=(0,),
            discriminator=None,
        )
        params = {name: state.generator[name] for name in ("kernels", "norms", "heads")}
        return params, state.generator_statistics
