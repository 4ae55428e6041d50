"""One training iteration (ALGORITHM, section 5): classifier steps, a critic step, a generator step.

Every function here is pure and sees one device's share of a batch. `Step.axis_name` names the mapped axis over which
the batch is split, or is None; how it is mapped is the business of `devices.py`.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dgm_jax import nn
from dgm_jax.config import Config
from dgm_jax.models import Pair, pair
from dgm_jax.models.discriminator import Output
from dgm_jax.models.generator import Generator
from dgm_jax.models.normalisation import in_succession
from dgm_jax.training.losses import critic_loss, cross_entropy, gradient_penalty, only_seen
from dgm_jax.training.state import Capacity, Clock, Optimisers, TrainState, make_optimisers

Metrics = dict[str, Any]  # Scalars, NumPy's or JAX's.
Params = Any

_METRICS = (
    *("classifier_loss", "classifier_accuracy"),
    *("critic_loss", "critic_real", "critic_fake", "gradient_penalty", "gradient_norm"),
    *("adversarial_term", "sparsity_term", "auxiliary_term", "reconstruction_term", "generator_loss", "sparsity"),
    *("generator_gradient_norm", "generator_update_norm", "scale", "open_share"),
)


@dataclass(frozen=True)
class Step:
    """The three steps of an iteration, bound to the settings of a run."""

    config: Config
    optimisers: Optimisers
    generator: Generator
    axis_name: str | None = None

    @classmethod
    def of(cls, config: Config, axis_name: str | None = None) -> "Step":
        """Binds the steps to `config`."""
        return cls(config, make_optimisers(config), make_generator(config), axis_name)

    @property
    def pair(self) -> Pair:
        """The two networks."""
        return pair(self.config.networks.network)

    def generate(self, params: Params, statistics: Params, masks: list[jax.Array], noise: jax.Array, head: jax.Array):
        """Draws images in training mode: soft gates, statistics of the batch."""
        before = self.config.gates.gate_position == "before_norm"
        return self.generator.generate(
            params, statistics, masks, noise, head, train=True, gate_before_norm=before, axis_name=self.axis_name
        )

    def discriminate(self, params: Params, statistics: Params, images: jax.Array):
        """Judges images in training mode."""
        return self.pair.discriminate(params, statistics, images, train=True, axis_name=self.axis_name)

    def mean(self, tree: Any) -> Any:
        """Averages over devices."""
        return tree if self.axis_name is None else lax.pmean(tree, self.axis_name)

    @property
    def metric_names(self) -> list[str]:
        """The metrics of an iteration, in the order in which a loop of iterations adds them up, as one vector."""
        left_out = set()
        if not self.config.gan.auxiliary_generator:
            left_out.add("auxiliary_term")
        if not self.config.gan.reconstruction_weight:
            left_out.add("reconstruction_term")
        return sorted(set(_METRICS) - left_out)

    def masks(self, embeddings: list[jax.Array], scale: jax.Array, epoch_scale: jax.Array) -> list[jax.Array]:
        """Opens the current task's gates at slope `scale` (`s`), in an epoch of slope `epoch_scale` (`S_i`).

        An `epoch_scale` of 0 says that masks are settled: they are binary, and have no gradient.
        """
        compensated = epoch_scale if self.config.gates.gate_gradient == "closed" else None
        soft = [nn.gate(e, scale, compensated) for e in embeddings]
        return [jnp.where(epoch_scale > 0, m, nn.binarise(e).astype(m.dtype)) for m, e in zip(soft, embeddings)]

    def epoch_scale(self, position: Any, mask_epochs: Any) -> jax.Array:
        """Returns `S_i` at epoch `i = position` (section 3)."""
        return nn.annealed_scale(position, mask_epochs, self.config.gates.scale_max)

    def scales(self, clock: Clock, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (`s`, `S_i`) at a step of an epoch (section 3); once masks are settled, (`s_max`, 0)."""
        position = jnp.minimum(
            clock.epoch + self.config.gates.scale_lead, clock.mask_epochs
        )  # No steeper than `s_max`.
        epoch_scale = self.epoch_scale(position, clock.mask_epochs)
        scale = (
            nn.annealed_scale(step, clock.steps, epoch_scale) if self.config.gates.anneal_within_epoch else epoch_scale
        )
        settled = clock.epoch >= clock.mask_epochs
        return jnp.where(settled, self.config.gates.scale_max, scale), jnp.where(settled, 0.0, epoch_scale)

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

        discriminator, metrics = self._learn_classes(_discriminator_of(state), images, labels, seen)
        return replace(state, **discriminator), metrics

    # A program of its own, as below: it does not depend on the generator's shapes, so it is traced once a run.
    @partial(jax.jit, static_argnums=0)
    def _learn_classes(
        self, discriminator: dict[str, Any], images: jax.Array, labels: jax.Array, seen: jax.Array
    ) -> tuple[dict[str, Any], Metrics]:
        def loss_of(params):
            output, statistics = self.discriminate(params, discriminator["discriminator_statistics"], images)
            correct = jnp.argmax(only_seen(output.logits, seen), axis=1) == labels
            return cross_entropy(output.logits, labels, seen), (statistics, jnp.mean(correct, dtype=images.dtype))

        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (statistics, accuracy)), gradients = value_and_grad(discriminator["discriminator"])
        updated = self._update_discriminator(discriminator, self.mean(gradients), statistics)
        return updated, self.mean({"classifier_loss": loss, "classifier_accuracy": accuracy})

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
        masks = self.masks(state.generator["embeddings"], *scales)
        fake, generator_statistics = self.generate(state.generator, state.generator_statistics, masks, noise, head)
        discriminator, metrics = self._learn_values(_discriminator_of(state), images, fake, alpha, head)
        return replace(state, **discriminator, generator_statistics=generator_statistics), metrics

    @partial(jax.jit, static_argnums=0)
    def _learn_values(
        self, discriminator: dict[str, Any], images: jax.Array, fake: jax.Array, alpha: jax.Array, head: jax.Array
    ) -> tuple[dict[str, Any], Metrics]:
        config = self.config
        share = alpha[:, None, None, None]
        mixed = share * images + (1 - share) * fake
        before = discriminator["discriminator_statistics"]

        def loss_of(params):
            # Three passes, each with its own batch statistics; real and fake side by side, as one that is vectorised.
            judge = jax.vmap(lambda x: self.discriminate(params, before, x))
            output, statistics = judge(jnp.stack([images, fake]))
            real, drawn = jax.vmap(lambda each: self.value(params, each, head))(output)

            def critic_sum(x):
                output, updated = self.discriminate(params, in_succession(before, statistics), x)
                return jnp.sum(self.value(params, output, head)), updated

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

        gradients, (statistics, metrics) = jax.grad(loss_of, has_aux=True)(discriminator["discriminator"])
        return self._update_discriminator(discriminator, self.mean(gradients), statistics), self.mean(metrics)

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

        Args:
          state: replaced; D's running statistics see the batch drawn here.
          images: real images of these classes, [batch, height, width, channels]: what L1 compares with, if it counts.
          labels: [batch] class indices of the images to draw.
          head: [batch] the output layer of each label.
          noise: [batch, noise_dim], classes included.
          scales: (`s`, `S_i`).
          capacity: what is reserved and what is free.
        """
        scale, epoch_scale = scales
        config = self.config

        def loss_of(params):
            masks = self.masks(params["embeddings"], scale, epoch_scale)
            fake, generator_statistics = self.generate(params, state.generator_statistics, masks, noise, head)
            output, statistics = self.discriminate(state.discriminator, state.discriminator_statistics, fake)
            values = self.value(state.discriminator, output, head)
            unavailable = [jnp.logical_not(free) for free in capacity.free]
            sparsity = nn.sparsity(masks, unavailable, capacity.n_free)
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
        gradients = self.mean(gradients)
        protection: dict[str, Any] = {name: None for name in state.generator}
        protection["kernels"] = nn.multipliers(capacity.reserved, state.generator["kernels"], self.generator.ends)
        updates, optimiser = self.optimisers.generator.update(
            gradients,
            state.generator_optimiser,
            state.generator,
            multipliers=protection,
            scale=scale,
            epoch_scale=epoch_scale,
        )
        # Momentum would still move the embeddings of settled masks.
        updates["embeddings"] = [jnp.where(epoch_scale > 0, u, 0) for u in updates["embeddings"]]
        generator = optax.apply_updates(state.generator, updates)
        metrics |= {
            "generator_gradient_norm": optax.tree.norm(gradients),
            "generator_update_norm": optax.tree.norm(updates),
            "scale": scale,
            "open_share": _open_share(state.generator["embeddings"], capacity),
        }
        state = replace(
            state,
            generator=generator,
            generator_statistics=generator_statistics,
            generator_optimiser=optimiser,
            discriminator_statistics=statistics,
        )
        return state, self.mean(metrics)

    def extra_terms(
        self, params: Params, statistics: Params, masks: list[jax.Array], noise: jax.Array, capacity: Capacity
    ) -> Metrics:
        """Further terms of the generator's loss, by name; for methods that build on this step."""
        del params, statistics, masks, noise, capacity
        return {}

    def value(self, params: Params, output: Output, head: jax.Array) -> jax.Array:
        """The critic's value of each image, [batch]: D(x), or D(x, y) by projection (Miyato and Koyama 2018, eq. 3)."""
        if "projection" not in params:
            return output.critic
        return output.critic + jnp.sum(params["projection"][head] * output.features, axis=1)

    def _update_discriminator(self, discriminator: dict[str, Any], gradients: Params, statistics: Params) -> Any:
        # One optimiser for all of D: a head that a loss does not use moves on by its momentum.
        params = discriminator["discriminator"]
        updates, optimiser = self.optimisers.discriminator.update(
            gradients, discriminator["discriminator_optimiser"], params
        )
        return {
            "discriminator": optax.apply_updates(params, updates),
            "discriminator_statistics": statistics,
            "discriminator_optimiser": optimiser,
        }


def make_generator(config: Config) -> Generator:
    """The wiring of the generator that the settings ask for."""
    return pair(config.networks.network).generator(config.data.image_size)


def _discriminator_of(state: TrainState) -> dict[str, Any]:
    """The part of the state that is the discriminator's."""
    names = ("discriminator", "discriminator_statistics", "discriminator_optimiser")
    return {name: getattr(state, name) for name in names}


def _open_share(embeddings: list[jax.Array], capacity: Capacity) -> jax.Array:
    """The share of the gates within the logical widths that would be open, were the masks binarised now."""
    return jnp.sum(jnp.stack([jnp.sum(nn.binarise(e)) for e in embeddings])) / capacity.n_gates
