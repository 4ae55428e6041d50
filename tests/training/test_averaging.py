"""Averages of weights: what stands still is kept bit for bit, and the start is forgotten."""

import jax
import jax.numpy as jnp
import numpy as np

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
