"""What the critic learns from, with each loss and penalty, on random networks and real digits."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgm_jax.training.step import Step

BATCH = 8


def _learnt(seeds, **changes):
    """Metrics of one step of the critic on real images and generated ones, of these two seeds."""
    step = Step.of(helpers.small("dgma", image_size=8, **changes))
    params, statistics = step.pair.init_discriminator(
        jax.random.key(0),
        width=4,
        image_size=8,
        channels=1,
        n_classes=3,
        norms=step.config.discriminator_norm == "batch",
    )
    optimiser = step.optimisers.discriminator.init(params)
    state = {
        "discriminator": params,
        "discriminator_statistics": statistics,
        "discriminator_optimiser": optimiser,
    }
    images = helpers.digits(8).x_train / np.float32(127.5) - 1
    real, fake = (jnp.asarray(np.random.default_rng(seed).permutation(images)[:BATCH]) for seed in seeds)
    head, alpha = jnp.zeros(BATCH, int), jnp.full(BATCH, 0.5)
    _, metrics = helpers.quick_jit(step._learn_values)(state, real, fake, alpha, head)
    values = [step.value(params, step.discriminate(params, statistics, x)[0], head) for x in (real, fake)]
    return jax.device_get((metrics, values))


@pytest.mark.parametrize("penalty, of_real, of_fake", [("r1", True, False), ("gradient", True, True)])
def test_what_is_penalised(penalty, of_real, of_fake):
    changes = {"penalty": penalty, "discriminator_norm": "none"}
    plain, other_real, other_fake = (
        _learnt(seeds, **changes)[0]["gradient_penalty"] for seeds in ((1, 2), (3, 2), (1, 4))
    )
    assert plain > 0
    assert (other_real != plain) == of_real and (other_fake != plain) == of_fake


def test_hinge_is_what_is_minimised():
    metrics, (real, fake) = _learnt((1, 2), adversarial_loss="hinge", penalty_weight=0.0)
    expected = np.maximum(1 - real, 0).mean() + np.maximum(1 + fake, 0).mean()
    assert metrics["critic_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("penalty", ["r1", "gradient"])
def test_the_penalty_counts_with_its_weight(penalty):
    free, weighed = (_learnt((1, 2), penalty=penalty, penalty_weight=w)[0] for w in (0.0, 3.0))
    assert weighed["critic_loss"] - free["critic_loss"] == pytest.approx(3 * weighed["gradient_penalty"], rel=1e-4)
