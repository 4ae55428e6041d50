"""What the critic learns from, with each loss and penalty, on random networks and real digits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import programs, small_runs

from dgm_jax.training.state import DiscriminatorState
from dgm_jax.training.step import Step, critic_value

BATCH = 8


def _learnt(seeds, **changes):
    """Metrics of one step of the critic on real images and generated ones, of these two seeds."""
    step = Step.of(small_runs.small("dgma", image_size=8, **changes))
    params, statistics = step.pair.init_discriminator(
        jax.random.key(0),
        width=4,
        image_size=8,
        channels=1,
        n_classes=3,
    )
    optimiser = step.optimisers.discriminator.init(params)
    state = DiscriminatorState(params, optimiser, statistics)
    images = small_runs.digits(8).x_train / np.float32(127.5) - 1
    real, fake = (jnp.asarray(np.random.default_rng(seed).permutation(images)[:BATCH]) for seed in seeds)
    head, alpha = jnp.zeros(BATCH, int), jnp.full(BATCH, 0.5)
    _, metrics = programs.quick_jit(step._learn_values)(state, real, fake, alpha, head)
    values = [critic_value(params, step.discriminate(params, statistics, x)[0], head) for x in (real, fake)]
    return jax.device_get((metrics, values))


def test_what_is_minimised():
    metrics, (real, fake) = _learnt((1, 2), penalty_weight=0.0)
    assert metrics["critic_loss"] == pytest.approx(fake.mean() - real.mean(), rel=1e-5)


def test_real_and_generated_images_are_penalised():
    plain, other_real, other_fake = (_learnt(seeds)[0]["gradient_penalty"] for seeds in ((1, 2), (3, 2), (1, 4)))
    assert plain > 0 and other_real != plain and other_fake != plain


def test_the_penalty_counts_with_its_weight():
    once, more = (_learnt((1, 2), penalty_weight=w)[0] for w in (1.0, 4.0))
    assert more["critic_loss"] - once["critic_loss"] == pytest.approx(3 * more["gradient_penalty"], rel=1e-4)


def test_a_projection_is_learnt_by_all_of_the_loss():
    """Its gradient, penalty included, against differences of the loss, in float64."""
    step = Step.of(small_runs.small("dgma", image_size=8, critic_condition="projection", penalty_weight=3.0))
    params, statistics = step.pair.init_discriminator(jax.random.key(0), width=4, image_size=8, channels=1, n_classes=3)
    images = small_runs.digits(8).x_train / 127.5 - 1
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)  # noqa: E731
        params, statistics = wide(params), wide(statistics)
        table = rng.normal(0, 0.3, (2, len(params.critic.kernel)))
        real, fake = (jnp.asarray(rng.permutation(images)[:BATCH]) for _ in range(2))
        head, alpha = jnp.arange(BATCH) % 2, jnp.asarray(rng.uniform(size=BATCH))

        @programs.quick_jit
        def learn(table):
            own = dataclasses.replace(params, projection=table)
            optimiser = step.optimisers.discriminator.init(own)
            state = DiscriminatorState(own, optimiser, statistics)
            after, metrics = step._learn_values(state, real, fake, alpha, head)
            moments = optax.tree_utils.tree_get(after.optimiser, "mu")
            return after.params.projection, moments.projection, metrics["critic_loss"]

        moved, moment, _ = learn(table)
        gradient = moment / (1 - step.config.gan.adam_b1)
        for place in [(0, 0), (0, 3), (1, 1), (1, 2)]:
            change = np.zeros_like(table)
            change[place] = 1e-5
            slope = (learn(table + change)[2] - learn(table - change)[2]) / 2e-5
            assert gradient[place] == pytest.approx(float(slope), rel=1e-5, abs=1e-8) and slope != 0
        assert np.all(np.sign(moved - table) == -np.sign(gradient))
