"""Products and convolutions that round to bfloat16: every derivative, however it is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import children

from dgm_jax import nn
from dgm_jax.nn.platforms import FORMS

LAYERS = {
    "product": (nn.product, (2, 3, 4), (4, 5)),
    "conv": (lambda x, k: nn.conv(x, k, stride=(2, 1), padding="SAME"), (2, 3, 4, 2), (3, 2, 2, 2)),
}


def arrays(name):
    layer, *shapes = LAYERS[name]
    rng = np.random.default_rng(0)
    return layer, *(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


@pytest.mark.parametrize("name, form", [("product", "patches"), ("conv", "patches"), ("conv", "xla")])
def test_forward_mode_is_that_of_rounded_factors(name, form, monkeypatch):
    """As the sum of two products, each of a factor and a tangent; the transpose and `vmap` agree with it."""
    layer, x, matrix = arrays(name)
    monkeypatch.setitem(FORMS["convolution"], "cpu", form)

    def everything(x, matrix):
        y, tangent = jax.jvp(layer, (x, matrix), (jnp.cos(x), jnp.cos(matrix)))
        expected = layer(jnp.cos(x), matrix) + layer(x, jnp.cos(matrix))
        transposed = jax.linear_transpose(lambda x: layer(x, matrix), x)(y)[0]
        pulled = jax.vjp(layer, x, matrix)[1](y)[0]
        return y, tangent, expected, transposed, pulled, jax.vmap(layer, (0, None))(jnp.stack([x, 2 * x]), matrix)

    with jax.default_matmul_precision("bfloat16"):
        y, tangent, expected, transposed, pulled, mapped = jax.jit(everything)(x, matrix)
    np.testing.assert_allclose(tangent, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(transposed, pulled, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mapped, jnp.stack([y, 2 * y]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_a_hessian_is_near_the_exact_one_and_symmetric_in_how_it_is_taken(name):
    layer, x, matrix = arrays(name)

    def loss(matrix):
        return jnp.sum(jnp.sin(layer(x, matrix)))

    exact = jax.jit(jax.hessian(loss))(matrix)
    with jax.default_matmul_precision("bfloat16"):
        forward, reverse = jax.jit(lambda m: (jax.hessian(loss)(m), jax.jacrev(jax.grad(loss))(m)))(matrix)
    scale = np.max(np.abs(exact))
    assert 1e-5 * scale < np.max(np.abs(forward - exact)) < 0.05 * scale
    np.testing.assert_allclose(forward, reverse, atol=0.01 * scale)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from dgm_jax import nn

rng = np.random.default_rng(0)
x, k = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 6, 3), (3, 4)))
mesh = jax.make_mesh((2,), ("d",))
jax.config.update("jax_default_matmul_precision", "bfloat16")
loss = lambda layer: lambda x, k: jnp.sum(layer(x, k) ** 2)
derivatives = lambda layer: lambda x, k: (jax.grad(loss(layer), (0, 1))(x, k), jax.jvp(layer, (x, k), (x, k)))
expected = jax.jit(derivatives(nn.product))(x, k)
put = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
for layer in (nn.product, jax.shard_map(nn.product, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))):
    found = jax.jit(derivatives(layer))(put(x, P("d")), put(k, P()))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    print("ok")
"""


def test_sharded_factors_are_rounded_too():
    (out,) = children.outputs(children.start(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert out.split() == ["ok", "ok"]
