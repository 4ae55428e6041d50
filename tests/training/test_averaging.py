"""Averages of weights: what stands still is kept bit for bit, and the start is forgotten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgm_jax.training.averaging import averaged


def test_what_stands_still_is_kept_bit_for_bit():
    still = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    average = {"w": jnp.asarray(still)}
    step = jax.jit(averaged, static_argnums=3)
    for i in range(50):
        average = step(average, {"w": jnp.asarray(still)}, i, 0.99)
    assert np.asarray(average["w"]).tobytes() == still.tobytes()


def test_it_is_the_fading_mean_of_what_it_met(float64):
    values = np.random.default_rng(1).normal(size=400)
    average = jnp.float64(1e6)  # The start, which the first step replaces.
    for i, value in enumerate(values):
        average = averaged(average, jnp.float64(value), i, 0.9)
    weights = 0.1 * 0.9 ** np.arange(400)[::-1]
    np.testing.assert_allclose(average, np.sum(weights * values) / weights.sum(), atol=1e-6)


def test_the_first_step_counts_alone():
    assert averaged(jnp.float32(7.0), jnp.float32(3.0), 0, 0.999) == 3.0


@pytest.mark.parametrize(
    "step, decay, expected",
    [(5, 0.999, 5.0), (10, 0.999, 5.5), (30, 0.999, 6.25), (1000, 0.75, 6.25), (5, 0.0, 4.0)],
)
def test_the_share_of_a_step_by_hand(step, decay, expected):
    """From 7 to 4 by a share of 1 - min(decay, step / (step + 10)), and as far up as down, each weight by itself."""
    average = {"down": jnp.float32(7.0), "up": jnp.array([-7.0, 0.0])}
    newest = {"down": jnp.float32(4.0), "up": jnp.array([-4.0, 0.0])}
    moved = averaged(average, newest, step, decay)
    assert moved["down"] == pytest.approx(expected)
    np.testing.assert_allclose(moved["up"], [-expected, 0.0], rtol=1e-6)
