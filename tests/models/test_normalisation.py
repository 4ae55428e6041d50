"""Batch normalisation against NumPy in float64, whole and split over a mapped axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgm_jax.models.normalisation import EPSILON, MOMENTUM, batch_norm, init_norm, init_statistics
from dgm_jax.nn import platforms
from dgm_jax.types import Norm, Statistics


@pytest.fixture(params=["cpu", "cuda"], autouse=True)
def platform(request):
    """Each test runs with the sums of two passes, and with those of one."""
    with platforms.compiled_for(request.param):
        yield request.param


def _random(shape, seed=0):
    rng = np.random.default_rng(seed)
    c = shape[-1]
    params = Norm(scale=rng.normal(size=c), shift=rng.normal(size=c))
    statistics = Statistics(mean=rng.normal(size=c), var=rng.uniform(0.5, 2, c))
    return params, statistics, rng.normal(1, 3, shape)


@pytest.mark.parametrize("shape", [(5, 4), (6, 3, 2, 7), (2, 1, 1, 1)])
def test_training_normalises_by_the_batch(float64, shape):
    params, statistics, x = _random(shape)
    axes = tuple(range(x.ndim - 1))
    count = x.size // shape[-1]
    y, updated = jax.jit(lambda *a: batch_norm(*a, train=True))(params, statistics, x)
    expected = (x - x.mean(axes)) / np.sqrt(x.var(axes) + EPSILON) * params.scale + params.shift
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)
    unbiased = x.var(axes) * count / (count - 1)
    np.testing.assert_allclose(updated.mean, (1 - MOMENTUM) * statistics.mean + MOMENTUM * x.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(updated.var, (1 - MOMENTUM) * statistics.var + MOMENTUM * unbiased, rtol=1e-12)


@pytest.mark.parametrize("n_parts", [1, 4])
@pytest.mark.parametrize("running", [0, 900])
@pytest.mark.parametrize("mean", [0, 3, 30, 1000])
def test_few_digits_cancel(mean, running, n_parts, platform):
    """In float32 against float64: both forms lose what the mean is rounded by, whatever the running mean is."""
    rng = np.random.default_rng(0)
    x = (mean + rng.normal(size=(64, 8, 8, 5))).astype(np.float32)
    params = Norm(np.ones(5, np.float32), np.zeros(5, np.float32))
    before = Statistics(np.full(5, running, np.float32), np.ones(5, np.float32))
    normalised = jax.vmap(lambda x: batch_norm(params, before, x, train=True, axis_name="parts"), axis_name="parts")
    y, updated = jax.jit(normalised)(x.reshape(n_parts, -1, *x.shape[1:]))
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + EPSILON)
    lost = (1 + mean / 20) * {"cpu": 1, "cuda": 5}[platform]  # CPUs add one row after the other.
    np.testing.assert_allclose(np.reshape(y, x.shape), expected, atol=2e-6 * lost, rtol=0)
    for updated_var in np.asarray(updated.var, np.float64):
        var = (updated_var - (1 - MOMENTUM)) / MOMENTUM
        np.testing.assert_allclose(var, exact.reshape(-1, 5).var(0, ddof=1), rtol=1e-5 * lost)


def _penalty(x, weight):
    """What a gradient penalty needs: the squares of a derivative, to be differentiated once more."""
    params, statistics, _ = _random(x.shape)

    def loss(x):
        return jnp.sum(weight * jnp.sin(batch_norm(params, statistics, x, train=True)[0]))

    return jnp.sum(jnp.square(jax.grad(loss)(x)))


@pytest.mark.parametrize("mean", [0, 1000])
def test_a_second_derivative_is_that_of_two_passes(float64, mean, platform):
    """Also of a channel without spread, and of one that a single image makes large."""
    _, _, x = _random((6, 2, 2, 4))
    x += mean
    x[..., 1], x[0, 0, 0, 2] = mean, mean + 1e3
    weight = np.random.default_rng(1).normal(size=x.shape)
    found = jax.jit(jax.grad(_penalty))(x, weight)
    with platforms.compiled_for("cpu"):
        expected = jax.jit(jax.grad(_penalty))(x, weight)
    assert np.all(np.any(expected, axis=(0, 1, 2)))
    for channel in range(4):  # They differ by orders of magnitude.
        largest = np.abs(expected[..., channel]).max()
        np.testing.assert_allclose(found[..., channel], expected[..., channel], rtol=1e-6, atol=1e-6 * largest)


def test_a_channel_without_spread_is_finite(platform):
    """The difference of squares is then rounding alone, and may not be below 0."""
    params, statistics, _ = _random((4, 3))
    x = np.full((50, 3), 1234.5, np.float32)
    single = jax.tree.map(np.float32, (params, statistics))
    y, updated = batch_norm(*single, x, train=True)
    assert np.all(np.isfinite(y)) and np.all(updated.var >= 0)
    if platform == "cpu":
        np.testing.assert_allclose(y, np.broadcast_to(single[0].shift, x.shape), atol=1e-6)


def test_evaluation_normalises_by_the_running_statistics(float64):
    params, statistics, x = _random((4, 3, 3, 5))
    y, same = batch_norm(params, statistics, x, train=False)
    expected = (x - statistics.mean) / np.sqrt(statistics.var + EPSILON) * params.scale + params.shift
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)
    assert same is statistics


def test_one_value_a_channel_leaves_the_shift(float64):
    params, statistics, x = _random((1, 3))
    y, updated = batch_norm(params, statistics, x, train=True)
    np.testing.assert_allclose(y, params.shift[None], rtol=1e-12)
    np.testing.assert_allclose(updated.var, (1 - MOMENTUM) * statistics.var, rtol=1e-12)  # Not 0/0.


def test_no_gradient_flows_into_the_running_statistics(float64):
    params, statistics, x = _random((4, 2, 2, 3))

    def total(x, statistics):
        updated = batch_norm(params, statistics, x, train=True)[1]
        return jnp.sum(updated.mean) + jnp.sum(updated.var)

    for gradient in jax.tree.leaves(jax.grad(total, argnums=(0, 1))(x, statistics)):
        assert not np.any(gradient)


@pytest.mark.parametrize("mean", [0, 1000])
def test_a_split_batch_is_normalised_together(float64, mean):
    params, statistics, x = _random((6, 3, 2, 4))
    x += mean
    weight = np.random.default_rng(1).normal(size=x.shape)

    def of(x, weight, axis_name):
        def loss(params, x):
            y, updated = batch_norm(params, statistics, x, train=True, axis_name=axis_name)
            return jnp.sum(y * weight), (y, updated)

        gradients, rest = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return gradients, rest

    def split(batch):
        return np.asarray(batch).reshape(3, 2, *batch.shape[1:])

    (whole_params, whole_x), (whole_y, whole_statistics) = jax.jit(of, static_argnums=2)(x, weight, None)
    parts = jax.jit(jax.vmap(lambda x, weight: of(x, weight, "parts"), axis_name="parts"))
    (part_params, part_x), (part_y, part_statistics) = parts(split(x), split(weight))
    np.testing.assert_allclose(part_y, split(whole_y), rtol=1e-9)
    np.testing.assert_allclose(part_x, split(whole_x), rtol=1e-9, atol=1e-12)
    for parts_of, whole in zip(jax.tree.leaves(part_params), jax.tree.leaves(whole_params), strict=True):
        np.testing.assert_allclose(np.sum(parts_of, axis=0), whole, rtol=1e-9)
    for parts_of, whole in zip(jax.tree.leaves(part_statistics), jax.tree.leaves(whole_statistics), strict=True):
        for part in parts_of:
            np.testing.assert_allclose(part, whole, rtol=1e-9)


def test_the_first_norm_is_the_identity_of_its_statistics():
    assert {name: value.tolist() for name, value in vars(init_norm(2)).items()} == {"scale": [1, 1], "shift": [0, 0]}
    assert {name: value.tolist() for name, value in vars(init_statistics(2)).items()} == {"mean": [0, 0], "var": [1, 1]}
