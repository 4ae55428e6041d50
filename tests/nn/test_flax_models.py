"""Models of masked layers for Flax: the end of a task, old tasks again, growth; the same for nnx and for linen."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from support.arrays import normal

from dgm_jax import nn
from dgm_jax.nn.flax import linen as masked_linen
from dgm_jax.nn.flax import nnx as masked_nnx
from dgm_jax.nn.flax.nnx import MaskedConv, MaskedLinear

PATH = ["conv1", "block.conv2", "dense", "head"]


class Block(nnx.Module):
    def __init__(self, narrow, wide, gates, rngs):
        self.conv2 = MaskedConv(narrow, wide, (3, 3), 2, gates=gates, rngs=rngs)


class Net(nnx.Module):
    """Two convolutions, a flattened image, and a head without gates."""

    def __init__(self, widths, gates="units", seed=0):
        rngs = nnx.Rngs(seed)
        a, b, c = widths
        self.conv1 = MaskedConv(2, a, (3, 3), 2, gates=gates, rngs=rngs)
        self.norm = nnx.BatchNorm(a, rngs=rngs)
        self.block = Block(a, b, gates, rngs)
        self.dense = MaskedLinear(4 * b, c, gates=gates, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(c, 3, rngs=rngs)

    def __call__(self, x, *, slope):
        x = self.conv1(x, slope=slope, then=lambda y: nnx.relu(self.norm(y)))
        x = nnx.relu(self.block.conv2(x, slope=slope)).reshape(len(x), -1)
        return self.head(self.dropout(nnx.relu(self.dense(x, slope=slope))))


class LinenBlock(linen.Module):
    width: int
    gates: str

    @linen.compact
    def __call__(self, x, *, slope):
        return masked_linen.MaskedConv(self.width, (3, 3), 2, gates=self.gates, name="conv2")(x, slope=slope)


class LinenNet(linen.Module):
    widths: tuple[int, int, int]
    gates: str = "units"

    @linen.compact
    def __call__(self, x, *, slope, train=False):
        a, b, c = self.widths
        norm = linen.BatchNorm(use_running_average=not train, name="norm")
        conv1 = masked_linen.MaskedConv(a, (3, 3), 2, gates=self.gates, name="conv1")
        x = conv1(x, slope=slope, then=lambda y: linen.relu(norm(y)))
        x = linen.relu(LinenBlock(b, self.gates, name="block")(x, slope=slope)).reshape(len(x), -1)
        x = linen.relu(masked_linen.MaskedDense(c, gates=self.gates, name="dense")(x, slope=slope))
        return linen.Dense(3, name="head")(x)


WIDTHS, WIDER = (4, 3, 6), (6, 4, 9)
X = normal(5, 8, 8, 2)


@nnx.jit
def logits(model):
    return model(X, slope=None)


@functools.cache
def of_nnx(widths, gates, seed):
    structure, state = nnx.split(nnx.jit(lambda: Net(widths, gates, seed))())
    return structure, nnx.as_pure(state)


@functools.cache
def of_linen(widths, gates, seed):
    return jax.jit(lambda key: LinenNet(widths, gates).init(key, X, slope=None))(jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def logits_of_linen(net, variables):
    return net.apply(variables, X, slope=None)


class Nnx:
    """A network of nnx, with what the tests below do to it."""

    functions = masked_nnx

    def __init__(self, widths, gates, seed=0):
        self.model = nnx.merge(*of_nnx(widths, gates, seed))  # New variables each time.

    def arrays(self):
        return {
            ".".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(self.model, nnx.Param))
        }

    def reserve(self, *paths):
        return masked_nnx.reserve(self.model, *paths)

    def logits(self, task, widths, gates):
        return np.asarray(logits(masked_nnx.use(self.model, task)))

    def open_some(self, seed):
        for layer in (self.model.conv1, self.model.block.conv2, self.model.dense):
            layer.gate[...] = normal(*layer.gate.shape, seed=seed) + 0.3
        return self

    def train(self, *paths, bad=0.0):
        tx = optax.chain(optax.adamw(0.05, weight_decay=0.1), masked_nnx.protect(self.model, *paths))
        optimiser = nnx.Optimizer(self.model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optimiser, bad):
            grads = nnx.grad(lambda model: jnp.mean((model(X, slope=1.0) - 1) ** 2))(model)
            optimiser.update(model, jax.tree.map(lambda g: g + bad, grads))

        self.model.train()
        for added in (0.1, 0.2, bad):
            step(self.model, optimiser, added)
        return optimiser.opt_state

    def grown(self, widths, gates, *paths):
        other = Nnx(widths, gates, seed=7)
        other.model = masked_nnx.expand(self.model, other.model, *paths)
        return other


class Linen:
    functions = masked_linen

    def __init__(self, widths, gates, seed=0):
        self.net = LinenNet(widths, gates)
        self.model = of_linen(widths, gates, seed)

    def arrays(self):
        return {".".join(k.key for k in p): np.asarray(v) for p, v in jax.tree.leaves_with_path(self.model["params"])}

    def reserve(self, *paths):
        self.model, task = masked_linen.reserve(self.model, *paths)
        return task

    def logits(self, task, widths, gates):
        return np.asarray(logits_of_linen(LinenNet(widths, gates), masked_linen.use(self.model, task)))

    def open_some(self, seed):
        params = jax.tree.map(lambda a: a, self.model["params"])
        for layer in (params["conv1"], params["block"]["conv2"], params["dense"]):
            layer["gate"] = normal(*layer["gate"].shape, seed=seed) + 0.3
        self.model = {**self.model, "params": params}
        return self

    def train(self, *paths, bad=0.0):
        tx = optax.chain(optax.adamw(0.05, weight_decay=0.1), masked_linen.protect(self.model, *paths))

        @jax.jit
        def step(model, state, bad):
            def loss(params):
                out, changed = self.net.apply(
                    model | {"params": params}, X, slope=1.0, train=True, mutable="batch_stats"
                )
                return jnp.mean((out - 1) ** 2), changed

            grads, changed = jax.grad(loss, has_aux=True)(model["params"])
            updates, state = tx.update(jax.tree.map(lambda g: g + bad, grads), state, model["params"])
            return model | changed | {"params": optax.apply_updates(model["params"], updates)}, state

        state = tx.init(self.model["params"])
        for added in (0.1, 0.2, bad):
            self.model, state = step(self.model, state, added)
        return state

    def grown(self, widths, gates, *paths):
        other = Linen(widths, gates, seed=7)
        other.model = masked_linen.expand(self.model, other.model, *paths)
        return other


BOTH = pytest.mark.parametrize("kind", [Nnx, Linen])


@pytest.mark.parametrize(("kind", "gates"), [(Nnx, "units"), (Nnx, "weights"), (Linen, "units")])
def test_an_old_task_stays_bit_for_bit(kind, gates):
    """After training with decay and NaN, after growth, and after training again."""
    network = kind(WIDTHS, gates).open_some(1)
    task = network.reserve(PATH)
    before = network.logits(task, WIDTHS, gates)
    assert np.all(np.isfinite(before)) and np.unique(before).size > 3
    start = network.arrays()
    masks = {name: np.asarray(mask) for name, mask in flat(network.functions.reserved_weights(network.model, PATH))}
    network.train(PATH, bad=np.nan)
    after = network.arrays()
    assert sorted(masks) == ["block.conv2.kernel", "conv1.kernel", "dense.kernel"]
    for name, mask in masks.items():
        assert mask.shape == start[name].shape and 0 < mask.sum() < mask.size
        np.testing.assert_array_equal(start[name][mask], after[name][mask])
        assert np.all(start[name][~mask] != after[name][~mask])
    np.testing.assert_array_equal(network.logits(task, WIDTHS, gates), before)
    wider = network.grown(WIDER, gates, PATH)
    np.testing.assert_array_equal(wider.logits(task, WIDTHS, gates), before)
    second = wider.open_some(2).reserve(PATH)
    wider.train(PATH)
    np.testing.assert_array_equal(wider.logits(task, WIDTHS, gates), before)
    assert wider.logits(second, WIDER, gates).shape == before.shape


def flat(tree):
    return [(".".join(str(k.key) for k in path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@BOTH
def test_growth_changes_no_output_of_open_gates(kind):
    """Each old weight lies where it belongs: behind a flatten, too, where a leading corner would be wrong."""
    network = kind(WIDTHS, "units")
    network.train(PATH)
    wider, small = network.grown(WIDER, "units", PATH).arrays(), network.arrays()
    dense = wider["dense.kernel"].reshape(4, WIDER[1], WIDER[2])[:, : WIDTHS[1], : WIDTHS[2]]
    np.testing.assert_array_equal(dense, small["dense.kernel"].reshape(4, WIDTHS[1], WIDTHS[2]))
    np.testing.assert_array_equal(wider["block.conv2.kernel"][:, :, :4, :3], small["block.conv2.kernel"])
    np.testing.assert_array_equal(wider["head.kernel"][:6], small["head.kernel"])
    np.testing.assert_array_equal(wider["norm.scale"][:4], small["norm.scale"])
    np.testing.assert_array_equal(wider["conv1.gate"], np.zeros(6))
    assert np.all(np.abs(wider["dense.kernel"]).max(axis=0) > 0)


@BOTH
def test_moments_grow_likewise(kind):
    network = kind(WIDTHS, "units")
    old_state = network.train(PATH)
    wider = network.grown(WIDER, "units", PATH)
    fresh_state = kind(WIDER, "units").train(PATH) if kind is Nnx else None
    functions = network.functions
    tx = optax.chain(optax.adamw(0.05), functions.protect(wider.model, PATH))
    if kind is Nnx:
        fresh_state = nnx.Optimizer(wider.model, tx, wrt=nnx.Param).opt_state
    else:
        fresh_state = tx.init(wider.model["params"])
    state = functions.expand_moments(old_state, fresh_state, network.model, wider.model, PATH)
    chex.assert_trees_all_equal_shapes(state, fresh_state)
    old, new = (as_arrays(s[0][0].mu) for s in (old_state, state))
    np.testing.assert_array_equal(
        new["dense.kernel"].reshape(4, WIDER[1], WIDER[2])[:, :3, :6], old["dense.kernel"].reshape(4, 3, 6)
    )
    assert np.count_nonzero(new["dense.kernel"]) == np.count_nonzero(old["dense.kernel"]) > 0
    np.testing.assert_array_equal(new["norm.scale"], np.pad(old["norm.scale"], (0, 2)))
    np.testing.assert_array_equal(new["conv1.gate"], np.zeros(6))
    assert int(np.asarray(jax.tree.leaves(state[0][0].count)[0])) == 3
    factored = optax.adafactor(0.1, min_dim_size_to_factor=2)
    params = [nnx.state(m, nnx.Param) if kind is Nnx else m["params"] for m in (network.model, wider.model)]
    with pytest.raises(ValueError, match="is no moment of .*kernel; such an optimiser cannot grow"):
        states = [factored.init(p) for p in params]
        functions.expand_moments(*states, network.model, wider.model, PATH)


def as_arrays(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(nn.protection.name_of(path)): np.asarray(leaf) for path, leaf in leaves}


@BOTH
def test_the_end_of_a_task(kind):
    network = kind(WIDTHS, "units").open_some(1)
    gates = {k: v for k, v in network.arrays().items() if k.endswith("gate")}
    functions = network.functions
    opened = float(functions.sparsity(network.model, 1e6))
    assert opened == pytest.approx(np.mean(np.concatenate([g >= 0 for g in gates.values()])))
    first = network.reserve(PATH)
    for name, embedding in gates.items():
        np.testing.assert_array_equal(dict(flat(first.masks))[name.removesuffix(".gate")], embedding >= 0)
    assert all(np.all(v == 0) for k, v in network.arrays().items() if k.endswith("gate"))
    assert float(functions.sparsity(network.model, 1e6)) == pytest.approx(
        0.5
    )  # Of what is free, at gates that are half open.
    network.open_some(2)
    second = network.reserve(PATH)
    together = jax.tree.map(np.logical_or, first.masks, second.masks)
    protected = functions.reserved_weights(network.model, PATH)
    below, above = together["block"]["conv2"], together["dense"]
    expected = np.broadcast_to(below[:, None] & above, (4, 3, 6)).reshape(12, 6)
    np.testing.assert_array_equal(protected["dense"]["kernel"], expected)
    np.testing.assert_array_equal(protected["conv1"]["kernel"][0, 0], np.stack([together["conv1"]] * 2))


def test_without_paths_all_inputs_count_as_reserved():
    network = Nnx(WIDTHS, "units").open_some(1)
    network.reserve()
    less = masked_nnx.reserved_weights(network.model, PATH)
    more = masked_nnx.reserved_weights(network.model)
    for (name, few), (_, many) in zip(flat(less), flat(more), strict=True):
        assert np.all(many | ~few), name
    np.testing.assert_array_equal(more["dense"]["kernel"][0], network.model.dense.reserved[...])


def test_where_branches_are_added_a_unit_of_any_counts():
    class Branches(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = MaskedLinear(2, 4, rngs=rngs), MaskedLinear(2, 4, rngs=rngs)
            self.c = MaskedLinear(4, 3, rngs=rngs)

    model = Branches(nnx.Rngs(0))
    for layer, mask in ((model.a, [1, 0, 0, 1]), (model.b, [1, 1, 0, 0]), (model.c, [0, 1, 1])):
        layer.reserved[...] = jnp.array(mask, bool)
    found = masked_nnx.reserved_weights(model, ["a", "c"], ["b", "c"])["c"]["kernel"]
    np.testing.assert_array_equal(found, np.outer([1, 1, 0, 1], [0, 1, 1]) == 1)
    model.b.kernel = nnx.Param(jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match="^c reads a sum, but its layers have different widths, {'a': 4, 'b': 5}"):
        masked_nnx.reserved_weights(model, ["a", "c"], ["b", "c"])


def test_gates_that_do_not_fit_their_kernel_are_refused():
    stacked = MaskedLinear(3, 3, rngs=nnx.Rngs(0))  # As `nnx.vmap` makes them.
    for variable in (stacked.kernel, stacked.gate, stacked.reserved):
        variable.set_value(jnp.stack([variable[...]] * 2))
    text = "^layer has gates of shape .2, 3. and a kernel of shape .2, 3, 3.; expected one gate per unit or per weight"
    model = nnx.Dict(layer=stacked)
    with pytest.raises(ValueError, match=text):
        masked_nnx.protect(model)
    model.layer.weights = model.layer.kernel
    del model.layer.kernel
    with pytest.raises(ValueError, match="^layer has gates, but no array called 'kernel'$"):
        masked_nnx.protect(model)


def test_a_task_is_a_pytree_of_copies():
    """It outlives donated buffers; a checkpoint of it is restored into one that a model of its widths gives."""
    network = Nnx(WIDTHS, "units").open_some(1)
    task = network.reserve(PATH)
    kept = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((task.kernels, task.others)) if is_number(leaf)}
    current = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(network.model)) if is_number(leaf)}
    assert len(kept) > 6 and not kept & current
    names = [name for name, _ in flat(task.others)]
    assert {"norm.scale", "norm.mean"} <= set(names) and [name for name, _ in flat(task.kernels)] == ["head"]
    template = Nnx(WIDTHS, "units", seed=3).reserve(PATH)
    restored = jax.tree.unflatten(jax.tree.structure(template), jax.tree.leaves(task))
    before, after = (logits(masked_nnx.use(network.model, t)) for t in (task, restored))
    np.testing.assert_array_equal(before, after)


def is_number(leaf):
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        ([["conv1", "conv2"]], "no layer 'conv2' with a kernel; the layers are block.conv2, conv1, dense, head"),
        (["conv1"], "the path 'conv1' is a string; expected a list of the names of layers"),
        ([[["conv1"], ["dense"]]], "the path [['conv1'], ['dense']] holds more than names; give each path as an"),
        ([["conv1", "dense", "conv1"]], "the path ['conv1', 'dense', 'conv1'] names a layer twice"),
        (
            [["dense", "conv1"]],
            "conv1 has 2 inputs and reads layers of the widths {'dense': 6}. Mend the path, or begin",
        ),
        ([["conv1", "norm"]], "no layer 'norm' with a kernel"),
    ],
)
@BOTH
def test_paths_that_do_not_fit_are_refused(kind, paths, text):
    network = kind(WIDTHS, "units")
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        network.functions.protect(network.model, *paths)


@BOTH
def test_growth_of_what_is_not_known_is_refused(kind):
    network = kind(WIDTHS, "units")
    with pytest.raises(ValueError, match="but it is in no path behind another layer"):
        network.grown(WIDER, "units", PATH[:2])
    with pytest.raises(ValueError, match="head.kernel has shape .6, 3. in the old model and .9, 3. in the fresh one"):
        network.grown(WIDER, "units", PATH[:3])
    with pytest.raises(ValueError, match="expected at least as many entries on each axis"):
        network.grown((3, 3, 6), "units", PATH)


def test_growth_between_other_models_is_refused():
    class Other(Net):
        def __init__(self):
            super().__init__(WIDER)
            self.norm = nnx.BatchNorm(4 * 4, rngs=nnx.Rngs(0))

    old = Net(WIDTHS)
    with pytest.raises(ValueError, match="^norm.bias has shape .4,. in the old model .* no layer grows like this"):
        masked_nnx.expand(old, Other(), PATH)
    fresh = Net(WIDER)
    del fresh.head
    with pytest.raises(ValueError, match="^the fresh model has no head$"):
        masked_nnx.expand(old, fresh, PATH[:3])
    task = masked_nnx.reserve(old, PATH)
    with pytest.raises(ValueError, match="^the task has masks for .*, but the model has no such masked layers$"):
        masked_nnx.use(fresh.head if hasattr(fresh, "head") else nnx.Linear(2, 2, rngs=nnx.Rngs(0)), task)


def test_boxed_variables_are_refused():
    initial = linen.with_partitioning(linen.initializers.ones_init(), (None, "model"))
    layer = masked_linen.MaskedDense(5, kernel_init=initial)
    variables = layer.init(jax.random.key(0), jnp.ones((2, 3)), slope=None)
    with pytest.raises(ValueError, match=r"^the variables are boxed .* give `linen.meta.unbox\(variables\)`$"):
        masked_linen.reserve(variables)
    _, task = masked_linen.reserve(linen.meta.unbox(variables))
    assert task.masks.shape == (5,)  # The model is one layer, and so its name is empty.


@pytest.mark.parametrize("gates", ["units", "weights"])
def test_a_step_may_donate_model_and_optimiser(gates):
    network = Nnx(WIDTHS, gates).open_some(1)
    network.reserve(PATH)
    optimiser = nnx.Optimizer(
        network.model, optax.chain(optax.adam(0.1), masked_nnx.protect(network.model, PATH)), wrt=nnx.Param
    )

    @nnx.jit(donate_argnums=(0, 1))
    def step(model, optimiser):
        optimiser.update(model, nnx.grad(lambda model: jnp.mean(model(X, slope=1.0) ** 2))(model))

    before = network.arrays()
    for _ in range(2):
        step(network.model, optimiser)
    task = network.reserve(PATH)  # The reserved masks are still there.
    after = network.arrays()
    assert np.any(before["dense.kernel"] != after["dense.kernel"]) and task.masks["dense"].shape
