"""The objectives that may stand in place of the paper's, against formulas written out in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgm_jax.training.losses import critic_loss, cross_entropy, distillation, gradient_penalty, slope_penalty


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


def test_hinge_counts_only_what_is_on_the_wrong_side_of_one(float64):
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 0.25])
    assert critic_loss(real, fake, "hinge") == pytest.approx((0 + 0.5) / 2 + (0 + 1.25) / 2)
    assert critic_loss(real, fake, "wasserstein") == pytest.approx((-3 + 0.25) / 2 - 1.25)


def test_penalties_of_a_critic_of_known_slope(float64):
    images = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3, 3, 1)))
    slopes = 2 * images  # Of the sum of squares.
    norms = np.sqrt(np.sum(np.square(slopes), axis=(1, 2, 3)))

    def critic_sum(x):
        return jnp.sum(jnp.square(x)), "rest"

    penalty, (found, rest) = slope_penalty(critic_sum, images)
    assert penalty == pytest.approx(np.mean(norms**2) / 2, rel=1e-12) and rest == "rest"
    np.testing.assert_allclose(found, norms, rtol=1e-12)
    assert gradient_penalty(critic_sum, images)[0] == pytest.approx(np.mean((norms - 1) ** 2), rel=1e-12)


def test_distillation_is_cross_entropy_of_softened_probabilities(float64):
    rng = np.random.default_rng(2)
    logits, said, temperature = rng.normal(size=(5, 4)), rng.normal(size=(5, 3)), 2.0
    seen = np.array([True, True, True, False])
    targets = np.zeros((5, 4))
    targets[:4, :3] = np.exp(said[:4] / temperature) / np.exp(said[:4] / temperature).sum(axis=1, keepdims=True)
    softened = logits[:, :3] / temperature
    log_probability = softened - np.log(np.exp(softened).sum(axis=1, keepdims=True))
    expected = -(temperature**2) * np.sum(targets[:, :3] * log_probability) / 5  # The last row counts for nothing.
    assert distillation(logits, targets, seen, temperature) == pytest.approx(expected, rel=1e-12)
    # Its slope is what pulls towards the targets, of a size that does not depend on the temperature's square.
    slope = jax.grad(lambda x: distillation(x, targets, jnp.asarray(seen), temperature))(jnp.asarray(logits))
    pull = temperature * (np.exp(log_probability) - targets[:, :3]) / 5
    np.testing.assert_allclose(slope[:4, :3], pull[:4], rtol=1e-10, atol=1e-12)
    assert not np.any(slope[:, 3]) and not np.any(slope[4])
