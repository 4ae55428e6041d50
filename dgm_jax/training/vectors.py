"""A network's parameters, Adam's moments, norms and sums as one vector, where a platform takes them so.

`platforms.FORMS["update"]` says where. Adam treats each entry by itself: on a vector that is one kernel, on arrays it
is one or more for each. Loops carry the vectors (`packing`). Outside of loops states keep their arrays, so checkpoints
do not depend on the platform.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from dgm_jax.nn import platforms

_EPSILON = 1e-8  # That of `optax.adam`.
State = Any  # A `TrainState`; this file is below it.


def adam(learning_rate: float, *, b1: float, b2: float) -> optax.GradientTransformation:
    """`optax.adam`; its state is the same on all platforms."""
    optimiser = optax.adam(learning_rate, b1=b1, b2=b2)

    def update(gradients: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        if _takes_arrays():
            return optimiser.update(gradients, state, params)
        vector, restored = ravel_pytree(gradients)
        own, *others = _moments_as_vectors(state, gradients)
        updates, own = _adam_of_vectors(vector, own, learning_rate, b1, b2)
        return restored(updates), _moments_restored((own, *others), restored)

    return optax.GradientTransformation(optimiser.init, update)


def packing(like: State) -> tuple[Callable[[State], State], Callable[[State], State]]:
    """Two functions of a `TrainState`: one makes vectors of each network's parameters and moments, the other undoes it.

    A loop that carries what the first returns does not cut vectors into arrays at each step. Where the platform takes
    arrays, both leave a state as it is.
    """
    if _takes_arrays():
        return lambda state: state, lambda state: state
    networks = ("generator", "discriminator")

    def pack(state: State) -> State:
        changes = {}
        for name in networks:
            params = getattr(state, name)
            changes[f"{name}_optimiser"] = _moments_as_vectors(getattr(state, f"{name}_optimiser"), params)
            changes[name] = _vector(params)
        return replace(state, **changes)

    def unpack(state: State) -> State:
        changes = {}
        for name in networks:
            _, restored = ravel_pytree(getattr(like, name))
            changes[f"{name}_optimiser"] = _moments_restored(getattr(state, f"{name}_optimiser"), restored)
            changes[name] = restored(getattr(state, name))
        return replace(state, **changes)

    return pack, unpack


def applied(params: Any, updates: Any) -> Any:
    """The parameters after an update: `optax.apply_updates`."""
    if _takes_arrays():
        return optax.apply_updates(params, updates)
    vector, restored = ravel_pytree(params)
    return restored(vector + _vector(updates))


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all entries of a tree."""
    return optax.tree.norm(tree if _takes_arrays() else _vector(tree))


def joined(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Arrays whose entries are to be summed: all as one, or as they are."""
    return list(arrays) if _takes_arrays() else [_vector(arrays)]


def _adam_of_vectors(
    gradient: jax.Array, state: optax.ScaleByAdamState, learning_rate: float, b1: float, b2: float
) -> tuple[jax.Array, optax.ScaleByAdamState]:
    """What `optax.adam` computes. Corrections of both biases are one kernel here, not two."""
    mu = b1 * state.mu + (1 - b1) * gradient
    nu = b2 * state.nu + (1 - b2) * jnp.square(gradient)
    corrections = 1 - jnp.array([b1, b2]) ** (state.count + 1)
    updates = -learning_rate * (mu / corrections[0]) / (jnp.sqrt(nu / corrections[1]) + _EPSILON)
    return updates, optax.ScaleByAdamState(state.count + 1, mu, nu)


def _takes_arrays() -> bool:
    return platforms.form("update") == "arrays"


def _vector(tree: Any) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _moments_as_vectors(state: optax.OptState, params: Any) -> optax.OptState:
    """The state of an optimiser with a vector in place of each tree that has the structure of the parameters."""
    structure = jax.tree.structure(params)

    def is_moment(node: Any) -> bool:
        return bool(jax.tree.structure(node) == structure)  # type: ignore[operator]

    return jax.tree.map(lambda node: _vector(node) if is_moment(node) else node, state, is_leaf=is_moment)


def _moments_restored(state: optax.OptState, restored: Callable[[jax.Array], Any]) -> optax.OptState:
    """Undoes `_moments_as_vectors`: beside the moments, a state has only a scalar."""
    return jax.tree.map(lambda leaf: restored(leaf) if leaf.ndim else leaf, state)
