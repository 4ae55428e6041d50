"""Names for the parameters that all rooms pass on.

Each type is a frozen dataclass and a JAX pytree. Its leaves come in alphabetical order of their names, as those of a
dict do: sums over a tree, such as the norm of all gradients, add up in this order, and checkpoints use the same names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import jax
from jax.tree_util import DictKey

Array = Any  # NumPy's on the host, JAX's on a device or in a program.
Tree = Any  # Nested dicts and lists with arrays at the leaves, as a checkpoint holds them.

T = TypeVar("T")


def _pytree(cls: type[T]) -> type[T]:
    return jax.tree_util.register_dataclass(cls, sorted(field.name for field in fields(cls)), [])  # type: ignore[arg-type]


@_pytree
@dataclass(frozen=True, eq=False)
class Norm:
    """Parameters of a batch norm over c channels."""

    scale: Array  # [c]
    shift: Array  # [c]


@_pytree
@dataclass(frozen=True, eq=False)
class Statistics:
    """Running statistics of a batch norm over c channels."""

    mean: Array  # [c]
    var: Array  # [c]


@_pytree
@dataclass(frozen=True, eq=False)
class Linear:
    """Parameters of a linear layer with a bias."""

    kernel: Array  # [c_in, c_out]
    bias: Array  # [c_out]


@_pytree
@dataclass(frozen=True, eq=False)
class GeneratorParams:
    """Parameters of a generator: kernels are shared by all tasks, the rest belongs to one task."""

    kernels: list[Array]  # Each [k, k, c_in, c_out], in the order of `Generator.edges`.
    norms: list[Norm]  # One for each layer.
    heads: Array  # Output layers, [classes of the task, k, k, c_last, channels].
    # Of each mask while a task is learnt; None in a generator whose masks are settled and applied.
    embeddings: list[Array] = None  # type: ignore[assignment]

    def without_embeddings(self) -> "GeneratorParams":
        """The parameters that images are drawn with, once masks are known."""
        return GeneratorParams(self.kernels, self.norms, self.heads)


@_pytree
@dataclass(frozen=True, eq=False)
class Scale:
    """How vectors of d numbers are scaled to what the networks see: each number by itself."""

    mean: Array  # [d]
    deviation: Array  # [d], above 0

    def scaled(self, vectors: Array) -> Array:
        """Vectors [n, d] as the networks see them, [n, 1, 1, d]: images of a single pixel."""
        return ((vectors - self.mean[None]) / self.deviation[None])[:, None, None]

    def restored(self, images: Array) -> Array:
        """Undoes `scaled`, but for rounding."""
        return images[:, 0, 0] * self.deviation[None] + self.mean[None]


@_pytree
@dataclass(frozen=True, eq=False)
class SamplerParams:
    """All arrays with which images are drawn in evaluation mode."""

    generator: GeneratorParams  # Without embeddings.
    statistics: list[Statistics]  # Of its norms.
    scale: Scale | None = None  # Of vectors; None: they are drawn as the networks see them, as are images.


@dataclass(frozen=True, eq=False)
class DiscriminatorParams:
    """Parameters of a discriminator: a trunk, and two or three heads on its features."""

    trunk: Mapping[str, Tree]  # The layers below the heads, by the names that the network gives them.
    critic: Linear
    classifier: Linear  # The auxiliary classifier.
    projection: Array | None = None  # [classes of a task, features], if the critic is conditioned on the class.

    def by_name(self) -> dict[str, Any]:
        """All parts under the names that they have in checkpoints, where the trunk's layers stand beside the heads."""
        heads = {"critic": self.critic, "classifier": self.classifier, "projection": self.projection}
        return {**self.trunk, **{name: head for name, head in heads.items() if head is not None}}

    @classmethod
    def of_parts(cls, parts: Mapping[str, Any]) -> "DiscriminatorParams":
        """Undoes `by_name`."""
        heads = ("critic", "classifier", "projection")
        trunk = {name: part for name, part in parts.items() if name not in heads}
        return cls(trunk, **{name: parts[name] for name in heads if name in parts})

    @classmethod
    def from_tree(cls, tree: Mapping[str, Tree]) -> "DiscriminatorParams":
        """Undoes `params_to_tree`."""
        linear = {name: Linear(**tree[name]) for name in ("critic", "classifier")}
        return cls.of_parts({**{name: _with_norms(layers) for name, layers in tree.items()}, **linear})


def _flatten(params: DiscriminatorParams) -> tuple[list[tuple[DictKey, Any]], tuple[str, ...]]:
    parts = params.by_name()
    names = tuple(sorted(parts))
    return [(DictKey(name), parts[name]) for name in names], names


jax.tree_util.register_pytree_with_keys(
    DiscriminatorParams, _flatten, lambda names, parts: DiscriminatorParams.of_parts(dict(zip(names, parts)))
)


def params_to_tree(params: Any) -> Tree:
    """Parameters, or lists of them, as a checkpoint holds them: nested dicts and lists; what is None is left out."""
    if isinstance(params, DiscriminatorParams):
        params = params.by_name()
    elif is_dataclass(params):
        params = {field.name: getattr(params, field.name) for field in fields(params)}
    if isinstance(params, Mapping):
        return {name: params_to_tree(part) for name, part in params.items() if part is not None}
    return [params_to_tree(part) for part in params] if isinstance(params, list | tuple) else params


def norms_from_tree(tree: Sequence[Mapping[str, Array]]) -> list[Norm]:
    """Undoes `params_to_tree` of a list of norms."""
    return [Norm(**norm) for norm in tree]


def statistics_from_tree(tree: Sequence[Mapping[str, Array]]) -> list[Statistics]:
    """Undoes `params_to_tree` of a list of running statistics."""
    return [Statistics(**running) for running in tree]


def _with_norms(layers: Tree) -> Tree:
    """A trunk's layers with their norms as `Norm`."""
    if isinstance(layers, Mapping):
        return {name: Norm(**part) if name == "norm" else _with_norms(part) for name, part in layers.items()}
    return [_with_norms(layer) for layer in layers] if isinstance(layers, list | tuple) else layers
