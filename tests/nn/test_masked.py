"""Masked layers: parity with the golden files, closed gates, padding."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import golden

from dgm_jax import nn

GOLDEN_LAYERS = {
    "masked_dense": nn.masked_dense,
    "masked_conv_3x3_s1p1": nn.masked_conv,
    "masked_conv_5x5_s2p2": nn.masked_conv,
    "masked_conv_5x5_s2p2_rect": nn.masked_conv,
    "masked_conv_transpose_s1p0": nn.masked_conv_transpose,
    "masked_conv_transpose_s1p0_rect": nn.masked_conv_transpose,
    "masked_conv_transpose_s2p1": nn.masked_conv_transpose,
    "masked_conv_transpose_s2p1_rect": nn.masked_conv_transpose,
}
# Name: the layer, its geometry, the window of its kernel and the shape of a map that it takes (less the channels).
LAYERS = {
    "dense": (nn.masked_dense, {}, (), (3,)),
    "conv": (nn.masked_conv, {"stride": 2, "padding": 1}, (2, 2), (3, 6, 5)),
    "conv_transpose": (nn.masked_conv_transpose, {"stride": 1, "padding": 0}, (2, 2), (3, 2, 3)),
}
VARIANTS = ["dgma", "dgmw"]
layers = pytest.mark.parametrize("kind", LAYERS)
variants = pytest.mark.parametrize("variant", VARIANTS)


@pytest.mark.parametrize("name", GOLDEN_LAYERS)
def test_golden(name, dtype):
    data = golden.load(name)
    layer = GOLDEN_LAYERS[name]
    geometry = {key: int(data[key]) for key in ("stride", "padding") if key in data}
    x, w, gate, r = (jnp.asarray(data[key], dtype) for key in ("x", "w", "gate", "r"))

    @jax.jit
    def everything(x, w, gate):
        def loss(x, w, gate):
            y = layer({"kernel": w}, x, gate, **geometry)
            return jnp.sum(y * r), y

        gradients, y = jax.grad(loss, (0, 1, 2), has_aux=True)(x, w, gate)
        return y, layer({"kernel": w}, x, **geometry), gradients

    y, ungated, gradients = everything(x, w, gate)
    golden.assert_close(y, data["y"], dtype)
    golden.assert_close(ungated, data["y_ungated"], dtype)
    for key, gradient in zip(("grad_x", "grad_w", "grad_gate"), gradients, strict=True):
        golden.assert_close(gradient, data[key], dtype, gradient=True, err_msg=key)


def random_layer(kind, c_in, c_out, seed=0):
    layer, geometry, window, shape = LAYERS[kind]
    rng = np.random.default_rng(seed)
    kernel, x = rng.normal(size=(*window, c_in, c_out)), rng.normal(size=(*shape, c_in))
    return layer, geometry, jnp.asarray(kernel), jnp.asarray(x)


@layers
def test_a_gate_of_units_equals_a_gate_of_all_their_weights(kind, float64):
    layer, geometry, kernel, x = random_layer(kind, 4, 5)
    gate = jnp.asarray(np.random.default_rng(1).random(5))
    units = layer({"kernel": kernel}, x, gate, **geometry)
    spread = jnp.broadcast_to(jnp.expand_dims(gate, range(kernel.ndim - 1)), kernel.shape)
    np.testing.assert_allclose(units, layer({"kernel": kernel}, x, spread, **geometry), rtol=1e-12, atol=1e-14)
    ungated = layer({"kernel": kernel}, x, **geometry)
    np.testing.assert_array_equal(units, nn.gate_units(ungated, gate))


@layers
@variants
def test_binary_masks_may_be_bool(kind, variant):
    layer, geometry, kernel, x = random_layer(kind, 3, 4)
    mask = jnp.asarray(np.random.default_rng(2).random(kernel.shape if variant == "dgmw" else 4) < 0.5)
    masked = layer({"kernel": kernel}, x, mask, **geometry)
    np.testing.assert_array_equal(masked, layer({"kernel": kernel}, x, mask.astype(x.dtype), **geometry))
    assert masked.dtype == x.dtype


def network(kind):
    """A chain of masked layers with a non-linearity after each, `apply(kernels, gates, x)`."""
    layer, geometry, *_ = LAYERS[kind]

    def apply(kernels, gates, x):
        for kernel, gate in zip(kernels, gates, strict=True):
            if nn.gates_weights(gate):
                x = jnp.tanh(layer({"kernel": kernel}, x, gate, **geometry))
            else:
                x = nn.gate_units(jnp.tanh(layer({"kernel": kernel}, x, **geometry)), gate)
        return x

    return apply


def random_network(kind, variant, widths, seed):
    """Kernels, gates half of which are closed (exactly 0), and an input."""
    _, _, window, shape = LAYERS[kind]
    rng = np.random.default_rng(seed)
    kernels = [rng.normal(size=(*window, a, b)) for a, b in zip(widths, widths[1:])]
    gates = [rng.random(w.shape if variant == "dgmw" else w.shape[-1]) for w in kernels]
    gates = [gate * (rng.permutation(gate.size) % 2).reshape(gate.shape) for gate in gates]
    x = rng.normal(size=(*shape, widths[0]))
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (kernels, gates, x))


@layers
@variants
@pytest.mark.parametrize("widths", [(3, 6, 4), (1, 9, 2)], ids=str)
def test_closed_gates_contribute_exactly_nothing(kind, variant, widths):
    """What is behind a closed gate may be anything, bit for bit, and gets no gradient."""
    kernels, gates, x = random_network(kind, variant, widths, seed=3)
    apply = network(kind)

    @jax.jit
    def output_and_gradients(kernels, x):
        def loss(kernels, x):
            y = apply(kernels, gates, x)
            return jnp.sum(jnp.cos(y)), y

        gradients, y = jax.grad(loss, (0, 1), has_aux=True)(kernels, x)
        return y, gradients

    # Weights behind a closed gate: its own (DGMw); those into a closed unit, and out of one (DGMa).
    behind = []
    below = np.ones(widths[0], bool)
    for kernel, gate in zip(kernels, gates, strict=True):
        open_ = np.asarray(gate) > 0
        behind.append(np.broadcast_to(~open_ if variant == "dgmw" else ~np.outer(below, open_), kernel.shape))
        below = open_
    changed = [jnp.where(b, 7 * k - 3, k) for b, k in zip(behind, kernels, strict=True)]

    y, (gradients, grad_x) = output_and_gradients(kernels, x)
    other, (other_gradients, other_grad_x) = output_and_gradients(changed, x)
    np.testing.assert_array_equal(y, other)
    np.testing.assert_array_equal(grad_x, other_grad_x)
    for gradient, other_gradient, b in zip(gradients, other_gradients, behind, strict=True):
        np.testing.assert_array_equal(gradient, other_gradient)
        assert b.any() and np.all(np.asarray(gradient)[b] == 0)
    if variant == "dgma":
        assert np.all(np.asarray(y)[..., np.asarray(gates[-1]) == 0] == 0)


@layers
@variants
def test_padding_contributes_exactly_nothing(kind, variant, float64):
    """Surplus channels (kernels of 0, embeddings of -inf) emit 0, get no gradient, and stay so under Adam."""
    widths, padded = (3, 5, 2), (3, 8, 4)
    kernels, _, x = jax.tree.map(lambda a: a.astype(jnp.float64), random_network(kind, variant, widths, seed=4))
    rng = np.random.default_rng(5)
    embeddings = [jnp.asarray(rng.normal(size=w.shape if variant == "dgmw" else w.shape[-1])) for w in kernels]
    grown = [(*w.shape[:-2], a, b) for w, a, b in zip(kernels, padded, padded[1:])]
    wide_kernels = [nn.expand(w, jnp.zeros(shape)) for w, shape in zip(kernels, grown)]
    wide_embeddings = [
        nn.expand(e, jnp.full(shape if variant == "dgmw" else shape[-1:], -jnp.inf))
        for e, shape in zip(embeddings, grown)
    ]
    apply = network(kind)
    optimiser = optax.adam(1e-2)

    @jax.jit
    def run(kernels, embeddings, x):
        def loss(params, x):
            gates = [nn.gate(e, 3.0, 5.0) for e in params[1]]
            y = apply(params[0], gates, x)
            return jnp.sum(jnp.sin(y)), y

        params = (kernels, embeddings)
        gradients, y = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        updates, _ = optimiser.update(gradients[0], optimiser.init(params))
        return y, gradients, optax.apply_updates(params, updates)

    y, (gradients, grad_x), after = run(kernels, embeddings, x)
    wide_y, (wide_gradients, wide_grad_x), wide_after = run(wide_kernels, wide_embeddings, x)

    def assert_padded(wide, logical, surplus):
        corner = tuple(slice(0, n) for n in logical.shape)
        np.testing.assert_allclose(wide[corner], logical, rtol=1e-10, atol=1e-12)
        rest = np.array(wide)
        rest[corner] = surplus
        assert np.all(rest == surplus)

    assert_padded(wide_y, y, 0)
    np.testing.assert_allclose(wide_grad_x, grad_x, rtol=1e-10, atol=1e-12)
    jax.tree.map(lambda wide, logical: assert_padded(wide, logical, 0), wide_gradients, gradients)
    for i, surplus in enumerate((0, -np.inf)):
        jax.tree.map(lambda wide, logical, s=surplus: assert_padded(wide, logical, s), wide_after[i], after[i])


def test_gate_units():
    x = jnp.asarray(np.random.default_rng(6).normal(size=(2, 3, 4)), jnp.float32)
    assert nn.gate_units(x, None) is x
    gate = jnp.array([0.0, 0.5, 1.0, 0.0])
    gated = np.asarray(nn.gate_units(x, gate))
    np.testing.assert_array_equal(gated, np.asarray(x) * np.asarray(gate))
    assert np.all(gated[..., [0, 3]] == 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_closed_gate_emits_zero_whatever_comes(bad, dtype):
    """And its gradient is what the other entries say, so that it can open again."""
    x = jnp.asarray([[bad, 2.0, bad], [3.0, 5.0, 7.0]], dtype)
    gate = jnp.asarray([0.0, 0.0, 1.0], dtype)
    gated, pull = jax.vjp(nn.gate_units, x, gate)
    np.testing.assert_array_equal(gated, np.array([[0, 0, bad], [0, 0, 7]]))
    by_x, by_gate = pull(jnp.ones_like(gated))
    np.testing.assert_array_equal(by_x, np.array([[0, 0, 1], [0, 0, 1]]))
    np.testing.assert_array_equal(by_gate[:2], [3, 7])  # The sum of x, without what was not finite.

    kernel = jnp.asarray([[bad, 1.0], [2.0, bad]], dtype)
    weights = jnp.asarray([[False, True], [True, False]])
    y = nn.masked_dense({"kernel": kernel}, jnp.asarray([[10.0, 100.0]], dtype), weights)
    np.testing.assert_array_equal(y, [[200, 10]])


def test_the_gradient_of_a_closed_gate_is_that_of_the_product(dtype):
    rng = np.random.default_rng(7)
    x, gradient = (jnp.asarray(rng.normal(size=(4, 5)), dtype) for _ in range(2))
    gate = jnp.asarray([0.0, 0.3, 0.0, 1.0, 0.0], dtype)
    _, pull = jax.vjp(nn.gate_units, x, gate)
    _, pull_product = jax.vjp(lambda x, gate: x * gate[None], x, gate)
    jax.tree.map(np.testing.assert_array_equal, pull(gradient), pull_product(gradient))


@layers
@pytest.mark.parametrize(
    "x_dtype, kernel_dtype", [("bfloat16", "float32"), ("float32", "bfloat16"), ("uint8", "float32")]
)
def test_dtypes_promote_as_jax_does(kind, x_dtype, kernel_dtype):
    """The same eagerly and under `jit`."""
    layer, geometry, kernel, x = random_layer(kind, 3, 4)
    x, kernel = jnp.abs(4 * x).astype(x_dtype), kernel.astype(kernel_dtype)
    expected = layer({"kernel": kernel.astype(jnp.float32)}, x.astype(jnp.float32), **geometry)
    for function in (layer, jax.jit(layer, static_argnames=tuple(geometry))):
        y = function({"kernel": kernel}, x, **geometry)
        assert y.dtype == jnp.result_type(x, kernel) == jnp.float32
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_gates_promote_as_products_do():
    half, whole = jnp.ones((2, 3), jnp.float16), jnp.ones((2, 3), jnp.int32)
    gate = jnp.array([0.5, 0.25, 0.0])
    for x in (half, whole):
        y = nn.gate_units(x, gate)
        assert y.dtype == jnp.result_type(x, gate) == jnp.float32
        np.testing.assert_array_equal(y, [[0.5, 0.25, 0]] * 2)
    y = nn.masked_dense({"kernel": jnp.full((3, 3), 3, jnp.int8)}, jnp.ones((1, 3)), jnp.full((3, 3), 0.5))
    np.testing.assert_array_equal(y, [[4.5] * 3])
    # A gate that float16 cannot hold is not closed.
    assert nn.gate_units(jnp.array([[jnp.inf]], jnp.float16), jnp.array([1e-10])) == jnp.inf
    assert nn.gate_units(half, gate.astype(bool)).dtype == jnp.float16
    with jax.numpy_dtype_promotion("strict"):
        np.testing.assert_array_equal(nn.gate_units(half, gate.astype(bool))[0], [1, 1, 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_compensated_gate_of_any_dtype_has_a_gradient(dtype):
    def total(e):
        return nn.gate(e, jnp.float32(1), jnp.float32(1)).astype(jnp.float32).sum()

    for gradient in (jax.grad(total), jax.jit(jax.grad(total))):
        found = gradient(jnp.zeros(3, dtype))
        assert found.dtype == dtype and np.all(found == 0.25)


def test_gates_weights():
    assert not nn.gates_weights(jnp.ones(4))
    assert nn.gates_weights(jnp.ones((4, 3)))
    assert nn.gates_weights(jnp.ones((3, 3, 4, 2)))


@layers
def test_a_gate_of_neither_shape_is_refused(kind):
    layer, geometry, kernel, x = random_layer(kind, 3, 4)
    for shape in ((3,), (1,), (*kernel.shape[:-1], 1)):
        text = f"gate has shape {shape}; expected {kernel.shape} to gate the weights (DGMw) or (4,) "
        text += "to gate the units (DGMa)"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            layer({"kernel": kernel}, x, jnp.ones(shape), **geometry)


@pytest.mark.parametrize("layer", [nn.masked_conv, nn.masked_conv_transpose])
def test_a_map_that_does_not_fit_is_refused(layer):
    text = "x has shape (2, 4, 4, 5) and kernel (3, 3, 2, 3); "
    text += (
        "expected [batch, *space, c_in] and [*window, c_in, c_out], with as many axes of window as of space (1 to 3)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        layer({"kernel": jnp.ones((3, 3, 2, 3))}, jnp.ones((2, 4, 4, 5)), stride=1, padding=1)
