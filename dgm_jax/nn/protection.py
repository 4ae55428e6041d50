"""Optax transformations that protect reserved weights and compensate the gradients of embeddings.

Chain `protect` *after* the optimiser. Then neither momentum of earlier steps nor weight decay moves a reserved weight,
nor does a gradient of NaN or infinity (DGM section 3.1, HAT section 2.3).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dgm_jax.nn.masked import gates_weights
from dgm_jax.nn.wiring import INPUT, Ends, chain, check_ends

if TYPE_CHECKING:
    import optax

CLIP = 50.0  # The product form clips |s e| at this value, so that cosh does not overflow: HAT section 2.4.


def reserved_weights(
    reserved: Sequence[jax.Array], kernels: Sequence[jax.Array], ends: Sequence[Ends] | None = None
) -> list[jax.Array]:
    """Which weights of each kernel are reserved, for a network of masked layers: DGM section 3.1, equation 4.

    DGMw: those that the mask says. DGMa: a weight is reserved if the units at both its ends are; the inputs of the
    network count as reserved. With the binary masks of one task in place of `reserved`, these are the weights that the
    task uses.

    Args:
      reserved: cumulative masks, bool: [c_out] for each layer (DGMa), or one per kernel, of its shape (DGMw).
      kernels: the kernels, [..., c_in, c_out]; only their shapes are used.
      ends: the layers that each kernel connects (`wiring`); None: a chain.

    Returns:
      For each kernel a bool array of its rank, which broadcasts against it.

    Raises:
      ValueError: if masks, kernels and ends do not fit each other.
    """
    ends = chain(len(kernels)) if ends is None else ends
    of_weights = len(reserved) > 0 and gates_weights(reserved[0])
    n_masks = len(kernels) if of_weights else len({target for _, target in ends})
    if len(reserved) != n_masks:
        raise ValueError(
            f"{len(reserved)} reserved masks; expected {n_masks}, one per {'kernel' if of_weights else 'layer'}"
        )
    check_ends(ends, len(kernels))
    result = []
    for number, (kernel, (source, target)) in enumerate(zip(kernels, ends, strict=True)):
        mask = reserved[number if of_weights else target].astype(bool)
        if mask.shape != (kernel.shape if of_weights else kernel.shape[-1:]):
            raise ValueError(f"a reserved mask of shape {mask.shape} does not fit a kernel of shape {kernel.shape}")
        if not of_weights and source != INPUT:
            below = reserved[source].astype(bool)
            if below.shape != kernel.shape[-2:-1]:
                raise ValueError(
                    f"a kernel of shape {kernel.shape} reads layer {source}, whose reserved mask has shape "
                    f"{below.shape}; expected {below.shape[0]} inputs. If the kernel reads a flattened image, give it "
                    f"as [rows, columns, {below.shape[0]}, {kernel.shape[-1]}]"
                )
            mask = jnp.logical_and(below[:, None], mask[None])
        result.append(jnp.expand_dims(mask, range(kernel.ndim - mask.ndim)))
    return result


def multipliers(
    reserved: Sequence[jax.Array], kernels: Sequence[jax.Array], ends: Sequence[Ends] | None = None
) -> list[jax.Array]:
    """`reserved_weights` as factors of gradients, in each kernel's dtype: 0 where a weight is reserved, else 1."""
    weights = reserved_weights(reserved, kernels, ends)
    return [jnp.logical_not(mask).astype(kernel.dtype) for mask, kernel in zip(weights, kernels, strict=True)]


def task_kernels(
    kernels: Sequence[jax.Array], masks: Sequence[jax.Array], ends: Sequence[Ends] | None = None
) -> list[jax.Array]:
    """The kernels as a task of these binary masks uses them: exactly 0 in place of every other weight.

    A weight that no task protects may become anything, even NaN, and 0 times NaN is NaN. Call the layers of an old task
    with these kernels, and what it does not use cannot reach its outputs. Arguments are those of `reserved_weights`.
    """
    used = reserved_weights(masks, kernels, ends)
    return [jnp.where(mask, kernel, jnp.zeros((), kernel.dtype)) for mask, kernel in zip(used, kernels, strict=True)]


class ProtectState(NamedTuple):
    """The state of `protect`."""

    reserved: Any  # A bool array of its shape in place of each parameter, True where it may not move.


def protect(reserved: Any = None) -> optax.GradientTransformationExtraArgs:
    """Keeps reserved weights where they are, whatever the updates are. Chain it after the optimiser:

        optimiser = optax.chain(optax.adamw(1e-3), nn.protect({"kernels": nn.reserved_weights(reserved, kernels)}))

    The masks are part of the optimiser's state; between two tasks, `with_reserved` exchanges them. `update` also takes
    masks as the keyword `reserved`: they serve that call only.

    Args:
      reserved: bool masks, in a tree whose names are those of the parameters. A mask broadcasts against its parameter.
        A parameter without a mask, or with None, is not protected. A mask in place of a subtree serves all of it.

    Raises:
      ValueError: when the optimiser's state is made, if no parameter has the name of a mask, or a mask does not fit.
    """
    import optax  # Imported here so that sampling from a memory does not need optax.

    masks = reserved

    def init(params):
        return ProtectState(_placed(_fitted(masks, params), params))

    def update(updates, state, params=None, *, reserved=None, multipliers=None, **_):
        del params
        if multipliers is not None:
            warnings.warn(
                "update(..., multipliers=...) is deprecated: give masks to nn.protect and chain it after the optimiser",
                DeprecationWarning,
                stacklevel=2,
            )
            reserved = jax.tree.map(lambda factor: factor == 0, multipliers)
        return block(updates, state.reserved if reserved is None else reserved), state

    return optax.GradientTransformationExtraArgs(init, update)


def with_reserved(state: Any, reserved: Any) -> Any:
    """The state of an optimiser with other masks in every `protect` inside it; its moments stay.

    Shapes and devices stay, too, so a step that was compiled for the old state serves the new one.

    Args:
      state: of an optimiser that contains `protect`.
      reserved: masks, as `protect` takes them; they take the place of the old ones.

    Raises:
      ValueError: if there is no `protect` in it, or a mask does not fit.
    """

    def is_protection(node):
        return isinstance(node, ProtectState)

    if not any(map(is_protection, jax.tree.leaves(state, is_leaf=is_protection))):
        raise ValueError("there is no nn.protect in this optimiser, and so there are no masks to exchange")

    def exchanged(node):
        if not is_protection(node):
            return node
        return ProtectState(_placed(_fitted(reserved, node.reserved), node.reserved))

    return jax.tree.map(exchanged, state, is_leaf=is_protection)


def block(tree: Any, reserved: Any) -> Any:
    """Gradients or updates with 0 in place of what is reserved: selected, so that NaN and infinity are blocked, too.

    The 0 is -0.0, the neutral element of addition: adding 0.0 would turn a weight of -0.0 into 0.0.

    Args:
      tree: gradients or updates.
      reserved: masks, as `protect` takes them.

    Raises:
      ValueError: if there is nothing of the name of a mask, or a mask does not fit.
    """

    def select(mask, leaf):
        return leaf if _is_absent(leaf) else jnp.where(mask, jnp.full((), -0.0, leaf.dtype), leaf)

    return jax.tree.map(select, _fitted(reserved, tree), tree, is_leaf=_is_absent)


def _fitted(reserved: Any, params: Any) -> Any:
    """The masks in the structure of the parameters and of their shapes; parameters are found by their names.

    Structures differ (dicts, dataclasses, the states of Flax), names do not.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_absent)
    places = {name[:length] for path, _ in leaves for name in [_parts(path)] for length in range(len(name) + 1)}
    masks = {}
    for path, mask in jax.tree_util.tree_flatten_with_path(reserved)[0]:
        masks[_parts(path) if _parts(path) in places else name_of(path)] = mask
    fitted, found = [], set()
    for path, leaf in leaves:
        name = _parts(path)
        place = next((name[:length] for length in range(len(name), -1, -1) if name[:length] in masks), None)
        found.add(place)
        if _is_absent(leaf):
            fitted.append(leaf)
            continue
        mask = jnp.zeros((), bool) if place is None else jnp.asarray(masks[place]).astype(bool)
        if mask.ndim > leaf.ndim or any(m not in (1, n) for m, n in zip(mask.shape[::-1], leaf.shape[::-1])):
            raise ValueError(
                f"a mask of shape {mask.shape} does not fit {'.'.join(name_of(path))} of shape {leaf.shape}"
            )
        fitted.append(jnp.broadcast_to(mask, leaf.shape))
    if unknown := set(masks) - found:
        names = ", ".join(sorted(".".join(name) for name in unknown))
        known = ", ".join(".".join(name_of(path)) for path, _ in leaves)
        raise ValueError(f"there are masks for {names}, but no such parameters; the parameters are {known}")
    return jax.tree_util.tree_unflatten(structure, fitted)


def _placed(masks: Any, like: Any) -> Any:
    """Copies of the masks, so that an optimiser's state can be donated; each lies where the array in its place lies."""

    def place(mask: jax.Array, array: Any) -> jax.Array:
        copy = jnp.copy(mask)
        is_placed = isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) and array.committed
        return jax.device_put(copy, array.sharding) if is_placed else copy

    return jax.tree.map(place, masks, like)


def _is_absent(leaf: Any) -> bool:
    """Whether optax has put a placeholder here, for a parameter that another transformation sees."""
    import optax

    return isinstance(leaf, optax.MaskedNode)


def name_of(path: Any) -> tuple[str, ...]:
    """The name of a parameter: the parts of a path of `jax.tree_util`, as strings."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):  # What Flax's nnx adds to the name of a variable.
        path = path[:-1]
    return _parts(path)


def _parts(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def compensate(clip: float = CLIP) -> optax.GradientTransformationExtraArgs:
    """Rescales the plain gradients of embeddings: the product form of the compensation of HAT (section 2.4).

    Multiplies them by `(S / s) (cosh(clip(s e)) + 1) / (cosh(e) + 1)`. In float32 the plain gradient of an open,
    saturated gate (`s e` above 17) is 0, and no factor can restore it; `gate(e, s, S)` has the same derivative in
    closed form, without this limit.

    `update` needs `params` (the embeddings) and the extra arguments `scale` (`s`) and `epoch_scale` (`S_i`). If the
    tree holds more than embeddings, select them with `optax.masked`.

    Args:
      clip: bound on |s e|, > 0.
    """
    import optax  # Imported here so that sampling from a memory does not need optax.

    def update(updates, state, params=None, *, scale, epoch_scale, **_: Any):
        if params is None:
            raise ValueError("compensate needs the embeddings: call update(gradients, state, params, ...)")

        def factor(embedding):
            saturation = jnp.cosh(jnp.clip(scale * embedding, -clip, clip)) + 1
            return (epoch_scale / scale) * saturation / (jnp.cosh(embedding) + 1)

        return jax.tree.map(lambda g, e: g * factor(e), updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
