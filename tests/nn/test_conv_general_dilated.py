"""The stand-in for `jax.lax.conv_general_dilated`: the same values, and patches where something is differentiated."""

import inspect
import re
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import lax

from dgm_jax import nn

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
CALL = {
    "window_strides": (2, 1),
    "padding": ((1, 0), (2, 1)),
    "rhs_dilation": (1, 2),
    "dimension_numbers": CHANNELS_LAST,
    "feature_group_count": 2,
}
FORMS = [None, "patches", "xla"]


@pytest.fixture
def arrays(float64):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, 5, 6, 4))), jnp.asarray(rng.normal(size=(3, 2, 2, 4)))


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), actual, expected)


def operations(function, *arguments):
    """The names of all operations, those of nested programs included."""
    return set(re.findall(r"\b(unfold|fold|conv_general_dilated)\[", str(jax.make_jaxpr(function)(*arguments))))


def test_the_signature_is_that_of_lax():
    expected, ours = (inspect.signature(f).parameters for f in (lax.conv_general_dilated, nn.conv_general_dilated))
    assert [(p.name, p.default) for p in expected.values()] == [(p.name, p.default) for p in ours.values()][:-1]
    assert list(ours)[-1] == "form"


def test_where_nothing_is_differentiated_xla_serves(arrays):
    ours, reference = (partial(f, **CALL) for f in (nn.conv_general_dilated, lax.conv_general_dilated))
    np.testing.assert_array_equal(jax.jit(ours)(*arrays), jax.jit(reference)(*arrays))
    assert operations(ours, *arrays) == {"conv_general_dilated"}
    held = jax.jit(jax.grad(lambda c: c * jnp.sum(ours(*arrays))))  # Constants: nothing of theirs is differentiated.
    np.testing.assert_allclose(held(1.0), jnp.sum(reference(*arrays)), rtol=1e-12)


@pytest.mark.parametrize("wrt", [0, 1, (0, 1)])
def test_where_something_is_differentiated_patches_serve(wrt, arrays):
    def gradient(form):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(nn.conv_general_dilated(*a, **CALL, form=form))), wrt)

    assert operations(gradient(None), *arrays) >= {"unfold"}
    found = {form: operations(gradient(form), *arrays) for form in FORMS}
    assert found["xla"] == {"conv_general_dilated"} and "conv_general_dilated" not in found["patches"]
    assert "conv_general_dilated" not in found[None]
    expected = jax.jit(gradient("xla"))(*arrays)
    assert_close(jax.jit(gradient(None))(*arrays), expected)


def test_derivatives_of_any_order_agree_with_lax(arrays):
    def everything(convolve):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, **CALL)))

        def penalty(x, kernel):
            return jnp.sum(jax.grad(jax.checkpoint(loss))(x, kernel) ** 2)

        def derivatives(x, kernel):
            tangent = jax.jvp(partial(convolve, **CALL), (x, kernel), (x, kernel))[1]
            _, scanned = lax.scan(lambda c, _: (c, jax.grad(penalty, 1)(x, kernel)), None, length=2)
            mapped = jax.vmap(jax.grad(loss), (0, None))(jnp.stack([x, 2 * x]), kernel)
            return jax.grad(penalty, (0, 1))(x, kernel), tangent, scanned, mapped

        return jax.jit(derivatives)(*arrays)

    assert_close(everything(nn.conv_general_dilated), everything(lax.conv_general_dilated))


def test_hessian_and_transpose(arrays):
    x, kernel = arrays[0][:1, :, :, :2], arrays[1]
    call = CALL | {"feature_group_count": 1}  # lax has no Hessian of groups.
    found = {}
    for convolve in (nn.conv_general_dilated, lax.conv_general_dilated):
        hessian = jax.jit(jax.hessian(lambda k, c=convolve: jnp.sum(jnp.sin(c(x, k, **call)))))(kernel)
        y = jnp.ones(jax.eval_shape(partial(convolve, **call), x, kernel).shape)
        found[convolve] = hessian, jax.linear_transpose(lambda x, c=convolve: c(x, kernel, **call), x)(y)
    assert_close(*found.values())


OBSTACLES = [
    ({"dimension_numbers": ("NHWC", "OIHW", "NHWC")}, "dimension_numbers=('NHWC', 'OIHW', 'NHWC')"),
    ({"padding": ((-1, 0), (0, 0))}, "padding=((-1, 0), (0, 0))"),
    ({"batch_group_count": 2}, "batch_group_count=2"),
    ({"precision": "highest"}, "precision=highest"),
    ({"preferred_element_type": np.float64}, "preferred_element_type=<class 'numpy.float64'>"),
    ({"rhs_dilation": (1, 4)}, "an output of (2, 3, 0, 2)"),
    ({}, "dtype float16"),
]


@pytest.mark.parametrize("options, text", OBSTACLES, ids=[text for _, text in OBSTACLES])
def test_what_patches_cannot_do_goes_to_xla(options, text, float64):
    dtype = np.float16 if "float16" in text else np.float32
    x, kernel = jnp.ones((2, 4, 4, 2), dtype), jnp.ones((2, 2, 2, 2), dtype)
    call = {"window_strides": (1, 1), "padding": "VALID", "dimension_numbers": CHANNELS_LAST} | options
    ours, reference = (partial(f, **call) for f in (nn.conv_general_dilated, lax.conv_general_dilated))
    assert operations(jax.grad(lambda x: ours(x, kernel).sum()), x) == {"conv_general_dilated"}
    assert jax.eval_shape(ours, x, kernel) == jax.eval_shape(reference, x, kernel)
    with pytest.raises(ValueError, match=re.escape(f"form='patches' cannot have {text}; use form=None or 'xla'")):
        ours(x, kernel, form="patches")


def test_what_lax_refuses_is_refused_alike(arrays):
    x, kernel = arrays
    for change in ({"window_strides": (1,)}, {"padding": "HALF"}, {"feature_group_count": 3}):
        errors = []
        for convolve in (lax.conv_general_dilated, nn.conv_general_dilated):
            with pytest.raises((ValueError, TypeError, RuntimeError)) as error:
                jax.grad(lambda x, c=convolve: c(x, kernel, **(CALL | change)).sum())(x)  # noqa: B023
            errors.append(str(error.value))
        assert errors[0] == errors[1]
    with pytest.raises(ValueError, match="form='fast'; expected 'patches', 'xla' or None"):
        nn.conv_general_dilated(x, kernel, **CALL, form="fast")


class Stock(linen.Module):
    """A stock network of Flax."""

    convolve: Callable[..., jax.Array]

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(3, (3, 3), conv_general_dilated=self.convolve)(x))
        x = linen.Conv(3, (2, 2), 2, conv_general_dilated=self.convolve)(x)
        return x.mean((1, 2))


def test_flax_linen_learns_the_same():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(4, 4, 4, 2)).astype(np.float32), rng.integers(3, size=4)
    params = jax.jit(Stock(lax.conv_general_dilated).init)(jax.random.key(0), x)

    def losses(convolve):
        def step(params, _):
            def loss(params):
                output = Stock(convolve).apply(params, x)
                return optax.softmax_cross_entropy_with_integer_labels(output, labels).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

        return jax.jit(lambda params: lax.scan(step, params, length=3)[1])(params)

    found = losses(nn.conv_general_dilated)
    np.testing.assert_allclose(found, losses(lax.conv_general_dilated), rtol=1e-6)
    assert found[2] < found[0]


def test_flax_nnx_takes_it_too():
    """It also passes `out_sharding`. Here with one axis of space, groups, and two axes of batch."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 7, 4)), jnp.float32)
    layer = nnx.Conv(4, 6, 3, kernel_dilation=2, feature_group_count=2, rngs=nnx.Rngs(0))

    def values(convolve):
        layer.conv_general_dilated = convolve
        graph, state = nnx.split(layer)

        def loss(state):
            return jnp.sum(jnp.sin(nnx.merge(graph, state)(x)))

        return jax.jit(lambda state: (nnx.merge(graph, state)(x), jax.grad(loss)(state)))(state)

    (y, gradient), (expected, expected_gradient) = map(values, (nn.conv_general_dilated, lax.conv_general_dilated))
    np.testing.assert_array_equal(y, expected)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), gradient, expected_gradient)
