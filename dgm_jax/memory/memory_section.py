"""The section of a file that holds a memory: only what drawing from it needs, and only weights that some task uses.

All shapes follow from a few numbers in its header, so that no two parts of it can contradict each other.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgm_jax.data.dataset import composed
from dgm_jax.errors import UserError
from dgm_jax.memory.checks import require, require_array, require_classes, require_images, require_number, scale_in
from dgm_jax.memory.container import DamagedMemoryFile, Section
from dgm_jax.memory.memory import Memory, used_weights
from dgm_jax.memory.task import TaskMemory, unite_masks
from dgm_jax.models import OF_VECTORS, pair
from dgm_jax.models.generator import Generator
from dgm_jax.system.pinned import KEYS
from dgm_jax.types import Norm, Statistics

_MOST_WEIGHTS = 2**28  # A file may hold no more weights, 1 GiB, once decompressed.
_MOST_WORK = 2**32


@dataclass(frozen=True)
class TaskHeader:
    """What the shapes of a task follow from."""

    labels: list[int]
    names: list[str]
    widths: list[int]
    n_conditioned: int


@dataclass(frozen=True)
class Header:
    """What all shapes follow from."""

    network: str
    image_size: int
    channels: int
    noise_dim: int
    gates: str  # "units" (DGMa) or "weights" (DGMw).
    gate_before_norm: bool
    tasks: list[TaskHeader]
    keys: str  # The generator of random numbers that images are drawn with.

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Header":
        """Checks every number, before anything of such a size is made.

        Raises:
          DamagedMemoryFile: if a value is none that a memory can have.
        """
        try:
            header = cls(**{**found, "tasks": [TaskHeader(**task) for task in found["tasks"]]})
            _check(header)
        # Other names, other types.
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedMemoryFile(
                f"its header cannot be read ({type(error).__name__}: {str(error)[:200]})"
            ) from error
        if json.dumps(dataclasses.asdict(header)) != json.dumps(found):
            raise DamagedMemoryFile("its header is not in the form in which it is written")
        return header

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the shared weights that some task uses; units grown since then are left out."""
        return tuple(map(max, zip(*(task.widths for task in self.tasks), strict=True)))

    @property
    def generator(self) -> Generator:
        """How its layers are wired."""
        return pair(self.network).generator(self.image_size)

    def kernel_shapes(self) -> list[tuple[int, int, int, int]]:
        """Of the shared weights."""
        return self.generator.kernel_shapes(self.widths, self.noise_dim)

    def mask_shapes(self, widths: Sequence[int]) -> list[tuple[int, ...]]:
        """Of the masks of a task, or of all, of these widths."""
        return self.generator.mask_shapes("dgma" if self.gates == "units" else "dgmw", widths, self.noise_dim)

    def parameter_shapes(self, task: TaskHeader) -> list[tuple[int, ...]]:
        """Of what is a task's own: scale and shift of each layer, mean and variance of each layer, output layers."""
        window = self.generator.output.window
        of_norms = [(width,) for width in task.widths for _ in range(2)]
        return [*of_norms, *of_norms, (len(task.labels), window, window, task.widths[-1], self.channels)]

    def tensor_sizes(self) -> dict[str, int]:
        """Bytes of each task's masks, and how many parameters it has; and how many numbers the scale of vectors has."""
        sizes = {"scale": 2 * self.channels} if self.network == OF_VECTORS else {}
        for t, task in enumerate(self.tasks):
            sizes[f"{t}.masks"] = sum(-(-math.prod(shape) // 8) for shape in self.mask_shapes(task.widths))
            sizes[f"{t}.parameters"] = sum(map(math.prod, self.parameter_shapes(task)))
        return sizes


def encode(memory: Memory) -> Section:
    """A memory as a section; the same memory gives the same section.

    Raises:
      UserError: if its tasks share no weights.
    """
    if memory.own_kernels:
        raise UserError(
            "each task of this memory has a generator of its own (method separate), and such a file holds one that all "
            "tasks share; draw from the run's folder, or export --to npz or --to stablehlo"
        )
    header = Header(
        network=memory.network,
        image_size=memory.image_size,
        channels=memory.channels,
        noise_dim=memory.noise_dim,
        gates="units" if memory.tasks[0].masks[0].ndim == 1 else "weights",
        gate_before_norm=memory.gate_before_norm,
        tasks=[
            TaskHeader(
                labels=[memory.labels[index] for index in task.classes],
                names=[memory.names[index] for index in task.classes],
                widths=list(task.widths),
                n_conditioned=task.n_conditioned,
            )
            for task in memory.tasks
        ],
        keys=KEYS,
    )
    tensors = {}
    if memory.scale is not None:
        tensors["scale"] = _flat([memory.scale.mean, memory.scale.deviation])
    for t, task in enumerate(memory.tasks):
        norms = [array for norm in task.norms for array in (norm.scale, norm.shift)]
        statistics = [array for running in task.statistics for array in (running.mean, running.var)]
        tensors[f"{t}.masks"] = np.concatenate([np.packbits(mask) for mask in task.masks])
        tensors[f"{t}.parameters"] = _flat([*norms, *statistics, task.heads])
    corners = [tuple(slice(0, n) for n in shape) for shape in header.kernel_shapes()]
    tensors["weights"] = _flat(
        [
            kernel[corner][used[corner]]
            for kernel, used, corner in zip(memory.kernels, used_weights(memory), corners, strict=True)
        ]
    )
    return Section(dataclasses.asdict(header), tensors)


def encode_entries(memory: Memory) -> Section:
    """For each class of each task the entry of the noise that is 1, for a memory whose classes were numbered anew."""
    return Section({"entries": [list(task.noise_entries) for task in memory.tasks]}, {})


def encode_modes(memory: Memory) -> Section:
    """For each class of each task the training images that it stands for, for a memory in which a class has modes."""
    return Section({"images": [list(task.counts or ()) for task in memory.tasks]}, {})


def decode(section: Section, entries: Section | None = None, modes: Section | None = None) -> Memory:
    """Undoes `encode`; the memory draws bit for bit what the encoded one does.

    Args:
      section: made by `encode`.
      entries: made by `encode_entries`; None: the entry of each class is its index.
      modes: made by `encode_modes`; None: each class has one mode.

    Raises:
      DamagedMemoryFile: if a section is none that they make.
    """
    header, tensors = Header.from_json(section.header), section.tensors
    sizes = header.tensor_sizes()
    if set(tensors) != {*sizes, "weights"}:
        odd = sorted(set(tensors) ^ {*sizes, "weights"})
        raise DamagedMemoryFile(f"it lacks arrays or has superfluous ones: {', '.join(odd)[:200]}")
    for name, size in sizes.items():
        require_array(name, tensors[name], np.uint8 if name.endswith("masks") else np.float32, (size,))
    names = {label: name for task in header.tasks for label, name in zip(task.labels, task.names, strict=True)}
    labels = tuple(names)
    tasks = tuple(
        _task(header, task, tuple(map(labels.index, task.labels)), t, tensors) for t, task in enumerate(header.tasks)
    )
    is_repeated = len(labels) < sum(len(task.labels) for task in header.tasks)
    require(is_repeated == (modes is not None), "a label that two classes have, or modes of no class")
    if modes is not None:
        tasks = _with_counts(tasks, modes)
    if entries is not None:
        tasks = _with_entries(tasks, entries)
    memory = Memory(
        kernels=[np.zeros(shape, np.float32) for shape in header.kernel_shapes()],
        reserved=list(unite_masks(tasks, header.mask_shapes(header.widths))),
        tasks=tasks,
        noise_dim=header.noise_dim,
        network=header.network,
        image_size=header.image_size,
        labels=labels,
        names=tuple(map(composed, names.values())),
        gate_before_norm=header.gate_before_norm,
        scale=scale_in(tensors["scale"].reshape(2, -1)) if "scale" in tensors else None,
    )
    used = used_weights(memory)
    require_array("weights", tensors["weights"], np.float32, (sum(int(of_kernel.sum()) for of_kernel in used),))
    taken = 0
    for kernel, of_kernel in zip(memory.kernels, used, strict=True):
        n = int(of_kernel.sum())
        kernel[of_kernel] = tensors["weights"][taken : taken + n]
        taken += n
    return memory


def _with_entries(tasks: tuple[TaskMemory, ...], section: Section) -> tuple[TaskMemory, ...]:
    found = _of_each_class(section, "entries", tasks, "entries of the noise")
    for own, task in zip(found, tasks, strict=True):
        for entry in own:
            require_number(entry, 0, task.n_conditioned - 1, "entry of the noise")
    pairs = zip(tasks, map(tuple, found), strict=True)
    return tuple(replace(task, conditions=None if own == task.classes else own) for task, own in pairs)


def _with_counts(tasks: tuple[TaskMemory, ...], section: Section) -> tuple[TaskMemory, ...]:
    found = _of_each_class(section, "images", tasks, "images of modes")
    for count in itertools.chain.from_iterable(found):
        require_number(count, 1, 2**31, "images of a mode")
    return tuple(replace(task, counts=tuple(counts)) for task, counts in zip(tasks, found, strict=True))


def _of_each_class(section: Section, name: str, tasks: tuple[TaskMemory, ...], what: str) -> list[list[Any]]:
    """The one list of a section without arrays: for each task a value for each of its classes."""
    require(list(section.header) == [name] and not section.tensors, f"more than {what}")
    found = section.header[name]
    require(type(found) is list and len(found) == len(tasks), f"{what} {found!r}")
    for own, task in zip(found, tasks, strict=True):
        require(type(own) is list and len(own) == len(task.classes), f"{what} {own!r}")
    return found  # type: ignore[no-any-return]


def _check(header: Header) -> None:
    require_images(header.network, header.image_size, header.channels)
    require_number(header.noise_dim, 2, 2**20, "noise_dim")
    require(header.gates in ("units", "weights"), f"gates {header.gates!r}")
    require(type(header.gate_before_norm) is bool, f"gate_before_norm {header.gate_before_norm!r}")
    require(not (header.gate_before_norm and header.gates == "weights"), "weights gated before the norm")
    require(header.keys == KEYS, f"random numbers of {header.keys!r}, only {KEYS} is known")
    layers = header.generator.n_layers
    require(len(header.tasks) > 0, "no task")
    names: dict[int, str] = {}
    for task in header.tasks:
        require_classes(task.labels, task.names)
        require(type(task.widths) is list, f"{task.widths!r} is no list")
        require(len(task.widths) == layers, f"{len(task.widths)} widths of {layers} layers in a task")
        for width in task.widths:
            require_number(width, 1, 2**20, "width")
        for label, name in zip(task.labels, task.names, strict=True):
            require(names.setdefault(label, name) == name, "a label that two classes have")
        require_number(task.n_conditioned, len(names), header.noise_dim - 1, "n_conditioned")
    weights = sum(map(math.prod, header.kernel_shapes()))
    require(weights <= _MOST_WEIGHTS, f"{weights:,} weights, at most {_MOST_WEIGHTS:,} are read")
    work = weights * len(header.tasks)  # Each task's part of them is looked at.
    require(work <= _MOST_WORK, f"{work:,} weights in all tasks together, at most {_MOST_WORK:,} are read")


def _task(
    header: Header, task: TaskHeader, classes: tuple[int, ...], number: int, tensors: dict[str, np.ndarray]
) -> TaskMemory:
    packed, taken, masks = tensors[f"{number}.masks"], 0, []
    for shape in header.mask_shapes(task.widths):
        n = math.prod(shape)
        bits = np.unpackbits(packed[taken : taken + -(-n // 8)])
        if bits[n:].any():
            raise DamagedMemoryFile("a mask has more open gates than gates")
        masks.append(bits[:n].reshape(shape).astype(bool))
        taken += -(-n // 8)
    arrays = _shaped(tensors[f"{number}.parameters"], header.parameter_shapes(task))
    norms = [Norm(scale=next(arrays), shift=next(arrays)) for _ in task.widths]
    statistics = [Statistics(mean=next(arrays), var=next(arrays)) for _ in task.widths]
    if any((running.var < 0).any() for running in statistics):
        raise DamagedMemoryFile("a variance in it is negative")
    return TaskMemory(classes, tuple(task.widths), masks, norms, statistics, next(arrays), task.n_conditioned)


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    for array in arrays:
        if array.dtype != np.float32:
            raise TypeError(f"a memory's numbers are float32, found {array.dtype}")
    return np.concatenate([array.reshape(-1) for array in arrays])


def _shaped(flat: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> Iterator[np.ndarray]:
    """Undoes `_flat`."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    for shape, end in zip(shapes, ends, strict=True):
        yield flat[end - math.prod(shape) : end].reshape(shape)
