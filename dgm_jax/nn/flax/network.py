"""What both kinds of Flax models share: which layer reads which, what a task keeps, and growth.

Here a model is a `Network`: dicts of arrays by name. A name is a tuple of parts, such as ("block", "conv1") for what a
user writes as "block.conv1". The modules `nnx` and `linen` read models into a `Network` and make models of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dgm_jax.nn import gates
from dgm_jax.nn.expansion import expand
from dgm_jax.nn.protection import ProtectState, name_of

Name = tuple[str | int, ...]
Path = Sequence[str]
Arrays = dict[Name, jax.Array]


class Network(NamedTuple):
    """The arrays of a model."""

    kernels: Arrays  # All that are called "kernel", with and without gates, by the names of their layers.
    gates: Arrays  # Embeddings, by the names of the masked layers.
    reserved: Arrays  # Cumulative masks, bool, likewise.
    others: Arrays  # Everything else, such as norms, statistics and biases, by full names.


class Layer(NamedTuple):
    """A layer with a kernel, and what feeds it."""

    name: Name
    sources: tuple[Name, ...]  # The layers whose units it reads; none: it reads the input of the network.
    shape: tuple[int, ...]  # Of its kernel, [*window, inputs, c_out].
    positions: int  # How many times it reads each unit: 1, or the number of pixels after a flatten (channels are last).

    @property
    def view(self) -> tuple[int, ...]:
        """The kernel's shape with positions and units apart: [*window, positions, c_in, c_out]."""
        return (*self.shape[:-2], self.positions, self.shape[-2] // self.positions, self.shape[-1])


@partial(
    jax.tree_util.register_dataclass, data_fields=["masks", "kernels", "others"], meta_fields=["layers", "structure"]
)
@dataclass(frozen=True)
class Task:
    """What a task keeps beside the reserved weights. A pytree; `reserve` makes it, `use` takes it.

    Attributes:
      masks: the binary mask of each masked layer, bool, in nested dicts by name.
      kernels: copies of the kernels of all other layers, likewise.
      others: copies of all other variables, such as norms and statistics, likewise.
      layers: the masked layers, and what feeds each; static.
      structure: the `GraphDef` of an nnx module; None for linen; static.
    """

    masks: dict[str | int, Any]
    kernels: dict[str | int, Any]
    others: dict[str | int, Any]
    layers: tuple[Layer, ...]
    structure: Any = None


def nested(arrays: Mapping[Name, Any]) -> dict[str | int, Any]:
    """Nested dicts by the parts of names. In a model that is one layer, the name is empty, and nothing is nested."""
    if () in arrays:
        return arrays[()]  # type: ignore[no-any-return]
    result: dict[str | int, Any] = {}
    for name, array in arrays.items():
        inner = result
        for part in name[:-1]:
            inner = inner.setdefault(part, {})
        inner[name[-1]] = array
    return result


def flat(tree: Mapping[Any, Any]) -> dict[Name, Any]:
    """The inverse of `nested`."""
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def dotted(name: Name) -> str:
    """A name as users write it."""
    return ".".join(map(str, name))


def connected(network: Network, paths: Sequence[Path]) -> dict[Name, Layer]:
    """All layers with a kernel, connected as the paths say.

    Raises:
      ValueError: if a path names no layer with a kernel, or a kernel does not fit the layers that it reads.
    """
    known = {dotted(name): name for name in network.kernels}
    sources: dict[Name, list[Name]] = {name: [] for name in network.kernels}
    for path in paths:
        if isinstance(path, str):
            raise ValueError(f"the path {path!r} is a string; expected a list of the names of layers, as data flow")
        if not all(isinstance(name, str) for name in path):
            raise ValueError(f"the path {path!r} holds more than names; give each path as an argument of its own")
        if unknown := [name for name in path if name not in known]:
            raise ValueError(f"no layer {unknown[0]!r} with a kernel; the layers are {', '.join(known) or '(none)'}")
        if len(set(path)) < len(path):
            raise ValueError(f"the path {list(path)} names a layer twice; expected each layer once in a path")
        for source, name in zip(path, path[1:]):
            if known[source] not in sources[known[name]]:
                sources[known[name]].append(known[source])
    return {name: _layer(network, name, tuple(read)) for name, read in sources.items()}


def _layer(network: Network, name: Name, sources: tuple[Name, ...]) -> Layer:
    shape = network.kernels[name].shape
    if not sources:
        return Layer(name, sources, shape, 1)
    widths = {dotted(source): network.kernels[source].shape[-1] for source in sources}
    width = next(iter(widths.values()))
    remedy = f"Mend the path, or begin one with {dotted(name)!r}: then all inputs of this layer count as reserved"
    if any(other != width for other in widths.values()):
        raise ValueError(f"{dotted(name)} reads a sum, but its layers have different widths, {widths}. {remedy}")
    positions, rest = divmod(shape[-2], width)
    if rest or positions == 0 or (positions > 1 and len(shape) > 2):
        raise ValueError(f"{dotted(name)} has {shape[-2]} inputs and reads layers of the widths {widths}. {remedy}")
    return Layer(name, sources, shape, positions)


def reserved_weights(layers: Mapping[Name, Layer], masks: Arrays) -> Arrays:
    """Which weights of the masked kernels are reserved, bool arrays of their shapes; see `nn.reserved_weights`.

    With the masks of one task, these are the weights that it uses. A layer that reads the sum of others reads a unit if
    any of them emits it. Inputs of the network count as reserved, and so do the units of layers without unit gates.
    """
    if unknown := [dotted(name) for name in masks if name not in layers]:
        raise ValueError(f"{', '.join(unknown)} has gates, but no array called 'kernel'")
    return {name: _reserved(layers[name], masks) for name in masks}


def _reserved(layer: Layer, masks: Arrays) -> jax.Array:
    mask = masks[layer.name]
    if mask.shape not in (layer.shape, layer.shape[-1:]):
        raise ValueError(
            f"{dotted(layer.name)} has gates of shape {mask.shape} and a kernel of shape {layer.shape}; expected one "
            "gate per unit or per weight. Layers that are stacked by vmap or scan are not understood"
        )
    if mask.ndim > 1:
        return mask
    of_units = all(source in masks and masks[source].ndim == 1 for source in layer.sources)
    below = jnp.ones(layer.view[-2], bool)
    if layer.sources and of_units:
        below = jnp.any(jnp.stack([masks[source] for source in layer.sources]), axis=0)
    between = jnp.logical_and(below[:, None], mask[None, :])
    return jnp.broadcast_to(jnp.expand_dims(between, range(len(layer.view) - 2)), layer.view).reshape(layer.shape)


def protection(network: Network, paths: Sequence[Path]) -> dict[str | int, Any]:
    """The masks that `nn.protect` takes: `reserved_weights`, by the names of the parameters."""
    weights = reserved_weights(connected(network, paths), network.reserved)
    return nested({(*name, "kernel"): mask for name, mask in weights.items()})


def sparsity(network: Network, slope: ArrayLike) -> jax.Array:
    """The share of free capacity that the gates open: `nn.sparsity` over all masked layers, as a penalty."""
    masks = [gates.gate(embedding, slope, epoch_scale=slope) for embedding in network.gates.values()]
    never_open = [jnp.isneginf(embedding) for embedding in network.gates.values()]
    reserved = [jnp.logical_or(network.reserved[name], closed) for name, closed in zip(network.gates, never_open)]
    return gates.sparsity(masks, reserved)


def not_gates(params: Any) -> Any:
    """A mask for optax: True for every parameter but the embeddings of gates.

    Weight decay has nothing to pull on in a gate, and would turn a gate that is closed for ever, -inf, into NaN:

        optax.adamw(1e-3, mask=not_gates)
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: name_of(path)[-1] != "gate", params)


def reserve(network: Network, paths: Sequence[Path], structure: Any = None) -> tuple[Network, Task]:
    """Ends a task: what its open gates need is reserved, and the gates are as at the beginning, 0 (or -inf, closed)."""
    layers = connected(network, paths)
    masks = {name: gates.binarise(embedding) for name, embedding in network.gates.items()}
    task = Task(
        nested(masks),
        nested({name: jnp.copy(kernel) for name, kernel in network.kernels.items() if name not in masks}),
        nested({name: jnp.copy(array) for name, array in network.others.items()}),
        tuple(layers[name] for name in masks),
        structure,
    )
    begun = {name: jnp.where(jnp.isneginf(e), e, jnp.zeros_like(e)) for name, e in network.gates.items()}
    reserved = {name: gates.reserve(old, masks[name]) for name, old in network.reserved.items()}
    return network._replace(gates=begun, reserved=reserved), task


def use(network: Network, task: Task) -> Network:
    """The network as it was when the task ended, of the widths of that day, with 0 for every weight not used by it."""
    masks = flat(task.masks)
    used = reserved_weights({layer.name: layer for layer in task.layers}, masks)
    if missing := [dotted(name) for name in masks if name not in network.gates]:
        raise ValueError(f"the task has masks for {', '.join(missing)}, but the model has no such masked layers")
    kernels = {}
    for layer in task.layers:
        kernel = _cut(network.kernels[layer.name], layer)
        kernels[layer.name] = jnp.where(used[layer.name], kernel, jnp.zeros((), kernel.dtype))
    fixed = {name: jnp.where(mask, jnp.inf, -jnp.inf).astype(network.gates[name].dtype) for name, mask in masks.items()}
    return Network(kernels | flat(task.kernels), fixed, masks, flat(task.others))


def _cut(kernel: jax.Array, layer: Layer) -> jax.Array:
    """The part of a kernel, which may have grown, that has been there when the layer had this shape."""
    *lead, c_in, c_out = layer.view
    if kernel.ndim != len(layer.shape) or kernel.shape[:-2] != layer.shape[:-2] or kernel.shape[-2] % layer.positions:
        raise ValueError(f"{dotted(layer.name)} has a kernel of shape {kernel.shape}; the task had {layer.shape}")
    return kernel.reshape(*lead, -1, kernel.shape[-1])[..., :c_in, :c_out].reshape(layer.shape)


# ---- Growth ----

Grow = Callable[[Name, jax.Array, jax.Array], jax.Array]  # Of a name, an old array and a fresh one.


def growth(old: Network, fresh: Network, paths: Sequence[Path]) -> Grow:
    """How an array of the old network, or one of its shape, is copied into one of the grown network."""
    before, after = connected(old, paths), connected(fresh, paths)
    if missing := [dotted(name) for name in before if name not in after]:
        raise ValueError(f"the fresh model has no {', '.join(missing)}")
    widths = {(before[name].shape[-1], after[name].shape[-1]) for name in before}

    def grow(name: Name, array: jax.Array, into: jax.Array) -> jax.Array:
        narrow, wide = before.get(name[:-1]), after.get(name[:-1])
        changes = f"{dotted(name)} has shape {array.shape} in the old model and {into.shape} in the fresh one"
        if array.ndim != into.ndim or any(m > n for m, n in zip(array.shape, into.shape)):
            raise ValueError(f"{changes}; expected at least as many entries on each axis")
        if narrow is not None and wide is not None and array.shape == narrow.shape and narrow.sources:
            if narrow.view[:-2] != wide.view[:-2]:
                raise ValueError(f"{changes}; window and positions must stay, and only the numbers of units may grow")
            return expand(array.reshape(narrow.view), into.reshape(wide.view)).reshape(wide.shape)
        if array.shape == into.shape:
            return array
        if array.shape[:-1] != into.shape[:-1]:
            raise ValueError(
                f"{changes}, but it is in no path behind another layer, so where its inputs belong is not known; add "
                "it to a path, even if it has no gates"
            )
        if (array.shape[-1], into.shape[-1]) not in widths:
            raise ValueError(f"{changes}; no layer grows like this, so where its entries belong is not known")
        return expand(array, into)

    return grow


def grown(old: Network, fresh: Network, paths: Sequence[Path]) -> Network:
    """The fresh network with everything that the old one has, but gates."""
    grow = growth(old, fresh, paths)
    kernels = {name: grow((*name, "kernel"), old.kernels[name], fresh.kernels[name]) for name in old.kernels}
    reserved = {name: grow((*name, "reserved"), mask, fresh.reserved[name]) for name, mask in old.reserved.items()}
    if missing := [dotted(name) for name in old.others if name not in fresh.others]:
        raise ValueError(f"the fresh model has no {', '.join(missing)}")
    others = {name: grow(name, array, fresh.others[name]) for name, array in old.others.items()}
    return Network(fresh.kernels | kernels, fresh.gates, reserved, fresh.others | others)


def grown_moments(old_state: Any, fresh_state: Any, old: Network, fresh: Network, paths: Sequence[Path]) -> Any:
    """The fresh state of an optimiser with what the old one has, but moments of gates and masks of `nn.protect`."""
    grow = growth(old, fresh, paths)
    kernels = {tuple(map(str, (*name, "kernel"))): (*name, "kernel") for name in old.kernels}
    embeddings = {tuple(map(str, (*name, "gate"))) for name in old.gates}

    def is_protection(node: Any) -> bool:
        return isinstance(node, ProtectState)

    def leaves(state: Any) -> dict[Any, Any]:
        return dict(jax.tree_util.tree_flatten_with_path(state, is_leaf=is_protection)[0])

    def moment(path: Any, into: Any) -> Any:
        name = name_of(path)
        ends = [name[start:] for start in range(len(name))]  # The longest first.
        kernel = next((kernels[end] for end in ends if end in kernels), None)
        if is_protection(into) or any(end in embeddings for end in ends):
            return into
        if path not in moments:
            raise ValueError(f"the old state has no {dotted(name)}; expected the states of one kind of optimiser")
        if kernel is not None and moments[path].shape not in ((), into.shape, old.kernels[kernel[:-1]].shape):
            raise ValueError(
                f"{dotted(name)} of shape {moments[path].shape} is no moment of {dotted(kernel)}; such an optimiser "
                "cannot grow: begin with its fresh state"
            )
        return grow(name if kernel is None else kernel, moments[path], into)

    moments = leaves(old_state)
    return jax.tree_util.tree_map_with_path(moment, fresh_state, is_leaf=is_protection)
