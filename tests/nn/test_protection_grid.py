"""`nn.protect` after real optimisers, in every place where people put an optimiser.

Each test lets moments grow while nothing is reserved, exchanges the masks as between two tasks, and goes on with
gradients of which some are NaN or infinite: reserved weights stay where they are, all others move.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support import children

from dgm_jax import nn

OPTIMISERS = {
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.1),
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "lamb": lambda rate: optax.lamb(rate, weight_decay=0.1),
    "lion": lambda rate: optax.lion(rate, weight_decay=0.1),
}
LABELS = {"a": {"kernel": "protected"}, "b": {"kernel": "protected"}, "head": {"kernel": "free", "bias": "free"}}


def protected(name, rate=0.1):
    return optax.chain(OPTIMISERS[name](rate), nn.protect())


SETTINGS = {
    "chain": protected,
    "chain within a chain": lambda name: optax.chain(optax.clip_by_global_norm(1.0), protected(name)),
    "multi_transform": lambda name: optax.multi_transform(
        {"protected": protected(name), "free": optax.adam(0.1)}, LABELS
    ),
    "partition": lambda name: optax.chain(
        optax.partition({"protected": OPTIMISERS[name](0.1), "free": optax.adam(0.1)}, lambda _: LABELS), nn.protect()
    ),
    "MultiSteps": lambda name: optax.MultiSteps(protected(name), 2).gradient_transformation(),
    "apply_if_finite": lambda name: optax.apply_if_finite(protected(name), 1),
    "inject_hyperparams": lambda name: optax.inject_hyperparams(lambda rate: protected(name, rate))(rate=0.1),
    "all of them": lambda name: optax.apply_if_finite(
        optax.inject_hyperparams(
            lambda rate: optax.MultiSteps(
                optax.multi_transform({"protected": protected(name, rate), "free": optax.adam(0.1)}, LABELS), 2
            ).gradient_transformation()
        )(rate=0.1),
        1,
    ),
}


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": {"kernel": (5, 8)}, "b": {"kernel": (8, 6)}, "head": {"kernel": (6, 3), "bias": (3,)}}
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes, is_leaf=is_shape)


def is_shape(node):
    return isinstance(node, tuple)


def masks(params, seed=1):
    rng = np.random.default_rng(seed)
    return {name: {"kernel": jnp.asarray(rng.random(params[name]["kernel"].shape) < 0.5)} for name in ("a", "b")}


def gradients(params, added, seed=2):
    """Random gradients, to each of which `added` is added."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) + added, jnp.float32), params)


BEFORE = (0.0, 0.5, -0.25)  # What is added to gradients before masks are exchanged, and after.
AFTER = (0.0, np.nan, 0.25, 0.0, np.inf, -0.5, -np.inf, 0.0)


def two_tasks(step, params, state, reserved):
    """Parameters when the masks were exchanged, and after the steps that followed; `step(gradients, state, params)`."""
    for added in BEFORE:
        params, state = step(gradients(params, added), state, params)
    first, moments = params, [leaf for leaf in jax.tree.leaves(state) if leaf.dtype != bool]
    state = nn.with_reserved(state, reserved)
    for old, new in zip(moments, [leaf for leaf in jax.tree.leaves(state) if leaf.dtype != bool], strict=True):
        np.testing.assert_array_equal(old, new)
    for added in AFTER:
        params, state = step(gradients(params, added), state, params)
    return first, params


def assert_only_free_weights_moved(first, last, reserved):
    for name, mask in reserved.items():
        old, new, mask = (np.asarray(a) for a in (first[name]["kernel"], last[name]["kernel"], mask["kernel"]))
        mask = np.broadcast_to(mask, old.shape)
        assert 0 < mask.sum() < mask.size and np.isfinite(old).all()
        np.testing.assert_array_equal(old[mask], new[mask])
        assert np.all(old[~mask] != new[~mask])
    assert np.all(np.asarray(first["head"]["kernel"]) != np.asarray(last["head"]["kernel"]))


def stepping(optimiser, transform=jax.jit):
    """A step, compiled by `transform`, which may be traced once."""

    def step(gradients, state, params):
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    chex.clear_trace_counter()
    return transform(chex.assert_max_traces(step, n=1))


PAIRS = [(setting, "adamw") for setting in SETTINGS] + [("chain", name) for name in OPTIMISERS if name != "adamw"]
PAIRS += [("all of them", "momentum"), ("MultiSteps", "lion"), ("apply_if_finite", "lamb")]


@pytest.mark.parametrize(("setting", "name"), PAIRS)
def test_reserved_weights_stay_whatever_the_optimiser(setting, name):
    optimiser, params = SETTINGS[setting](name), parameters()
    reserved = masks(params)
    assert_only_free_weights_moved(*two_tasks(stepping(optimiser), params, optimiser.init(params), reserved), reserved)


def test_without_jit():
    optimiser, params = protected("adamw"), parameters()
    reserved = masks(params)

    def step(gradients, state, params):
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    assert_only_free_weights_moved(*two_tasks(step, params, optimiser.init(params), reserved), reserved)


@pytest.mark.parametrize("setting", ["chain", "multi_transform", "all of them"])
def test_under_vmap_each_network_has_its_masks(setting):
    optimiser = SETTINGS[setting]("adamw")
    params = jax.tree.map(lambda *p: jnp.stack(p), parameters(0), parameters(1))
    reserved = jax.tree.map(lambda *m: jnp.stack(m), masks(parameters(0), 3), masks(parameters(1), 4))
    step = stepping(optimiser, lambda step: jax.jit(jax.vmap(step)))
    assert_only_free_weights_moved(*two_tasks(step, params, jax.vmap(optimiser.init)(params), reserved), reserved)


def check_shard_map(setting: str) -> None:
    """Under `shard_map` with its checks, on two devices; each sees its share of the examples."""
    assert jax.device_count() == 2
    mesh, optimiser, params = jax.make_mesh((2,), ("d",)), SETTINGS[setting]("adamw"), parameters()
    reserved = masks(params)
    shares = jax.device_put(jnp.array([0.5, 1.5]), NamedSharding(mesh, P("d")))

    def sharded(step):
        def of_device(share, gradients, state, params):
            return step(jax.tree.map(lambda g: jax.lax.pmean(g * share.mean(), "d"), gradients), state, params)

        mapped = jax.jit(jax.shard_map(of_device, mesh=mesh, in_specs=(P("d"), P(), P(), P()), out_specs=P()))
        return lambda *arguments: mapped(shares, *jax.device_put(arguments, NamedSharding(mesh, P())))

    with jax.set_mesh(mesh):
        first, last = two_tasks(stepping(optimiser, sharded), params, optimiser.init(params), reserved)
    assert_only_free_weights_moved(jax.device_get(first), jax.device_get(last), reserved)
    print("checked")


def check_split_parameters() -> None:
    """Masks lie where their parameters lie, so a step that is compiled for these serves all masks."""
    mesh, optimiser, traces = jax.make_mesh((2,), ("d",)), SETTINGS["chain"]("adamw"), []
    params, reserved = {"kernel": jnp.ones((4, 3))}, {"kernel": np.arange(12).reshape(4, 3) % 2 == 0}
    params = jax.device_put(params, NamedSharding(mesh, P("d", None)))

    @jax.jit
    def step(state, params):
        traces.append(len(traces))
        updates, state = optimiser.update(params, state, params)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    for _ in BEFORE:
        params, state = step(state, params)
    first, before = params, len(traces)
    params, state = step(nn.with_reserved(state, reserved), params)
    np.testing.assert_array_equal(np.asarray(first["kernel"]) == np.asarray(params["kernel"]), reserved["kernel"])
    assert len(traces) == before
    print("checked")


def test_over_two_devices():
    code = "from nn import test_protection_grid as t; t.check_shard_map('chain'); t.check_shard_map('all of them')"
    code = f"{code}; t.check_split_parameters()"
    (out,) = children.outputs(children.start(code, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert out.splitlines() == ["checked"] * 3


def test_a_donated_state_leaves_masks_intact():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}
    mask = jnp.array([[True, False, False]] * 2)
    optimiser = optax.chain(optax.adam(0.1), nn.protect(mask))  # One array serves both parameters.

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = optimiser.update(params, state, params)
        return optax.apply_updates(params, updates), state

    _, state = step(params, optimiser.init(params))
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}
    params, _ = step(params, nn.with_reserved(state, {"a": mask, "b": ~mask}))
    assert not mask.is_deleted()
    np.testing.assert_array_equal(params["a"] == 1, mask)
    np.testing.assert_array_equal(params["b"] == 1, ~mask)


@pytest.mark.parametrize("setting", ["chain", "multi_transform", "all of them"])
def test_in_a_train_state(setting):
    params = parameters()
    reserved = masks(params)
    state = TrainState.create(apply_fn=None, params=params, tx=SETTINGS[setting]("adamw"))
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda state, grads: state.apply_gradients(grads=grads), n=1))
    for added in BEFORE:
        state = step(state, gradients(params, added))
    first = state.params
    state = state.replace(opt_state=nn.with_reserved(state.opt_state, reserved))
    for added in AFTER:
        state = step(state, gradients(params, added))
    assert int(state.step) == len(BEFORE + AFTER)
    assert_only_free_weights_moved(first, state.params, reserved)


class Model(nnx.Module):
    def __init__(self, params):
        for name in ("a", "b"):
            kernel = params[name]["kernel"]
            setattr(self, name, nnx.Linear(*kernel.shape, use_bias=False, rngs=nnx.Rngs(0)))
            getattr(self, name).kernel[...] = kernel
        self.norm = nnx.BatchNorm(6, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(6, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(self.norm(self.b(jax.nn.relu(self.a(x)))))

    def arrays(self):
        return {name: {"kernel": np.asarray(getattr(self, name).kernel[...])} for name in ("a", "b", "head")}


def by_name(params):
    """`LABELS`, in the structure of the states of nnx."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "protected" if path[0].key in ("a", "b") else "free", params
    )


NNX_SETTINGS = {
    "chain": protected,
    "partition": lambda name: optax.partition({"protected": protected(name), "free": optax.adam(0.1)}, by_name),
    "MultiSteps": SETTINGS["MultiSteps"],
    "apply_if_finite": SETTINGS["apply_if_finite"],
    "inject_hyperparams": SETTINGS["inject_hyperparams"],
}


@pytest.mark.parametrize("setting", NNX_SETTINGS)
def test_in_an_optimizer_of_nnx(setting):
    model = Model(parameters())
    reserved = masks(parameters())
    optimiser = nnx.Optimizer(model, NNX_SETTINGS[setting]("adamw"), wrt=nnx.Param)
    x = jnp.asarray(np.random.default_rng(5).normal(size=(7, 5)), jnp.float32)

    def train(model, optimiser, added):
        grads = nnx.grad(lambda model: jnp.mean((model(x) - 1) ** 2))(model)
        optimiser.update(model, jax.tree.map(lambda g: g + added, grads))

    chex.clear_trace_counter()
    step = nnx.jit(chex.assert_max_traces(train, n=1))
    for added in BEFORE:
        step(model, optimiser, added)
    first = model.arrays()
    optimiser.opt_state = nn.with_reserved(optimiser.opt_state, reserved)
    for added in AFTER:
        step(model, optimiser, added)
    assert_only_free_weights_moved(first, model.arrays(), reserved)
