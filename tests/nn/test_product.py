"""Products in bfloat16: their factors are rounded, forwards and backwards, and nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgm_jax import nn
from dgm_jax.nn.platforms import FORMS
from dgm_jax.nn.product import is_sharded


def _rounded(a):
    return np.asarray(jnp.asarray(a).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


@pytest.fixture
def factors():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in ((3, 5, 7), (7, 4), (3, 5, 4))]


def test_factors_are_rounded_and_sums_are_not(factors):
    x, matrix, gradient = factors
    with jax.default_matmul_precision("bfloat16"):
        y, pull = jax.vjp(nn.product, x, matrix)
        dx, dmatrix = pull(gradient)
    assert y.dtype == dx.dtype == dmatrix.dtype == jnp.float32
    np.testing.assert_allclose(y, _rounded(x) @ _rounded(matrix), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, _rounded(gradient) @ _rounded(matrix).T, rtol=1e-5, atol=1e-5)
    expected = np.einsum("abi,abo->io", _rounded(x), _rounded(gradient))
    np.testing.assert_allclose(dmatrix, expected, rtol=1e-5, atol=1e-5)
    assert np.max(np.abs(y - x @ matrix)) > 1e-3  # Else nothing was rounded.


def test_other_precisions_are_jax_s_own(factors):
    x, matrix, _ = factors
    x, matrix = jnp.asarray(x), jnp.asarray(matrix)
    np.testing.assert_array_equal(nn.product(x, matrix), x @ matrix)
    with jax.enable_x64(True), jax.default_matmul_precision("bfloat16"):
        y = nn.product(jnp.asarray(x, jnp.float64), jnp.asarray(matrix, jnp.float64))
        np.testing.assert_allclose(y, np.asarray(x, np.float64) @ np.asarray(matrix, np.float64), rtol=1e-14)


@pytest.mark.parametrize("outputs", [4, 9])  # Narrower and wider than x: two ways to multiply.
@pytest.mark.parametrize("lead", [(6,), (3, 2), (2, 3, 2)])
def test_derivatives(outputs, lead, float64):
    rng = np.random.default_rng(0)
    x, matrix, gradient = (jnp.asarray(rng.normal(size=s)) for s in ((*lead, 7), (7, outputs), (*lead, outputs)))
    y, pull = jax.vjp(nn.product, x, matrix)
    expected, pull_expected = jax.vjp(jnp.matmul, x, matrix)
    for a, b in zip((y, *pull(gradient)), (expected, *pull_expected(gradient)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)

    def twice(multiply):
        return jax.grad(lambda m: jnp.sum(jax.grad(lambda x: jnp.sum(multiply(x, m) ** 3))(x) ** 2))(matrix)

    np.testing.assert_allclose(twice(nn.product), twice(jnp.matmul), rtol=1e-12)


def test_a_second_derivative(factors):
    """As the gradient penalty takes it: of the norm of a gradient, in the same precision."""
    x, matrix, _ = factors

    def penalty(matrix):
        gradient = jax.grad(lambda x: jnp.sum(nn.product(x, matrix) ** 2))(x)
        return jnp.sum(gradient**2)

    exact = jax.grad(penalty)(matrix)
    with jax.default_matmul_precision("bfloat16"):
        rounded = jax.grad(penalty)(matrix)
    np.testing.assert_allclose(rounded, exact, rtol=0.05, atol=0.05 * np.max(np.abs(exact)))
    assert np.any(rounded != exact)


@pytest.mark.parametrize("form", ["patches", "xla"])
def test_convolutions_round_too(form, monkeypatch):
    rng = np.random.default_rng(1)
    x, kernel = (jnp.asarray(rng.normal(size=s).astype(np.float32)) for s in ((2, 8, 8, 3), (4, 4, 3, 5)))
    monkeypatch.setitem(FORMS["convolution"], "cpu", form)
    for convolve in (nn.conv, nn.conv_transpose):
        exact = convolve(x, kernel, stride=2, padding=1)
        with jax.default_matmul_precision("bfloat16"):
            rounded = convolve(x, kernel, stride=2, padding=1)
            closed = nn.masked_conv({"kernel": kernel}, x, jnp.zeros(5), stride=2, padding=1)
        assert rounded.dtype == jnp.float32
        assert 1e-4 < float(jnp.max(jnp.abs(rounded - exact))) < 0.2
        assert not np.any(closed)  # A closed gate emits exactly 0 in any precision.


@pytest.mark.parametrize("convolve", [nn.conv, nn.conv_transpose])
def test_all_platforms_round_the_same_factors(convolve, monkeypatch):
    """The result, its gradients and a gradient of a gradient: alike but for the order of float32 additions."""
    rng = np.random.default_rng(1)
    x, kernel = (jnp.asarray(rng.normal(size=s).astype(np.float32)) for s in ((2, 8, 8, 3), (4, 4, 3, 5)))

    def penalty(x, kernel):
        by_x = jax.grad(lambda x: jnp.sum(convolve(x, kernel, stride=2, padding=1) ** 2))(x)
        return jnp.sum(by_x**2)

    results = []
    for form in ("patches", "xla"):
        with monkeypatch.context() as patch, jax.default_matmul_precision("bfloat16"):
            patch.setitem(FORMS["convolution"], "cpu", form)
            first = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, stride=2, padding=1))), (0, 1))
            results.append((convolve(x, kernel, stride=2, padding=1), *first(x, kernel)))
            results[-1] += jax.grad(penalty, (0, 1))(x, kernel)
    assert len(results[0]) == 5
    for patches, own in zip(*results, strict=True):
        # A factor that lies between two numbers of bfloat16 may be rounded to either: a few entries differ a little.
        close = np.isclose(own, patches, rtol=1e-5, atol=1e-5 * np.max(np.abs(patches)))
        assert np.mean(close) > 0.9
        np.testing.assert_allclose(own, patches, atol=4e-3 * np.max(np.abs(patches)))


def test_axes_that_are_split_over_devices_are_known_from_the_type():
    mesh = jax.make_mesh((1,), ("devices",))
    x = jax.device_put(jnp.ones((2, 4, 3)), jax.NamedSharding(mesh, jax.P(None, "devices")))
    assert is_sharded(x, (0, 1)) and not is_sharded(x, (0, 2)) and not is_sharded(x, ())
    assert not is_sharded(jnp.ones((2, 4, 3)), (0, 1, 2))
