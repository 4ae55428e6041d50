"""Multipliers, the blocking of gradients, and the compensation as an optax transformation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import golden

from dgm_jax import nn


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
def test_golden_reserving_and_protecting(variant, dtype):
    data = golden.load(f"protect_{variant}")
    layers = range(1, int(data["n_layers"]) + 1)

    @jax.jit
    def end_task(embeddings, reserved, kernels):
        binary = jax.tree.map(nn.binarise, embeddings)
        before = jax.tree.map(lambda old, new: nn.expand(old, jnp.zeros_like(new)), reserved, binary)
        after = jax.tree.map(nn.reserve, before, binary)
        return binary, before, after, nn.multipliers(after, kernels)

    reserved = [np.zeros_like(data["task0"][f"embedding{layer}"], bool) for layer in layers]
    for t in range(int(data["n_tasks"])):
        task = data[f"task{t}"]
        embeddings = [task[f"embedding{layer}"].astype(dtype) for layer in layers]
        kernels = [np.zeros(task[f"multiplier{layer}"].shape, dtype) for layer in layers]
        binary, before, reserved, factors = end_task(embeddings, reserved, kernels)
        assert [mask.shape[-1] for mask in binary] == task["widths"].tolist()
        newly = [np.sum(new) - np.sum(old) for new, old in zip(reserved, before)]
        np.testing.assert_array_equal(newly, task["newly_reserved"])
        for i, layer in enumerate(layers):
            np.testing.assert_array_equal(binary[i], task[f"binary{layer}"])
            np.testing.assert_array_equal(before[i], task[f"reserved_before{layer}"])
            np.testing.assert_array_equal(reserved[i], task[f"reserved_after{layer}"])
            assert factors[i].dtype == dtype
            np.testing.assert_array_equal(np.broadcast_to(factors[i], kernels[i].shape), task[f"multiplier{layer}"])
        if variant == "dgma":
            kernels = [np.zeros(task[f"multiplier_dense{layer}"].shape, dtype) for layer in (1, 2)]
            for layer, kernel, factor in zip((1, 2), kernels, jax.jit(nn.multipliers)(reserved[:2], kernels)):
                np.testing.assert_array_equal(np.broadcast_to(factor, kernel.shape), task[f"multiplier_dense{layer}"])


@pytest.mark.parametrize("window", [(), (3, 3)])
@pytest.mark.parametrize("widths", [(4,), (5, 3), (7, 1, 6, 2)])
def test_multipliers_of_units_block_weights_with_both_ends_reserved(widths, window):
    rng = np.random.default_rng(0)
    reserved = [rng.random(width) < 0.5 for width in widths]
    kernels = [np.zeros((*window, c_in, c_out), np.float32) for c_in, c_out in zip((2, *widths[:-1]), widths)]
    factors = nn.multipliers([jnp.asarray(r) for r in reserved], kernels)
    below = np.ones(2, bool)
    for factor, mask, kernel in zip(factors, reserved, kernels, strict=True):
        assert factor.ndim == kernel.ndim
        expected = np.broadcast_to(1.0 - np.outer(below, mask), kernel.shape)
        np.testing.assert_array_equal(np.broadcast_to(factor, kernel.shape), expected)
        below = mask


@pytest.mark.parametrize("window", [(), (3, 3)])
def test_multipliers_of_weights_are_one_minus_reserved(window):
    rng = np.random.default_rng(1)
    shapes = [(*window, 2, 4), (*window, 4, 3)]
    reserved = [rng.random(shape) < 0.5 for shape in shapes]
    factors = nn.multipliers([jnp.asarray(r) for r in reserved], [np.zeros(shape, np.float32) for shape in shapes])
    for factor, mask in zip(factors, reserved, strict=True):
        np.testing.assert_array_equal(factor, 1.0 - mask)


def test_multipliers_refuse_masks_that_do_not_fit():
    text = "a reserved mask of shape (5,) does not fit a kernel of shape (3, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.multipliers([jnp.ones(5, bool)], [jnp.ones((3, 4))])
    text = "a reserved mask of shape (4,) does not fit a kernel of shape (6, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.multipliers([jnp.ones(3, bool), jnp.ones(4, bool)], [jnp.ones((2, 3)), jnp.ones((6, 4))])
    text = "a reserved mask of shape (2, 4) does not fit a kernel of shape (3, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.multipliers([jnp.ones((2, 4), bool)], [jnp.ones((3, 4))])


@pytest.mark.parametrize("variant", ["units", "weights"])
@pytest.mark.parametrize("window", [(), (3, 3)])
def test_protected_weights_do_not_move_one_bit(variant, window):
    """A hundred steps of Adam on random gradients: the reserved weights stand still and every other one moves."""
    rng = np.random.default_rng(2)
    shapes = [(*window, 5, 8), (*window, 8, 6)]
    kernels = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    reserved = [jnp.asarray(rng.random(s if variant == "weights" else s[-1]) < 0.5) for s in shapes]
    factors = nn.multipliers(reserved, kernels)
    params = {"layers": kernels, "head": {"kernel": jnp.ones((6, 3)), "bias": jnp.zeros(3)}}
    optimiser = optax.chain(nn.protect(), optax.adam(1e-2, b1=0.5))

    @jax.jit
    def step(carry, gradients):
        params, state = carry
        extra = {"multipliers": {"layers": factors, "head": None}}
        updates, state = optimiser.update(gradients, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(100, *p.shape)), jnp.float32), params)
    (after, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), gradients)

    for old, new, factor in zip(kernels, after["layers"], factors, strict=True):
        blocked = np.broadcast_to(factor == 0, old.shape)
        assert 0 < blocked.sum() < blocked.size
        np.testing.assert_array_equal(np.asarray(old)[blocked], np.asarray(new)[blocked])
        assert np.all(np.asarray(old)[~blocked] != np.asarray(new)[~blocked])
    assert np.all(after["head"]["kernel"] != params["head"]["kernel"])
    assert np.all(after["head"]["bias"] != params["head"]["bias"])


def test_none_stands_for_a_subtree_that_is_not_protected():
    gradients = {"a": {"x": jnp.array([1.0, 2.0]), "y": (jnp.ones(2), jnp.ones(3))}, "b": jnp.array([3.0, 4.0])}
    transform = nn.protect()
    state = transform.init(gradients)
    untouched, _ = transform.update(gradients, state, multipliers=None)
    jax.tree.map(np.testing.assert_array_equal, untouched, gradients)
    mixed = {"a": {"x": jnp.array([0.0, 1.0]), "y": None}, "b": jnp.array([1.0, 0.0])}
    blocked, _ = transform.update(gradients, state, multipliers=mixed)
    expected = {"a": {"x": np.array([0.0, 2.0]), "y": gradients["a"]["y"]}, "b": np.array([3.0, 0.0])}
    jax.tree.map(np.testing.assert_array_equal, blocked, expected)


def test_protecting_after_adam_started_needs_a_fresh_state():
    """What the module's first sentence warns of: an old moment moves a weight whose gradient is blocked."""
    kernel, mask = jnp.ones((1, 2)), jnp.array([[0.0, 1.0]])
    optimiser = optax.chain(nn.protect(), optax.adam(1e-2))
    state = optimiser.init(kernel)
    _, stale = optimiser.update(jnp.ones((1, 2)), state, multipliers=jnp.ones((1, 2)))
    leaked, _ = optimiser.update(jnp.ones((1, 2)), stale, multipliers=mask)
    fresh, _ = optimiser.update(jnp.ones((1, 2)), state, multipliers=mask)
    assert leaked[0, 0] != 0
    assert fresh[0, 0] == 0 and fresh[0, 1] != 0


def test_compensate_handles_trees_and_masks(float64):
    """Beside other parameters the embeddings are selected by `optax.masked`."""
    rng = np.random.default_rng(3)
    params = {"embeddings": [jnp.asarray(rng.normal(size=n)) for n in (3, 5)], "kernel": jnp.ones((2, 2))}
    gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    transform = optax.masked(nn.compensate(), {"embeddings": True, "kernel": False})
    updates, _ = transform.update(gradients, transform.init(params), params, scale=2.0, epoch_scale=8.0)
    np.testing.assert_array_equal(updates["kernel"], gradients["kernel"])
    for update, g, e in zip(updates["embeddings"], gradients["embeddings"], params["embeddings"], strict=True):
        expected = g * (8.0 / 2.0) * (np.cosh(np.clip(2.0 * e, -50, 50)) + 1) / (np.cosh(e) + 1)
        np.testing.assert_allclose(update, expected, rtol=1e-12)


def test_compensate_needs_the_embeddings():
    transform = nn.compensate()
    text = "compensate needs the embeddings: call update(gradients, state, params, ...)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        transform.update(jnp.ones(3), transform.init(jnp.ones(3)), scale=1.0, epoch_scale=1.0)


# ---- two branches that meet ----

BLOCK = [(nn.INPUT, 0), (0, 1), (1, 2), (0, 2)]


def test_where_branches_meet_a_weight_is_blocked_by_its_own_ends():
    rng = np.random.default_rng(0)
    widths = [4, 5, 3]
    channels = {nn.INPUT: 6} | dict(enumerate(widths))
    kernels = [np.zeros((2, 2, channels[a], channels[b]), np.float32) for a, b in BLOCK]
    units = [rng.random(w) < 0.5 for w in widths]
    for (a, b), factor, kernel in zip(BLOCK, nn.multipliers(units, kernels, BLOCK), kernels, strict=True):
        below = np.ones(6, bool) if a == nn.INPUT else units[a]
        expected = np.broadcast_to(~(below[:, None] & units[b]), kernel.shape)
        np.testing.assert_array_equal(np.broadcast_to(factor, kernel.shape), expected)
    weights = [rng.random(kernel.shape) < 0.5 for kernel in kernels]
    for factor, mask in zip(nn.multipliers(weights, kernels, BLOCK), weights, strict=True):
        np.testing.assert_array_equal(factor, ~mask)


def test_masks_must_be_as_many_as_layers_or_kernels():
    kernels = [np.zeros((3, 3)) for _ in BLOCK]
    with pytest.raises(ValueError, match="4 reserved masks; expected 3, one per layer"):
        nn.multipliers([jnp.ones(3, bool)] * 4, kernels, BLOCK)
    with pytest.raises(ValueError, match="3 reserved masks; expected 4, one per kernel"):
        nn.multipliers([jnp.ones((3, 3), bool)] * 3, kernels, BLOCK)
