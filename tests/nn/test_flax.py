"""Masked layers for Flax equal those of Flax where all gates are open; what gates do; what is refused."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from support.arrays import normal

from dgm_jax import nn
from dgm_jax.nn.flax import linen as masked_linen
from dgm_jax.nn.flax.nnx import Gate, MaskedConv, MaskedConvTranspose, MaskedLinear, not_gates


def test_the_functions_of_the_package_need_no_flax():
    code = "import sys; from dgm_jax import nn; assert 'flax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


PAIRS = {
    "conv": (MaskedConv, nnx.Conv, masked_linen.MaskedConv, linen.Conv),
    "conv_transpose": (MaskedConvTranspose, nnx.ConvTranspose, masked_linen.MaskedConvTranspose, linen.ConvTranspose),
}
GEOMETRIES = [
    ((3,), 1, "SAME"),
    ((3, 4), (2, 1), "SAME"),
    ((3, 4), 2, "VALID"),
    ((4, 4), (2, 2), 1),
    ((2, 3), 1, [(1, 0), (2, 1)]),
    ((1, 4), (3, 2), 1),
]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("window", "strides", "padding"), GEOMETRIES)
def test_convolutions_with_open_gates_are_those_of_flax(name, window, strides, padding):
    ours, theirs, ours_of_linen, theirs_of_linen = PAIRS[name]
    if name == "conv_transpose" and isinstance(padding, list):
        padding = [(1, 0), (2, 1)]
    x = normal(2, *(7, 6)[: len(window)], 3)
    layer = theirs(3, 5, window, strides, padding=padding, use_bias=False, rngs=nnx.Rngs(0))
    expected = layer(x)
    gated = ours(3, 5, window, strides, padding=padding, rngs=nnx.Rngs(1))
    assert gated.kernel.shape == layer.kernel.shape
    gated.kernel[...] = layer.kernel[...]
    np.testing.assert_allclose(gated(x, slope=None), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gated(x[0], slope=None), expected[0], rtol=1e-5, atol=1e-5)  # Without a batch.

    strides = (strides,) * len(window) if isinstance(strides, int) else strides
    module = theirs_of_linen(5, window, strides, padding=padding, use_bias=False)
    variables = module.init(jax.random.key(0), x)
    gated = ours_of_linen(5, window, strides, padding=padding, gates="weights")
    own = gated.init(jax.random.key(1), x, slope=None)
    kernel = variables["params"]["kernel"]
    assert jax.tree.map(jnp.shape, own) == {
        "params": {"kernel": kernel.shape, "gate": kernel.shape},
        "reserved": {"mask": kernel.shape},
    }
    found = gated.apply({"params": {"kernel": kernel, "gate": own["params"]["gate"]}}, x, slope=None)
    np.testing.assert_allclose(found, module.apply(variables, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_dense_layers_with_open_gates_are_those_of_flax(dtype):
    x = normal(2, 4, 3)
    layer = nnx.Linear(3, 5, use_bias=False, dtype=dtype, rngs=nnx.Rngs(0))
    gated = MaskedLinear(3, 5, dtype=dtype, rngs=nnx.Rngs(0))  # From the same random numbers.
    np.testing.assert_array_equal(gated.kernel[...], layer.kernel[...])
    expected, found = layer(x), gated(x, slope=None)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=1e-2 if dtype else 1e-6)
    assert gated(x, slope=jnp.float32(3.0)).dtype == expected.dtype  # Gates do not promote.

    module = masked_linen.MaskedDense(5, dtype=dtype)
    variables = {"params": {"kernel": layer.kernel[...], "gate": jnp.zeros(5)}}
    np.testing.assert_array_equal(module.apply(variables, x, slope=None), found)


def test_precision_is_that_of_the_product():
    x, layer = normal(4, 64), MaskedLinear(64, 5, precision="bfloat16", rngs=nnx.Rngs(0))
    with jax.default_matmul_precision("bfloat16"):
        expected = nn.masked_dense({"kernel": layer.kernel[...]}, x)
    np.testing.assert_array_equal(layer(x, slope=None), expected)
    layer.precision = jax.lax.Precision.HIGHEST
    assert np.any(layer(x, slope=None) != expected)


@pytest.mark.parametrize("gates", ["units", "weights"])
def test_gates_are_those_of_the_slope(gates):
    x, layer = normal(4, 3), MaskedLinear(3, 5, gates=gates, rngs=nnx.Rngs(0))
    layer.gate[...] = normal(*layer.gate.shape)
    for slope in (None, 2.0):
        mask = nn.binarise(layer.gate[...]) if slope is None else nn.gate(layer.gate[...], slope, epoch_scale=slope)
        expected = nn.masked_dense({"kernel": layer.kernel[...]}, x, mask)
        np.testing.assert_array_equal(layer(x, slope=slope), expected)
    second = MaskedLinear(5, 5, rngs=nnx.Rngs(0))
    try:
        found = nnx.Sequential(layer, second)(x, slope=2.0)  # Some versions of Flax pass it to the first layer only.
    except TypeError as error:
        assert "slope" in str(error)
    else:
        np.testing.assert_array_equal(found, second(layer(x, slope=2.0), slope=2.0))


def test_gates_of_units_come_after_a_norm():
    x, layer, norm = normal(8, 3), MaskedLinear(3, 5, rngs=nnx.Rngs(0)), nnx.BatchNorm(5, rngs=nnx.Rngs(0))
    norm.bias[...] = jnp.ones(5)
    layer.gate[...] = jnp.array([1.0, -1.0, -jnp.inf, 0.0, -0.5])
    for slope in (None, 1e4):
        y = layer(x, slope=slope, then=lambda y: nnx.relu(norm(y)))
        np.testing.assert_array_equal(y[:, jnp.array([1, 2, 4])], 0)
        assert np.all(np.any(y[:, jnp.array([0, 3])] > 0, axis=0))
    with pytest.raises(ValueError, match="^`then` turned 5 units into 1; expected a function that keeps the last axis"):
        layer(x, slope=None, then=lambda y: y.sum(1, keepdims=True))


def test_embeddings_have_gradients():
    layer = MaskedLinear(3, 5, rngs=nnx.Rngs(0))
    grads = nnx.grad(lambda layer: jnp.sum(layer(normal(4, 3), slope=50.0) ** 2))(layer)
    assert isinstance(grads["gate"], Gate) and np.all(grads["gate"][...] != 0)
    assert {path for path, _ in nnx.to_flat_state(grads)} == {("kernel",), ("gate",)}


def test_weight_decay_can_leave_gates_out():
    layer = MaskedLinear(3, 5, rngs=nnx.Rngs(0))
    layer.gate[...] = jnp.array([1.0, -1.0, -jnp.inf, jnp.inf, 0.0])
    variables = {"params": {"layer": {"kernel": layer.kernel[...], "gate": layer.gate[...]}}}
    tx = optax.adamw(1e-3, weight_decay=0.1, mask=not_gates)
    optimiser, kernel, gate = nnx.Optimizer(layer, tx, wrt=nnx.Param), layer.kernel[...], layer.gate[...]
    optimiser.update(layer, nnx.grad(lambda layer: 0.0 * layer.kernel[...].sum())(layer))
    np.testing.assert_array_equal(layer.gate[...], gate)
    assert np.all(layer.kernel[...] != kernel)
    zero = jax.tree.map(jnp.zeros_like, variables)
    updates, _ = tx.update(zero, tx.init(variables), variables)
    assert np.all(updates["params"]["layer"]["gate"] == 0) and np.all(updates["params"]["layer"]["kernel"] != 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"use_bias": True}, "use_bias=True, but a masked layer has no bias: no gate would protect it"),
        ({"gates": "unit"}, "gates='unit'; expected 'units' or 'weights'"),
    ],
)
def test_what_a_layer_cannot_be_is_refused(arguments, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        MaskedLinear(3, 5, **arguments, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        masked_linen.MaskedDense(5, **arguments).init(jax.random.key(0), jnp.ones((2, 3)), slope=None)
    with pytest.raises(ValueError, match="expected one precision for both factors$"):
        MaskedLinear(3, 5, precision=("highest", "default"), rngs=nnx.Rngs(0))(jnp.ones((2, 3)), slope=None)


def test_a_window_may_be_a_number_of_numpy():
    assert MaskedConv(3, 5, np.int64(4), rngs=nnx.Rngs(0)).kernel_size == (4,)
