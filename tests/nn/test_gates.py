"""Gates, their two gradients, annealing and sparsity: against the golden files and a float64 NumPy oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import golden

from dgm_jax import nn
from dgm_jax.nn.gates import sigmoid_slope

SPARSITY_FILES = ["sparsity_dgma_first", "sparsity_dgma_later", "sparsity_dgmw_first", "sparsity_dgmw_later"]
SCALES = [1e-5, 0.3, 1.0, 40.0, 1e5]


@jax.jit
def plain_gradient(e, s, weight):
    """The derivative of `sum(weight * gate)`, as automatic differentiation has it."""
    return jax.grad(lambda e: jnp.sum(weight * nn.gate(e, s)))(e)


@jax.jit
def closed_gradient(e, s, epoch_scale, weight):
    """The same with the compensated derivative in closed form."""
    return jax.grad(lambda e: jnp.sum(weight * nn.gate(e, s, epoch_scale)))(e)


@jax.jit
def product_gradient(e, s, epoch_scale, weight):
    """The same with the plain derivative, compensated afterwards."""
    transform = nn.compensate()
    extra = {"scale": s, "epoch_scale": epoch_scale}
    return transform.update(plain_gradient(e, s, weight), transform.init(e), e, **extra)[0]


def numpy_slope(x):
    """sigmoid' in float64, accurate on both sides."""
    q = np.exp(-np.abs(np.asarray(x, np.float64)))
    return q / (1 + q) ** 2


def pairs(data, dtype):
    """The rows of gates_gradients: index, embeddings, slope, epoch slope, weights, all in `dtype`."""
    e, weight = jnp.asarray(data["e"], dtype), jnp.asarray(data["g"], dtype)
    for i, (s, epoch_scale) in enumerate(zip(data["s"], data["S"], strict=True)):
        yield i, e, jnp.asarray(s, dtype), jnp.asarray(epoch_scale, dtype), weight


def test_golden_masks(dtype):
    data = golden.load("gates_gradients")
    rtol, atol = (1e-9, 1e-300) if dtype == np.float64 else (0, 1e-6)
    for i, e, s, epoch_scale, _ in pairs(data, dtype):
        for mask in (nn.gate(e, s), nn.gate(e, s, epoch_scale), jax.jit(nn.gate)(e, s, epoch_scale)):
            assert mask.dtype == dtype
            np.testing.assert_allclose(mask, data["mask"][i], rtol=rtol, atol=atol)


def test_golden_closed_form(dtype):
    data = golden.load("gates_gradients")
    rtol, atol = (1e-9, 1e-300) if dtype == np.float64 else (1e-5, 1e-30)
    for i, *arguments in pairs(data, dtype):
        gradient = closed_gradient(*arguments)
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, data["grad_closed"][i], rtol=rtol, atol=atol)
        with jax.disable_jit():
            np.testing.assert_allclose(closed_gradient(*arguments), gradient, rtol=rtol, atol=atol)


def test_golden_plain_and_product_form(float64):
    data = golden.load("gates_gradients")
    for i, e, s, epoch_scale, weight in pairs(data, np.float64):
        accurate = data["e"] * data["s"][i] <= 12  # Beyond, `1 - m` has lost the digits that 1e-9 needs.
        plain = plain_gradient(e, s, weight)
        product = product_gradient(e, s, epoch_scale, weight)
        for actual, name in [
            (plain, "grad_plain"),
            (product, "grad_compensated_autodiff"),
            (product, "grad_compensated"),
        ]:
            golden.assert_close(actual[accurate], data[name][i][accurate], np.float64, err_msg=f"{name}, pair {i}")


def test_golden_forms_agree_within_the_clip(float64):
    data = golden.load("gates_gradients")
    for i, *arguments in pairs(data, np.float64):
        here = data["within_clip"][i] & (data["e"] * data["s"][i] <= 12)
        golden.assert_close(product_gradient(*arguments)[here], closed_gradient(*arguments)[here], np.float64)


def test_golden_schedules(dtype):
    data = golden.load("gates_schedules")
    for k in range(int(data["n_settings"])):
        setting = data[f"setting{k}"]
        epochs, batches, s_max = int(setting["epochs"]), int(setting["batches"]), float(setting["s_max"])
        for form, first in (("standard", 0), ("imagenet", 1)):
            expected = setting[form]
            epoch_scale = nn.annealed_scale(jnp.arange(epochs, dtype=dtype) + first, epochs, s_max)
            golden.assert_close(epoch_scale, expected["S"], dtype)
            dgma = jnp.broadcast_to(epoch_scale[:, None], (epochs, batches))
            golden.assert_close(dgma, expected["s_dgma"], dtype)
            steps = jnp.arange(batches, dtype=dtype)[None]
            dgmw = nn.annealed_scale(steps, batches, epoch_scale[:, None])
            golden.assert_close(dgmw, expected["s_dgmw"], dtype)


@pytest.mark.parametrize("name", SPARSITY_FILES)
def test_golden_sparsity(name, dtype):
    data = golden.load(name)
    layers = range(1, int(data["n_layers"]) + 1)
    masks = [jnp.asarray(data[f"mask{layer}"], dtype) for layer in layers]
    reserved = [data[f"reserved{layer}"] for layer in layers]
    weight = float(data["lambda_R"]) * int(data["size_t"]) / int(data["size_0"])

    golden.assert_close(jax.jit(nn.sparsity)(masks, reserved), data["R"], dtype)
    for kind in (dtype, bool):
        cumulative = [r.astype(kind) for r in reserved]
        loss, gradients = jax.jit(jax.value_and_grad(lambda m, r: weight * nn.sparsity(m, r)))(masks, cumulative)
        golden.assert_close(loss, data["loss"], dtype)
        for layer, gradient in zip(layers, gradients, strict=True):
            golden.assert_close(gradient, data[f"grad_mask{layer}"], dtype, gradient=True)


@pytest.mark.parametrize("s", SCALES)
@pytest.mark.parametrize("epoch_scale", [1e-5, 2.0, 1e5])
def test_closed_form_is_accurate_on_both_sides(s, epoch_scale, dtype):
    e = np.concatenate([np.linspace(-60, 60, 241), [0.0, -1e-7, 1e-7]]).astype(dtype)
    weight = np.random.default_rng(0).normal(size=e.shape).astype(dtype)
    expected = weight.astype(np.float64) * epoch_scale * numpy_slope(e)
    gradient = closed_gradient(jnp.asarray(e), s, epoch_scale, jnp.asarray(weight))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12 if dtype == np.float64 else 1e-5, atol=1e-35)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_only_the_closed_form_reaches_a_saturated_gate_in_float32(side):
    e = jnp.float32(side * 0.5)
    s, epoch_scale = 1e4, 1e4
    closed = closed_gradient(e, s, epoch_scale, 1.0)
    np.testing.assert_allclose(closed, epoch_scale * numpy_slope(0.5), rtol=1e-5)
    assert product_gradient(e, s, epoch_scale, 1.0) == 0  # Both the plain gradient and `1 - m` are 0.


@pytest.mark.parametrize("s", [0.01, 1.0, 30.0])
def test_product_form_agrees_with_the_closed_form_in_float64(s, float64):
    e = jnp.linspace(-50 / s, 12 / s, 200).clip(-50, 50)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=200))
    closed = closed_gradient(e, s, 7.0, weight)
    np.testing.assert_allclose(product_gradient(e, s, 7.0, weight), closed, rtol=1e-9)


def test_product_form_dies_away_beyond_the_clip(float64):
    e, s = jnp.array([-1.0, -2.0, -4.0]), 100.0
    ratio = product_gradient(e, s, 3.0, 1.0) / closed_gradient(e, s, 3.0, 1.0)
    np.testing.assert_allclose(ratio, np.exp(50.0 + np.asarray(s * e)), rtol=1e-9)
    wider = nn.compensate(clip=500.0)
    plain = plain_gradient(e, s, 1.0)
    mended, _ = wider.update(plain, wider.init(e), e, scale=s, epoch_scale=3.0)
    np.testing.assert_allclose(mended, closed_gradient(e, s, 3.0, 1.0), rtol=1e-9)


@pytest.mark.parametrize("epoch_scale", [None, 3.0])
def test_gates_under_vmap_and_scan(epoch_scale, float64):
    e = jnp.asarray(np.random.default_rng(2).normal(size=(5, 4)))
    scales = jnp.array([0.1, 1.0, 3.0, 10.0, 100.0])

    def gradient(e, s):
        return jax.grad(lambda e: jnp.sum(nn.gate(e, s, epoch_scale) ** 2))(e)

    expected = np.stack([gradient(row, s) for row, s in zip(e, scales)])
    np.testing.assert_allclose(jax.vmap(gradient)(e, scales), expected, rtol=1e-12)
    _, scanned = jax.lax.scan(lambda c, row: (c, gradient(*row)), None, (e, scales))
    np.testing.assert_allclose(scanned, expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (7,), (3, 3, 2, 4)])
@pytest.mark.parametrize("s", SCALES)
def test_an_embedding_of_minus_infinity_is_closed_for_good(s, shape, dtype):
    """Its value is 0 and so are its gradients, in both forms, and Adam leaves it where it is."""
    e = jnp.full(shape, -jnp.inf, dtype)
    for epoch_scale in (None, 2.0):
        assert np.all(np.asarray(nn.gate(e, s, epoch_scale)) == 0)
    for gradient in (plain_gradient(e, s, 1.0), closed_gradient(e, s, 2.0, 1.0), product_gradient(e, s, 2.0, 1.0)):
        assert np.all(np.asarray(gradient) == 0)
    assert not nn.binarise(e).any()


@pytest.mark.parametrize("form", ["closed", "product"])
def test_training_leaves_minus_infinity_and_moves_its_neighbours(form, dtype):
    e = jnp.asarray([-jnp.inf, 0.3, -jnp.inf, -0.2, 0.0], dtype)
    closed = np.isneginf(np.asarray(e))
    s, epoch_scale = 4.0, 9.0
    compensation = nn.compensate() if form == "product" else optax.with_extra_args_support(optax.identity())
    optimiser = optax.chain(compensation, optax.adam(1e-2))

    @jax.jit
    def step(e, state, weight):
        gate_scale = (s,) if form == "product" else (s, epoch_scale)
        gradient = jax.grad(lambda e: jnp.sum(weight * nn.gate(e, *gate_scale)))(e)
        updates, state = optimiser.update(gradient, state, e, scale=s, epoch_scale=epoch_scale)
        return optax.apply_updates(e, updates), state, gradient

    moved, state = e, optimiser.init(e)
    for weight in np.random.default_rng(3).normal(size=(20, 5)).astype(dtype):
        moved, state, gradient = step(moved, state, weight)
        assert np.all(np.asarray(gradient)[closed] == 0)
    assert np.all(np.isneginf(np.asarray(moved)[closed]))
    assert np.all(np.isfinite(np.asarray(moved)[~closed]))
    assert np.all(np.asarray(moved != e)[~closed])


def test_sigmoid_slope(dtype):
    x = np.array([-np.inf, -800, -90, -20, -1e-3, 0, 1e-3, 20, 90, 800, np.inf], dtype)
    slope = np.asarray(sigmoid_slope(jnp.asarray(x)))
    np.testing.assert_allclose(slope, numpy_slope(x), rtol=1e-12 if dtype == np.float64 else 1e-5, atol=1e-37)
    assert slope[0] == slope[-1] == 0


def test_annealing_runs_from_soft_to_hard():
    assert nn.annealed_scale(0, 10, 400.0) == 1 / 400
    assert nn.annealed_scale(10, 10, 400.0) == 400
    assert np.all(np.diff(nn.annealed_scale(jnp.arange(11), 10, 400.0)) > 0)
    within = nn.annealed_scale(jnp.arange(8), 8, 0.1)  # An epoch whose slope is below 1 anneals backwards.
    assert within[0] == 10 and np.all(np.diff(within) < 0)


def test_binarise_opens_at_zero():
    e = jnp.array([-jnp.inf, -1e-7, -0.0, 0.0, 1e-7])
    binary = nn.binarise(e)
    assert binary.dtype == bool
    assert binary.tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("shape", [(9,), (3, 3, 2, 4)])
def test_reserve_is_the_maximum(shape):
    rng = np.random.default_rng(4)
    a, b = rng.random(shape) < 0.5, rng.random(shape) < 0.5
    union = nn.reserve(jnp.asarray(a), jnp.asarray(b))
    assert union.dtype == bool
    np.testing.assert_array_equal(union, np.maximum(a, b))


@pytest.mark.parametrize("shapes", [[(4,)], [(12,), (6,), (3,)], [(3, 3, 2, 4), (3, 3, 4, 2)]])
def test_sparsity_is_one_ratio_over_all_layers(shapes, float64):
    rng = np.random.default_rng(5)
    masks = [rng.random(shape) for shape in shapes]
    reserved = [rng.random(shape) < 0.4 for shape in shapes]
    opened = sum(m[~r].sum() for m, r in zip(masks, reserved))
    capacity = sum((~r).sum() for r in reserved)
    actual = nn.sparsity([jnp.asarray(m) for m in masks], [jnp.asarray(r) for r in reserved])
    np.testing.assert_allclose(actual, opened / capacity, rtol=1e-12)


def test_sparsity_is_zero_where_nothing_is_free(dtype):
    masks = [jnp.full((4,), 0.7, dtype), jnp.ones((2, 3), dtype)]
    reserved = [jnp.ones((4,), bool), jnp.ones((2, 3), bool)]
    value, gradients = jax.jit(jax.value_and_grad(nn.sparsity))(masks, reserved)
    assert value == 0 and value.dtype == dtype
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_sparsity_needs_a_mask_for_each_layer():
    with pytest.raises(ValueError, match="zip"):
        nn.sparsity([jnp.ones(3)], [])


def test_annealing_over_nothing_is_refused():
    for length in (0, -1, 0.0, np.int32(0), np.array(0), jnp.array(0)):
        with pytest.raises(ValueError, match=f"^length={length}: the slope cannot grow over no epochs"):
            nn.annealed_scale(0, length, 100.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_sparsity_of_half_precision_masks_is_summed_in_float32(dtype, share):
    """More gates than float16 has numbers: it ends at 65,504, and skips odd numbers from 2,048."""
    reserved = jnp.arange(70_001) % 7 == 0
    found = nn.sparsity([jnp.full(70_001, share, dtype)], [reserved])
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, share, rtol=1e-5)
