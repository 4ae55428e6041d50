"""One training iteration (docs/method.md): classifier steps, a critic step, a generator step.

Every function here is pure and sees one device's share of a batch. `Step.axis_name` names the mapped axis over which
the batch is split, or is None; how it is mapped is the business of `devices.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp

from dgm_jax import nn
from dgm_jax.config import Config
from dgm_jax.models import Pair, pair
from dgm_jax.models.discriminator import Output
from dgm_jax.models.generator import Generator
from dgm_jax.models.normalisation import in_succession
from dgm_jax.training.devices import mean_over_devices
from dgm_jax.training.gates import open_gates, open_share
from dgm_jax.training.losses import critic_loss, cross_entropy, gradient_penalty, is_correct, log_likelihood
from dgm_jax.training.state import Capacity, DiscriminatorState, Optimisers, TrainState, make_optimisers
from dgm_jax.training.vectors import applied, joined, norm
from dgm_jax.types import DiscriminatorParams, GeneratorParams, Statistics

Metrics = dict[str, Any]  # Scalars, NumPy's or JAX's.

_METRICS = (
    "classifier_loss",
    "classifier_accuracy",
    "critic_loss",
    "critic_real",
    "critic_fake",
    "gradient_penalty",
    "gradient_norm",
    "adversarial_term",
    "sparsity_term",
    "auxiliary_term",
    "reconstruction_term",
    "generator_loss",
    "sparsity",
    "generator_gradient_norm",
    "generator_update_norm",
    "scale",
    "open_share",
)


@dataclass(frozen=True)
class _Passes:
    """Passes of both networks in training mode, bound to the settings of a run."""

    config: Config
    optimisers: Optimisers
    generator: Generator
    axis_name: str | None = None

    @classmethod
    def of(cls, config: Config, axis_name: str | None = None) -> Self:
        """Binds them to `config`."""
        return cls(config, make_optimisers(config), make_generator(config), axis_name)

    @property
    def pair(self) -> Pair:
        """The two networks."""
        return pair(self.config.networks.network)

    def generate(
        self,
        params: GeneratorParams,
        statistics: list[Statistics],
        masks: Sequence[jax.Array],
        noise: jax.Array,
        head: jax.Array,
    ) -> tuple[jax.Array, list[Statistics]]:
        """Draws images in training mode: soft gates, statistics of the batch."""
        before = self.config.gates.gate_position == "before_norm"
        return self.generator.generate(
            params, statistics, masks, noise, head, train=True, gate_before_norm=before, axis_name=self.axis_name
        )

    def discriminate(
        self, params: DiscriminatorParams, statistics: list[Statistics], images: jax.Array
    ) -> tuple[Output, list[Statistics]]:
        """The discriminator's output for images in training mode, and its new running statistics."""
        return self.pair.discriminate(params, statistics, images, train=True, axis_name=self.axis_name)

    def mean(self, tree: Any) -> Any:
        """Averages over devices; called once a step, because each call is an exchange that all devices wait for."""
        return mean_over_devices(tree, self.axis_name)


@dataclass(frozen=True)
class Step(_Passes):
    """The three steps of an iteration."""

    @property
    def metric_names(self) -> list[str]:
        """The metrics of an iteration, in the order in which a loop of iterations adds them up, as one vector."""
        left_out = set()
        if not self.config.gan.auxiliary_generator:
            left_out.add("auxiliary_term")
        if not self.config.gan.reconstruction_weight:
            left_out.add("reconstruction_term")
        return sorted(set(_METRICS) - left_out)

    def classifier_step(
        self, state: TrainState, images: jax.Array, labels: jax.Array, seen: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """One Adam step of D on the cross-entropy of the auxiliary classifier, on real and replayed images together.

        Args:
          state: replaced.
          images: [batch, height, width, channels] in [-1, 1].
          labels: [batch] class indices.
          seen: [classes] bool.
        """
        discriminator, metrics = self._learn_classes(state.of_discriminator(), images, labels, seen)
        return state.with_discriminator(discriminator), metrics

    # Jitted, as is the critic's: it does not depend on the generator's shapes, so it is traced once a run.
    @partial(jax.jit, static_argnums=0)
    def _learn_classes(
        self, discriminator: DiscriminatorState, images: jax.Array, labels: jax.Array, seen: jax.Array
    ) -> tuple[DiscriminatorState, Metrics]:
        def loss_of(params: DiscriminatorParams) -> Any:
            output, statistics = self.discriminate(params, discriminator.statistics, images)
            score = log_likelihood(output.logits, labels, seen)
            return -jnp.mean(score), (statistics, jnp.stack([-score, is_correct(output.logits, labels, seen)]))

        gradients, (statistics, of_images) = jax.grad(loss_of, has_aux=True)(discriminator.params)
        gradients, (loss, accuracy) = self.mean((gradients, jnp.mean(of_images, axis=1)))
        metrics = {"classifier_loss": loss, "classifier_accuracy": accuracy}
        return self._update_discriminator(discriminator, gradients, statistics), metrics

    def critic_step(
        self,
        state: TrainState,
        images: jax.Array,
        head: jax.Array,
        noise: jax.Array,
        alpha: jax.Array,
        scales: tuple[jax.Array, jax.Array],
    ) -> tuple[TrainState, Metrics]:
        """One Adam step of D as the critic of the current task, with its penalty.

        Args:
          state: replaced; G's running statistics see the batch drawn here.
          images: real images of the current task, [batch, height, width, channels].
          head: [batch] the output layer of each image's class.
          noise: [batch, noise_dim], classes included.
          alpha: [batch] in [0, 1]: the share of the real image in the mixed one.
          scales: (`s`, `S_i`).
        """
        masks = open_gates(self.config, state.generator.embeddings, *scales)
        fake, generator_statistics = self.generate(state.generator, state.generator_statistics, masks, noise, head)
        discriminator, metrics = self._learn_values(state.of_discriminator(), images, fake, alpha, head)
        state = replace(state, generator_statistics=generator_statistics)
        return state.with_discriminator(discriminator), metrics

    @partial(jax.jit, static_argnums=0)
    def _learn_values(
        self, discriminator: DiscriminatorState, images: jax.Array, fake: jax.Array, alpha: jax.Array, head: jax.Array
    ) -> tuple[DiscriminatorState, Metrics]:
        config = self.config
        share = alpha[:, None, None, None]
        mixed = share * images + (1 - share) * fake
        before = discriminator.statistics

        def loss_of(params: DiscriminatorParams) -> Any:
            # Three passes, each with its own batch statistics; the first two, of real and fake images, side by side.
            both = jax.vmap(lambda x: self.discriminate(params, before, x))
            output, statistics = both(jnp.stack([images, fake]))
            real, drawn = jax.vmap(lambda each: critic_value(params, each, head))(output)

            def critic_sum(x: jax.Array) -> tuple[jax.Array, list[Statistics]]:
                output, updated = self.discriminate(params, in_succession(before, statistics), x)
                return jnp.sum(critic_value(params, output, head)), updated

            penalty, (norms, updated) = gradient_penalty(critic_sum, mixed)
            loss = critic_loss(real, drawn) + config.gan.penalty_weight * penalty
            metrics = {
                "critic_loss": loss,
                "critic_real": jnp.mean(real),
                "critic_fake": jnp.mean(drawn),
                "gradient_penalty": penalty,
                "gradient_norm": jnp.mean(norms),
            }
            return loss, (updated, metrics)

        gradients, (statistics, metrics) = jax.grad(loss_of, has_aux=True)(discriminator.params)
        gradients, metrics = self.mean((gradients, metrics))
        return self._update_discriminator(discriminator, gradients, statistics), metrics

    def generator_step(
        self,
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        head: jax.Array,
        noise: jax.Array,
        scales: tuple[jax.Array, jax.Array],
        capacity: Capacity,
    ) -> tuple[TrainState, Metrics]:
        """One Adam step of G: weights that are not protected, this task's norms, output layers and embeddings.

        The loss is the sum of the terms below. That of sparsity reaches the embeddings through `open_gates`, whose
        gradient is compensated there (`nn.gate`) or in the optimiser (`nn.compensate`).

        Args:
          state: replaced; D's running statistics see the batch drawn here.
          images: real images of these classes, [batch, height, width, channels]: what L1 compares with, if it counts.
          labels: [batch] class indices of the images to draw.
          head: [batch] the output layer of each label.
          noise: [batch, noise_dim], classes included.
          scales: (`s`, `S_i`).
          capacity: what is reserved and what is free.
        """
        config = self.config

        def loss_of(params: GeneratorParams) -> Any:
            masks = open_gates(config, params.embeddings, *scales)
            fake, generator_statistics = self.generate(params, state.generator_statistics, masks, noise, head)
            output, statistics = self.discriminate(state.discriminator, state.discriminator_statistics, fake)
            values = critic_value(state.discriminator, output, head)
            unavailable = [jnp.logical_not(free) for free in capacity.free]
            sparsity = nn.sparsity(joined(masks), joined(unavailable), capacity.n_free)
            terms = {
                "adversarial_term": -config.gan.adversarial_weight * jnp.mean(values),
                "sparsity_term": capacity.sparsity_weight * sparsity,
            }
            if config.gan.auxiliary_generator:
                terms["auxiliary_term"] = cross_entropy(output.logits, labels, capacity.seen)
            if config.gan.reconstruction_weight:
                terms["reconstruction_term"] = config.gan.reconstruction_weight * jnp.mean(jnp.abs(fake - images))
            terms |= self.extra_terms(params, generator_statistics, masks, noise, capacity)
            loss = sum(terms.values())
            metrics = terms | {"generator_loss": loss, "sparsity": sparsity}
            return loss, (generator_statistics, statistics, metrics)

        gradients, (generator_statistics, statistics, metrics) = jax.grad(loss_of, has_aux=True)(state.generator)
        gradients, metrics = self.mean((gradients, metrics))
        state, update_metrics = self._update_generator(state, gradients, scales, capacity)
        state = replace(state, generator_statistics=generator_statistics, discriminator_statistics=statistics)
        return state, metrics | update_metrics

    def _update_generator(
        self, state: TrainState, gradients: GeneratorParams, scales: tuple[jax.Array, jax.Array], capacity: Capacity
    ) -> tuple[TrainState, Metrics]:
        """One Adam step of G that moves no reserved weight (equation 4).

        Their gradients are blocked before the clip, so that they do not count in the norm, and their updates after
        Adam.
        """
        scale, epoch_scale = scales
        before = state.generator
        reserved = {"kernels": nn.reserved_weights(capacity.reserved, before.kernels, self.generator.ends)}
        updates, optimiser = self.optimisers.generator.update(
            nn.block(gradients, reserved), state.generator_optimiser, before, scale=scale, epoch_scale=epoch_scale
        )
        updates = nn.block(updates, reserved)
        # Momentum would still move the embeddings of settled masks.
        updates = replace(updates, embeddings=[jnp.where(epoch_scale > 0, u, 0) for u in updates.embeddings])
        state = replace(state, generator=applied(before, updates), generator_optimiser=optimiser)
        metrics = {
            "generator_gradient_norm": norm(gradients),
            "generator_update_norm": norm(updates),
            "scale": scale,
            "open_share": open_share(before.embeddings, capacity),
        }
        return state, metrics

    def extra_terms(
        self,
        params: GeneratorParams,
        statistics: list[Statistics],
        masks: list[jax.Array],
        noise: jax.Array,
        capacity: Capacity,
    ) -> Metrics:
        """Further terms of the generator's loss, by name; for methods that build on this step."""
        return {}

    def _update_discriminator(
        self, discriminator: DiscriminatorState, gradients: DiscriminatorParams, statistics: list[Statistics]
    ) -> DiscriminatorState:
        # One optimiser serves all of D: a head that a loss does not use still moves by its momentum.
        params = discriminator.params
        updates, optimiser = self.optimisers.discriminator.update(gradients, discriminator.optimiser, params)
        return DiscriminatorState(applied(params, updates), optimiser, statistics)


def make_generator(config: Config) -> Generator:
    """The wiring of the generator that the settings ask for."""
    return pair(config.networks.network).generator(config.data.image_size)


def critic_value(params: DiscriminatorParams, output: Output, head: jax.Array) -> jax.Array:
    """The critic's value of each image, [batch]: D(x), or D(x, y) by projection (Miyato and Koyama 2018, eq. 3).

    Args:
      params: of the discriminator.
      output: for these images.
      head: [batch] the output layer of each image's class.
    """
    if params.projection is None:
        return output.critic
    return output.critic + jnp.sum(params.projection[head] * output.features, axis=1)
