"""The objectives, against formulas written out in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgm_jax.training.losses import critic_loss, cross_entropy, gradient_penalty


def test_smoothing_is_cross_entropy_with_a_target_that_is_spread_over_the_classes_seen(float64):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 5)), rng.integers(0, 3, 6)
    seen = np.array([True, True, True, False, False])
    target = np.where(seen, 0.2 / 3, 0) + 0.8 * np.eye(5)[labels]
    log_probability = logits - np.log(np.exp(logits[:, :3]).sum(axis=1, keepdims=True))
    expected = -(target * log_probability).sum(axis=1).mean()
    assert cross_entropy(logits, labels, seen, 0.2) == pytest.approx(expected, rel=1e-12)
    slope = jax.grad(lambda x: cross_entropy(x, labels, jnp.asarray(seen), 0.2))(jnp.asarray(logits))
    assert np.all(np.asarray(slope)[:, 3:] == 0) and np.all(np.isfinite(slope))


def test_smoothing_over_all_classes(float64):
    logits = np.array([[2.0, 0.0, -1.0]])
    log_probability = logits - np.log(np.exp(logits).sum())
    expected = -(0.9 * log_probability[0, 1] + 0.1 * log_probability.mean())
    assert cross_entropy(logits, np.array([1]), None, 0.1) == pytest.approx(expected, rel=1e-12)


def test_what_the_critic_minimises(float64):
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 0.25])
    assert critic_loss(real, fake) == pytest.approx((-3 + 0.25) / 2 - 1.25)


def test_penalty_of_a_critic_of_known_slope(float64):
    images = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3, 3, 1)))
    slopes = 2 * images  # Of the sum of squares.
    norms = np.sqrt(np.sum(np.square(slopes), axis=(1, 2, 3)))

    def critic_sum(x):
        return jnp.sum(jnp.square(x)), "rest"

    penalty, (found, rest) = gradient_penalty(critic_sum, images)
    assert penalty == pytest.approx(np.mean((norms - 1) ** 2), rel=1e-12) and rest == "rest"
    np.testing.assert_allclose(found, norms, rtol=1e-12)
