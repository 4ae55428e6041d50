"""The open sub-network of a task whose masks are settled: all that is left to train.

A closed unit of DGMa emits exactly 0, so no gradient reaches the weights that feed it or that it feeds. Its weights,
norm and moments stay what they were when the masks settled. Training only the open units therefore changes the images
only by rounding, because sums are added in another order. (Where no smaller program is available, all units are
trained; then Adam's momentum moves the free weights of closed units a little, and a later task begins with those.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from dgm_jax import nn
from dgm_jax.models.generator import Generator
from dgm_jax.training.state import Capacity, TrainState, sampler_params
from dgm_jax.types import GeneratorParams, Norm, Statistics


@dataclass(frozen=True)
class _Part:
    """Which entries of an array belong to the open units, and the padded array that they are moved to."""

    entries: tuple[np.ndarray, ...]  # Along each axis.
    shape: tuple[int, ...]

    def take(self, whole: np.ndarray, *, padding: float) -> np.ndarray:
        part = np.full(self.shape, padding, whole.dtype)
        part[self._corner] = whole[np.ix_(*self.entries)]
        return part

    def put(self, whole: np.ndarray, part: np.ndarray) -> np.ndarray:
        whole = whole.copy()
        whole[np.ix_(*self.entries)] = part[self._corner]
        return whole

    @property
    def _corner(self) -> tuple[slice, ...]:
        return tuple(slice(0, len(entries)) for entries in self.entries)


@dataclass(frozen=True)
class OpenUnits:
    """The units that a task's settled masks open, and the padded widths to train them at; on the host."""

    units: tuple[np.ndarray, ...]  # Of each layer, their numbers.
    physical: tuple[int, ...]  # At least as many as there are units.
    generator: Generator

    def cut(self, whole: TrainState, capacity: Capacity) -> tuple[TrainState, Capacity]:
        """Cuts the open units out of a training state, and out of what earlier tasks left to the task.

        Padding has closed gates, and contributes nothing. The counts of gates stay those of the whole generator.
        """
        parts = self._parts(whole.generator)
        take = partial(jax.tree.map, lambda part, array: part.take(array, padding=0))
        cut = {name: take(_shaped_as(name, parts), array) for name, array in _arrays(whole).items()}
        units = parts.embeddings  # Of an array that has an entry for each unit; DGMa's embeddings are such arrays.
        closed = [part.take(e, padding=-np.inf) for part, e in zip(units, whole.generator.embeddings)]
        cut["generator"] = replace(cut["generator"], embeddings=closed)
        reserved, free = (take(units, masks) for masks in (capacity.reserved, capacity.free))
        return _with_arrays(whole, cut), replace(capacity, reserved=reserved, free=free)

    def put_back(self, cut: TrainState, whole: TrainState) -> TrainState:
        """The whole state, with the open units as they are in `cut`, and the discriminator from there."""
        parts = self._parts(whole.generator)
        put = partial(jax.tree.map, lambda part, array, entries: part.put(array, entries))
        arrays, entries = _arrays(whole), _arrays(cut)
        return _with_arrays(cut, {n: put(_shaped_as(n, parts), arrays[n], entries[n]) for n in arrays})

    def _parts(self, generator: GeneratorParams) -> GeneratorParams:
        """A `_Part` in place of each array."""
        vectors = [_Part((units,), (width,)) for units, width in zip(self.units, self.physical, strict=True)]
        kernels = []
        for (source, target), kernel in zip(self.generator.ends, generator.kernels, strict=True):
            k, _, n_inputs, _ = kernel.shape
            inputs = np.arange(n_inputs) if source == nn.INPUT else self.units[source]
            room = n_inputs if source == nn.INPUT else self.physical[source]
            entries = (np.arange(k), np.arange(k), inputs, self.units[target])
            kernels.append(_Part(entries, (k, k, room, self.physical[target])))
        n_heads, k, _, _, channels = generator.heads.shape
        heads = _Part(
            (np.arange(n_heads), np.arange(k), np.arange(k), self.units[-1], np.arange(channels)),
            (n_heads, k, k, self.physical[-1], channels),
        )
        return GeneratorParams(kernels, [Norm(part, part) for part in vectors], heads, vectors)


def _arrays(state: TrainState) -> dict[str, Any]:
    """All that has entries for the generator's units, by name; "mu" and "nu" are Adam's moments of the parameters."""
    moments = {name: optax.tree_utils.tree_get(state.generator_optimiser, name) for name in ("mu", "nu")}
    arrays = {"generator": state.generator, "generator_statistics": state.generator_statistics, **moments}
    return arrays if state.average is None else arrays | {"average": state.average}


def _shaped_as(name: str, parts: GeneratorParams) -> Any:
    """A `_Part` in place of each array that has this name in `_arrays`."""
    statistics = [Statistics(part, part) for part in parts.embeddings]
    special = {"generator_statistics": statistics, "average": sampler_params(parts, statistics)}
    return special.get(name, parts)


def _with_arrays(state: TrainState, arrays: dict[str, Any]) -> TrainState:
    """Undoes `_arrays`."""
    moments = {name: arrays.pop(name) for name in ("mu", "nu")}
    optimiser = optax.tree_utils.tree_set(state.generator_optimiser, **moments)
    return replace(state, generator_optimiser=optimiser, **arrays)


def find_open_units(
    states: Sequence[TrainState], shapes: Sequence[Sequence[int]], generator: Generator
) -> list[OpenUnits] | None:
    """Finds, for each of several runs side by side, the open units, if training only them is cheaper.

    Args:
      states: of DGMa, masks settled, all of the same physical widths; on the host.
      shapes: the physical widths to choose from: for those, programs are compiled already.
      generator: how its layers are wired.

    Returns:
      For each run its open units, all at the smallest of the shapes that has room for them; None where no shape smaller
      than the present one has.
    """
    embeddings = [state.generator.embeddings for state in states]
    units = [tuple(np.flatnonzero(np.asarray(nn.binarise(e))) for e in layers) for layers in embeddings]
    needed = [max(map(len, layer)) for layer in zip(*units, strict=True)]
    present = tuple(len(e) for e in embeddings[0])

    def fits(shape: Sequence[int]) -> bool:
        return all(n <= room <= now for n, room, now in zip(needed, shape, present, strict=True))

    physical = min((tuple(shape) for shape in [*shapes, present] if fits(shape)), key=np.prod)
    return None if physical == present else [OpenUnits(layers, physical, generator) for layers in units]
