"""Memory replay GANs (MeRGAN): a conditional generator, trained on its own replay or by replay alignment."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from dgm_jax.config import MethodSettings, setting
from dgm_jax.methods.generative import Keys, State, Training, UnmaskedGenerator
from dgm_jax.methods.method import TaskInput, Watch
from dgm_jax.methods.replay import images_of_all_classes
from dgm_jax.training.epoch import TaskImages
from dgm_jax.training.state import Capacity, TrainState, sampler_params
from dgm_jax.training.step import Metrics, Step
from dgm_jax.types import Array, GeneratorParams, SamplerParams, Statistics


class _Conditional(UnmaskedGenerator):
    """Trains the classifier on images that the generator draws of all classes."""

    def classifier_data(self, training: Training, run: int, state: State, keys: Keys) -> TaskImages:
        """As many generated images of every class seen as DGM's consolidated classifier learns from."""
        assert state.generator is not None
        return images_of_all_classes(state.generator, self.setting, keys["sample"])


class JointRetraining(_Conditional):
    """Joint retraining with replay (MeRGAN-JTR): new images and replayed ones train both networks."""

    paper = (
        "Wu et al. 2018 (arXiv 1809.02058), joint retraining; here with the networks and the step of DGM: a one-hot "
        "in the noise, norms in the critic, one critic step"
    )
    random_uses = ("replay", "train", "sample", "classifier")

    def data(self, task: int, own: TaskInput[State], keys: Keys, watch: Watch) -> TaskImages:
        """New images and replayed ones, as many of each class."""
        return self.mixture((own.images, own.labels), self.replayed(task, own, keys["replay"], watch))


@struct.dataclass
class AlignedCapacity(Capacity):
    """What earlier tasks left, and the generator as it was after them."""

    before: SamplerParams
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
        self,
        params: GeneratorParams,
        statistics: list[Statistics],
        masks: list[jax.Array],
        noise: jax.Array,
        capacity: Capacity,
    ) -> Metrics:
        """Replay alignment: mean squared difference of the images drawn from the same noise and old classes.

        Both are drawn in evaluation mode, as replayed images are, so that the penalty also corrects for the change
        that new classes make to the running statistics.
        """
        assert isinstance(capacity, AlignedCapacity)
        n_classes = capacity.seen.shape[0]
        classes = self.old_classes(noise, capacity.n_old)
        asked = jnp.concatenate([jax.nn.one_hot(classes, n_classes), noise[:, n_classes:]], axis=1)
        head = jnp.zeros(len(noise), jnp.int32)
        now, _ = self.generator.generate(params, jax.lax.stop_gradient(statistics), masks, asked, head, train=False)
        before = capacity.before
        then, _ = self.generator.generate(before.generator, before.statistics, masks, asked, head, train=False)
        difference = jnp.mean((now - jax.lax.stop_gradient(then)) ** 2)
        return {"alignment_term": jnp.where(capacity.n_old > 0, capacity.weight, 0) * difference}

    def old_classes(self, noise: jax.Array, n_old: jax.Array) -> jax.Array:
        """Returns the old class of each image in this device's part of the batch, int32 `[batch]`.

        Classes come in turn, so that each gets an equal share of every step. The first one is random, because there
        may be more old classes than images. The order runs through the whole batch on all devices.
        """
        place, first = jnp.arange(len(noise)), noise[0, -1]
        if self.axis_name is not None:
            shard = lax.axis_index(self.axis_name)
            place += shard * len(noise)
            first = lax.psum(jnp.where(shard == 0, first, 0.0), self.axis_name)
        start = jnp.mod(first * 4096, 1.0) * n_old  # Low digits of the noise: nothing else depends on them.
        return (start.astype(jnp.int32) + place) % jnp.maximum(n_old, 1)


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings(MethodSettings):
    """The settings of mergan."""

    alignment_weight: float = setting(300.0, at_least=0)
    """Weight of the replay alignment."""


class ReplayAlignment(_Conditional):
    """Replay alignment (MeRGAN-RA): only new images train the critic; a penalty holds the old classes."""

    paper = (
        "Wu et al. 2018 (arXiv 1809.02058), replay alignment; here with the networks and the step of DGM: a one-hot "
        "in the noise, norms in the critic, one critic step"
    )
    settings = AlignmentSettings
    step = AlignedStep
    random_uses = ("train", "sample", "classifier")

    def data(self, task: int, own: TaskInput[State], keys: Keys, watch: Watch) -> TaskImages:
        """New images only."""
        return self.mixture((own.images, own.labels))

    def adapt(self, capacity: Capacity, begun: TrainState, state: State) -> AlignedCapacity:
        """Adds the generator as it was before the task; before the first one, any of the right shapes."""
        before, n_old = sampler_params(begun.generator, begun.generator_statistics), 0
        if state.generator is not None:
            old, kept = state.generator, state.generator.tasks[0]
            before = SamplerParams(GeneratorParams(old.kernels, kept.norms, kept.heads[:1]), kept.statistics)
            n_old = len(kept.classes)
        return AlignedCapacity(
            **{name: getattr(capacity, name) for name in capacity.__dataclass_fields__},
            before=before,
            n_old=np.int32(n_old),
            weight=np.float32(self.method_settings.alignment_weight),
        )
