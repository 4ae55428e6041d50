"""Multipliers, the blocking of gradients, and the compensation as an optax transformation."""

import itertools
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

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
    text = (
        "a kernel of shape (6, 4) reads layer 0, whose reserved mask has shape (3,); expected 3 inputs. If the kernel "
    )
    text += "reads a flattened image, give it as [rows, columns, 3, 4]"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.multipliers([jnp.ones(3, bool), jnp.ones(4, bool)], [jnp.ones((2, 3)), jnp.ones((6, 4))])
    with pytest.raises(ValueError, match="whose reserved mask has shape \\(1,\\); expected 1 inputs"):
        nn.multipliers([jnp.ones(1, bool), jnp.ones(4, bool)], [jnp.ones((2, 1)), jnp.ones((6, 4))])
    text = "a reserved mask of shape (2, 4) does not fit a kernel of shape (3, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.multipliers([jnp.ones((2, 4), bool)], [jnp.ones((3, 4))])


def network(variant, window, seed=2):
    """Kernels, the mask of each one's reserved weights, and parameters that hold them beside an unprotected head."""
    rng = np.random.default_rng(seed)
    shapes = [(*window, 5, 8), (*window, 8, 6)]
    kernels = [jnp.asarray(rng.normal(size=shape), jnp.float32).at[..., 0, 0].set(-0.0) for shape in shapes]
    units = [rng.random(s if variant == "weights" else s[-1]) < 0.5 for s in shapes]
    reserved = nn.reserved_weights([jnp.asarray(u) for u in units], kernels)
    return {"layers": kernels, "head": {"kernel": jnp.ones((6, 3)), "bias": jnp.zeros(3)}}, {"layers": reserved}


def trained(optimiser, params, state=None, steps=12, bad=(0.0,), jit=jax.jit):
    """Parameters and state after some steps; gradients are random, and in turn get an element of `bad` added."""
    rng = np.random.default_rng(5)
    state = optimiser.init(params) if state is None else state
    update = jit(optimiser.update)
    for added in itertools.islice(itertools.cycle(bad), steps):
        noise = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
        gradients = jax.tree.map(lambda n, added=added: jnp.asarray(n + added, jnp.float32), noise)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_only_free_weights_moved(before, after, reserved, *, finite=True):
    for old, new, mask in zip(before["layers"], after["layers"], reserved["layers"], strict=True):
        old, new, mask = np.asarray(old), np.asarray(new), np.broadcast_to(mask, old.shape)
        assert 0 < mask.sum() < mask.size
        np.testing.assert_array_equal(old[mask].view(np.int32), new[mask].view(np.int32))
        assert not finite or np.all(old[~mask] != new[~mask])
    if finite:
        assert np.all(after["head"]["kernel"] != before["head"]["kernel"])


OPTIMISERS = {
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "lamb": lambda: optax.lamb(0.1, weight_decay=0.1),
    "lion": lambda: optax.lion(0.1, weight_decay=0.1),
    "adafactor": lambda: optax.adafactor(0.1),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("variant", ["units", "weights"])
@pytest.mark.parametrize("window", [(), (3, 3)])
def test_no_optimiser_moves_a_reserved_weight(variant, window, optimiser):
    """Neither momentum from before it was reserved, nor decay; and every other weight moves."""
    params, reserved = network(variant, window)
    chained = optax.chain(OPTIMISERS[optimiser](), nn.protect())
    params, state = trained(chained, params, steps=3)  # Nothing is reserved yet, and moments grow.
    after, _ = trained(chained, params, nn.with_reserved(state, reserved))
    assert_only_free_weights_moved(params, after, reserved)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_gradients_that_are_not_finite_move_no_reserved_weight(optimiser, bad):
    params, reserved = network("units", ())
    after, _ = trained(optax.chain(OPTIMISERS[optimiser](), nn.protect(reserved)), params, bad=(0.0, bad))
    assert_only_free_weights_moved(params, after, reserved, finite=False)


def by_part(transformation):
    return optax.multi_transform({"a": transformation, "b": optax.adamw(0.1)}, {"layers": "a", "head": "b"})


WRAPPERS = {
    "multi_transform": by_part,
    "masked": lambda t: optax.chain(optax.masked(t, {"layers": True, "head": False})),
    "MultiSteps": lambda t: optax.MultiSteps(t, 2).gradient_transformation(),
    "apply_if_finite": lambda t: optax.apply_if_finite(t, 3),
    "inject_hyperparams": lambda t: optax.chain(optax.inject_hyperparams(optax.scale)(step_size=0.9), t),
    "all of them": lambda t: optax.apply_if_finite(optax.MultiSteps(by_part(t), 2).gradient_transformation(), 3),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_protection_works_within_other_transformations(wrapper, bad):
    params, reserved = network("weights", ())
    optimiser = WRAPPERS[wrapper](optax.chain(optax.adamw(0.1, weight_decay=0.1), nn.protect(reserved)))
    after, _ = trained(optimiser, params, bad=(0.0, bad))
    for old, new, mask in zip(params["layers"], after["layers"], reserved["layers"], strict=True):
        np.testing.assert_array_equal(np.asarray(old)[mask], np.asarray(new)[mask])  # MultiSteps adds 0.0 to -0.0.


def test_masks_are_exchanged_between_tasks_without_another_trace():
    params, reserved = network("units", ())
    optimiser = optax.apply_if_finite(optax.chain(optax.adamw(0.1), nn.protect(reserved)), 3)
    traces = []

    def update(gradients, state, params):
        traces.append(1)
        return optimiser.update(gradients, state, params)

    compiled = jax.jit(update)
    middle, state = trained(optimiser, params, jit=lambda _: compiled)
    everything = {"layers": [jnp.ones((1, 1), bool)] * 2}
    exchanged = nn.with_reserved(state, everything)
    jax.tree.map(np.testing.assert_array_equal, exchanged.inner_state[0], state.inner_state[0])  # The moments stay.
    after, _ = trained(optimiser, middle, exchanged, jit=lambda _: compiled)
    jax.tree.map(np.testing.assert_array_equal, middle["layers"], after["layers"])
    assert np.all(middle["head"]["kernel"] != after["head"]["kernel"]) and len(traces) == 1


def test_masks_given_at_a_call_serve_that_call():
    params, reserved = network("units", ())
    optimiser = nn.protect(reserved)
    state, ones = optimiser.init(params), jax.tree.map(jnp.ones_like, params)
    updates, after = optimiser.update(ones, state, params, reserved={"head": {"kernel": True}})
    np.testing.assert_array_equal(updates["head"]["kernel"], np.zeros((6, 3)))
    jax.tree.map(np.testing.assert_array_equal, updates["layers"], ones["layers"])
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_parameters_are_found_by_name_in_any_structure():
    """In Flax's train states and modules, too; a mask in place of a subtree serves all of it."""
    from flax import nnx
    from flax.training.train_state import TrainState

    params, reserved = network("units", ())
    state = TrainState.create(
        apply_fn=None, params=params, tx=optax.chain(optax.adamw(0.1), nn.protect({"layers": True}))
    )
    for _ in range(3):
        state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, params))
    jax.tree.map(np.testing.assert_array_equal, state.params["layers"], params["layers"])
    assert np.all(state.params["head"]["bias"] != 0)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])

    model = Model(nnx.Rngs(0))
    mask = {"layers": {1: {"kernel": jnp.array([True, False, False, True])}}}
    optimiser = nnx.Optimizer(model, optax.chain(optax.adamw(0.1), nn.protect(mask)), wrt=nnx.Param)
    before = [np.asarray(layer.kernel[...]) for layer in model.layers]
    optimiser.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    moved = [np.asarray(layer.kernel[...]) != old for layer, old in zip(model.layers, before, strict=True)]
    assert moved[0].all() and (moved[1] == np.array([False, True, True, False])).all()


def test_a_part_of_a_name_may_be_value():
    """As in attention (query, key, value); only what nnx adds to the end of a variable's name is left out."""
    params = {"kernel": jnp.ones((2, 2)), "value": {"kernel": jnp.ones((2, 2))}, "policy": {"w": jnp.ones(2)}}
    reserved = nn.protect({"kernel": True, "value": {"kernel": False}}).init(params).reserved
    assert reserved["kernel"].all() and not reserved["value"]["kernel"].any() and not reserved["policy"]["w"].any()
    reserved = nn.protect({"value": True}).init(params).reserved
    assert reserved["value"]["kernel"].all() and not reserved["kernel"].any() and not reserved["policy"]["w"].any()


def test_masks_outside_of_what_interpolates_hold():
    params, reserved = network("units", ())
    optimiser = optax.chain(optax.contrib.schedule_free(optax.adamw(0.1), 0.1), nn.protect(reserved))
    after, _ = trained(optimiser, params)
    assert_only_free_weights_moved(params, after, reserved)


@pytest.mark.parametrize(
    "mask, text",
    [
        ({"layer": [jnp.ones(8, bool)]}, "there are masks for layer.0, but no such parameters; the parameters are "),
        ({"layers": [jnp.ones(7, bool)]}, "a mask of shape (7,) does not fit layers.0 of shape (5, 8)"),
        ({"layers": [jnp.ones((1, 5, 8), bool)]}, "a mask of shape (1, 5, 8) does not fit layers.0 of shape (5, 8)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, text):
    params, _ = network("units", ())
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        nn.protect(mask).init(params)
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        nn.block(params, mask)
    with pytest.raises(ValueError, match="^there is no nn.protect in this optimiser"):
        nn.with_reserved(optax.adam(0.1).init(params), mask)


def test_multipliers_at_a_call_are_deprecated_and_block_what_is_not_finite():
    optimiser = optax.chain(nn.protect(), optax.adam(1e-3))
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    factors = {"w": jnp.array([[0.0, 0.0], [1.0, 1.0]]), "b": None}
    gradients = {"w": jnp.full((2, 2), jnp.nan), "b": jnp.ones(2)}
    with pytest.warns(DeprecationWarning, match="chain it after the optimiser"):
        updates, _ = optimiser.update(gradients, optimiser.init(params), params, multipliers=factors)
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(after["w"][0], [1, 1])
    assert np.isnan(after["w"][1]).all() and np.all(after["b"] < 1)


@pytest.mark.parametrize("variant", ["units", "weights"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_a_task_does_not_use_may_be_anything(variant, bad):
    """Its outputs stay, bit for bit, even if every other weight is not finite."""
    rng = np.random.default_rng(3)
    kernels = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 6), (6, 5))]
    masks = [jnp.asarray(rng.random(k.shape if variant == "weights" else k.shape[1]) < 0.6) for k in kernels]
    x = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)

    def output(kernels):
        y = x
        for kernel, mask in zip(nn.task_kernels(kernels, masks), masks, strict=True):
            y = jax.nn.relu(nn.masked_dense({"kernel": kernel}, y, mask))
        return y

    used = nn.reserved_weights(masks, kernels)
    spoilt = [jnp.where(mask, kernel, bad) for mask, kernel in zip(used, kernels, strict=True)]
    assert any(np.isnan(kernel).any() or np.isinf(kernel).any() for kernel in spoilt)
    np.testing.assert_array_equal(output(kernels), output(spoilt))
    assert np.any(output(kernels) != 0)


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


def test_ends_that_are_no_network_are_refused():
    kernels, reserved = [np.zeros((3, 3))] * 2, [jnp.ones(3, bool)] * 2
    with pytest.raises(
        ValueError, match=r"ends=\[\(0, 1\), \(-1, 0\)\] must feed the layers 0, 1, 2, ... in this order"
    ):
        nn.reserved_weights(reserved, kernels, [(0, 1), (nn.INPUT, 0)])
    with pytest.raises(ValueError, match="a kernel reads the input .-1. or a layer before the one it feeds"):
        nn.reserved_weights(reserved, kernels, [(nn.INPUT, 0), (1, 1)])


def test_masks_must_be_as_many_as_layers_or_kernels():
    kernels = [np.zeros((3, 3)) for _ in BLOCK]
    with pytest.raises(ValueError, match="4 reserved masks; expected 3, one per layer"):
        nn.multipliers([jnp.ones(3, bool)] * 4, kernels, BLOCK)
    with pytest.raises(ValueError, match="3 reserved masks; expected 4, one per kernel"):
        nn.multipliers([jnp.ones((3, 3), bool)] * 3, kernels, BLOCK)


@partial(jax.tree_util.register_dataclass, data_fields=["query", "value"], meta_fields=[])
@dataclass
class Attention:
    query: Any
    value: Any


@pytest.mark.parametrize(
    "mask", [Attention(None, jnp.ones(3, bool)), {"value": jnp.ones(3, bool)}], ids=["own", "dict"]
)
def test_a_parameter_may_be_called_value(mask):
    """As the variables of Flax's nnx call what they hold; there, it is no part of the name."""
    params = {"layer": Attention(jnp.ones(3), jnp.ones(3))}
    optimiser = optax.chain(optax.sgd(1.0), nn.protect({"layer": mask}))
    updates, _ = optimiser.update(params, optimiser.init(params), params)
    np.testing.assert_array_equal(updates["layer"].query, -np.ones(3))
    np.testing.assert_array_equal(updates["layer"].value, np.zeros(3))
