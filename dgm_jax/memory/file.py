"""A memory in one file, with only what drawing from it needs. docs/formats.md has the layout, byte by byte.

The file does not state the shape of any array: all shapes follow from a few numbers in its header, so that no two parts
of a file can contradict each other. It holds only those shared weights that some task uses. Nothing in it is executed.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.data.dataset import composed
from dgm_jax.errors import NewerFormat, UserError
from dgm_jax.memory.memory import Memory, used_weights
from dgm_jax.memory.task import TaskMemory, unite_masks
from dgm_jax.models import NETWORKS, pair
from dgm_jax.models.generator import Generator
from dgm_jax.system import files
from dgm_jax.system.pinned import KEYS
from dgm_jax.types import Norm, Statistics

MAGIC = b"\x89DGM\r\n\x1a\n"  # As in PNG files: a copy made as text changes these bytes.
FORMAT_VERSION = 2  # Version 1 did not name the generator of random numbers; it was the same.

_START = struct.Struct("<8sII")  # The magic, the format version, the bytes of the header.
_SEAL = hashlib.sha256().digest_size
_FLOAT = np.dtype("<f4")
_MOST_WEIGHTS = 2**28  # A file may hold no more weights, 1 GiB, once decompressed.
_MOST_WORK = 2**32
_LARGEST = 2**31  # The most bytes of a file.


class DamagedMemoryFile(UserError, ValueError):
    """A file that is no memory, or not all of one."""


@dataclass(frozen=True)
class _TaskHeader:
    """What the shapes of a task follow from."""

    labels: list[int]
    names: list[str]
    widths: list[int]
    n_conditioned: int


@dataclass(frozen=True)
class _Header:
    """What all shapes follow from."""

    network: str
    image_size: int
    channels: int
    noise_dim: int
    gates: str  # "units" (DGMa) or "weights" (DGMw).
    gate_before_norm: bool
    tasks: list[_TaskHeader]
    keys: str = KEYS  # The generator of random numbers that images are drawn with.

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the shared weights that some task uses; units grown since then are left out."""
        return tuple(map(max, zip(*(task.widths for task in self.tasks), strict=True)))

    @property
    def generator(self) -> Generator:
        return pair(self.network).generator(self.image_size)

    def mask_shapes(self, widths: Sequence[int]) -> list[tuple[int, ...]]:
        return self.generator.mask_shapes("dgma" if self.gates == "units" else "dgmw", widths, self.noise_dim)

    def head_shape(self, task: _TaskHeader) -> tuple[int, ...]:
        window = self.generator.output.window
        return (len(task.labels), window, window, task.widths[-1], self.channels)

    def task_bytes(self) -> int:
        """Bytes of what belongs to single tasks: masks, norms and statistics, output layers."""
        return sum(
            sum(-(-math.prod(shape) // 8) for shape in self.mask_shapes(task.widths))
            + _FLOAT.itemsize * (4 * sum(task.widths) + math.prod(self.head_shape(task)))
            for task in self.tasks
        )

    def encode(self, version: int) -> bytes:
        """The one way to write it."""
        content = dataclasses.asdict(self)
        if version == 1:
            del content["keys"]
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def write(path: files.PathLike, memory: Memory) -> int:
    """Writes a memory into one file, whole or not at all; the same memory gives the same bytes.

    Returns:
      Bytes of the file.

    Raises:
      OSError: if it cannot be written; an older file is then untouched.
    """
    content = encode(memory)
    files.write_atomically(path, content)
    return len(content)


def encode(memory: Memory) -> bytes:
    """A memory as the bytes of a file."""
    header = _header_of(memory)
    text = header.encode(FORMAT_VERSION)
    parts = [_START.pack(MAGIC, FORMAT_VERSION, len(text)), text]
    for task in memory.tasks:
        parts += [np.packbits(mask).tobytes() for mask in task.masks]
        for norm in task.norms:
            parts += [_floats(norm.scale), _floats(norm.shift)]
        for running in task.statistics:
            parts += [_floats(running.mean), _floats(running.var)]
        parts.append(_floats(task.heads))
    shapes = header.generator.kernel_shapes(header.widths, header.noise_dim)
    for kernel, used, (_, _, c_in, c_out) in zip(memory.kernels, used_weights(memory), shapes, strict=True):
        parts.append(_floats(kernel[:, :, :c_in, :c_out][used[:, :, :c_in, :c_out]]))
    content = b"".join(parts)
    return content + hashlib.sha256(content).digest()


def _header_of(memory: Memory) -> _Header:
    return _Header(
        network=memory.network,
        image_size=memory.image_size,
        channels=memory.channels,
        noise_dim=memory.noise_dim,
        gates="units" if memory.tasks[0].masks[0].ndim == 1 else "weights",
        gate_before_norm=memory.gate_before_norm,
        tasks=[
            _TaskHeader(
                labels=[memory.labels[index] for index in task.classes],
                names=[memory.names[index] for index in task.classes],
                widths=list(task.widths),
                n_conditioned=task.n_conditioned,
            )
            for task in memory.tasks
        ],
    )


def read(path: files.PathLike) -> Memory:
    """Reads what `write` wrote; the memory draws bit for bit what the exported one does.

    Raises:
      DamagedMemoryFile: if the file is no memory, or anything in it is not as it was written; the text says what.
      NewerFormat: if a later version of this package wrote it.
      OSError: if it cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > _LARGEST:
        raise DamagedMemoryFile(f"{path} has {size:,} bytes; a memory has at most {_LARGEST:,}")
    try:
        return decode(path.read_bytes())
    except DamagedMemoryFile as error:
        raise DamagedMemoryFile(f"{path} is no whole memory: {error}; export it again") from error
    except NewerFormat as error:
        raise NewerFormat(f"{path} {error}") from error


def decode(content: bytes) -> Memory:
    """Undoes `encode`; raises what `read` does."""
    if content[: len(MAGIC)] != MAGIC[: len(content)]:
        raise DamagedMemoryFile(f"expected it to begin with {MAGIC!r}, found {content[: len(MAGIC)]!r}")
    if len(content) < _START.size + _SEAL:
        raise DamagedMemoryFile(f"expected at least {_START.size + _SEAL} bytes, found {len(content)}")
    # First of all, so that damage cannot pass for a newer version: those keep magic and seal where they are.
    if hashlib.sha256(content[:-_SEAL]).digest() != content[-_SEAL:]:
        raise DamagedMemoryFile("its SHA-256 differs from the one at its end: it is damaged or cut short")
    _, version, header_size = _START.unpack_from(content)
    if version > FORMAT_VERSION:
        raise NewerFormat(f"has format version {version}, this dgm_jax reads up to {FORMAT_VERSION}; upgrade dgm_jax")
    start, stop = _START.size + header_size, len(content) - _SEAL
    if version not in (1, FORMAT_VERSION) or start > stop:
        raise DamagedMemoryFile(f"format version {version} with a header of {header_size} bytes is not valid")
    header = _decode_header(content[_START.size : start], version)
    rest = memoryview(content)[start:stop]
    if header.task_bytes() > len(rest):
        raise DamagedMemoryFile(f"its header announces at least {header.task_bytes():,} bytes, found {len(rest):,}")
    return _decode_body(header, rest)


def _decode_header(text: bytes, version: int) -> _Header:
    try:
        found = json.loads(text.decode("ascii"))
        header = _Header(**{**found, "tasks": [_TaskHeader(**task) for task in found["tasks"]]})
        _check(header)
        again = header.encode(version)
    # What a hostile file can make of it: not JSON, nested too deep, other types, other names.
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        if isinstance(error, DamagedMemoryFile):
            raise
        raise DamagedMemoryFile(f"its header cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    if again != text:
        raise DamagedMemoryFile("its header is not in the form in which it is written")
    return header


def _check(header: _Header) -> None:
    """Every number in its range, before anything of such a size is made."""

    def require(right: bool, what: str) -> None:
        if not right:
            raise DamagedMemoryFile(f"its header is not valid: {what[:200]}")

    def number(value: Any, low: int, high: int, what: str) -> None:
        require(type(value) is int and low <= value <= high, f"{what} {value!r} is not within {low} to {high}")

    require(header.network in NETWORKS, f"network {header.network!r} is none of {', '.join(NETWORKS)}")
    for name, choices in (("image_size", (8, 16, 32, 64, 128)), ("channels", (1, 3))):
        value = getattr(header, name)  # 8.0 and True are equal to such numbers, and are none.
        require(type(value) is int and value in choices, f"{name} {value!r} is none of {choices}")
    number(header.noise_dim, 2, 2**20, "noise_dim")
    require(header.gates in ("units", "weights"), f"gates {header.gates!r}")
    require(type(header.gate_before_norm) is bool, f"gate_before_norm {header.gate_before_norm!r}")
    require(not (header.gate_before_norm and header.gates == "weights"), "weights gated before the norm")
    require(header.keys == KEYS, f"random numbers of {header.keys!r}, only {KEYS} is known")
    layers = header.generator.n_layers
    require(len(header.tasks) > 0, "no task")
    known = 0
    for task in header.tasks:
        for values in (task.labels, task.names, task.widths):
            require(type(values) is list, f"{values!r} is no list")
        n, n_names = len(task.labels), len(task.names)
        require(n == n_names > 0, f"{n} labels and {n_names} names in a task")
        for label in task.labels:
            number(label, -(2**63), 2**63 - 1, "label")
        require(all(type(name) is str for name in task.names), "a name that is no text")
        require(len(task.widths) == layers, f"{len(task.widths)} widths of {layers} layers in a task")
        for width in task.widths:
            number(width, 1, 2**20, "width")
        known += n
        number(task.n_conditioned, known, header.noise_dim - 1, "n_conditioned")
    labels = [label for task in header.tasks for label in task.labels]
    require(len(set(labels)) == len(labels), "a label that two classes have")
    weights = sum(math.prod(shape) for shape in header.generator.kernel_shapes(header.widths, header.noise_dim))
    require(weights <= _MOST_WEIGHTS, f"{weights:,} weights, at most {_MOST_WEIGHTS:,} are read")
    work = weights * len(header.tasks)  # Each task's part of them is looked at.
    require(work <= _MOST_WORK, f"{work:,} weights in all tasks together, at most {_MOST_WORK:,} are read")


def _decode_body(header: _Header, body: memoryview) -> Memory:
    """The arrays, once the header is known to be possible."""
    taken = 0

    def take(n: int) -> memoryview:
        nonlocal taken
        taken += n
        if taken > len(body):
            raise DamagedMemoryFile(f"expected {taken:,} bytes of arrays or more, found {len(body):,}")
        return body[taken - n : taken]

    def floats(shape: Sequence[int]) -> np.ndarray:
        array = np.frombuffer(take(_FLOAT.itemsize * math.prod(shape)), _FLOAT).astype(np.float32).reshape(shape)
        if not np.isfinite(array).all():
            raise DamagedMemoryFile("a number in it is not finite")
        return array

    def mask(shape: Sequence[int]) -> np.ndarray:
        n = math.prod(shape)
        bits = np.unpackbits(np.frombuffer(take(-(-n // 8)), np.uint8))
        if bits[n:].any():
            raise DamagedMemoryFile("a mask has more open gates than gates")
        return bits[:n].reshape(shape).astype(bool)

    numbers = itertools.count()
    tasks = tuple(
        TaskMemory(
            classes=tuple(itertools.islice(numbers, len(task.labels))),
            widths=tuple(task.widths),
            masks=[mask(shape) for shape in header.mask_shapes(task.widths)],
            norms=[Norm(scale=floats((width,)), shift=floats((width,))) for width in task.widths],
            statistics=[Statistics(mean=floats((width,)), var=floats((width,))) for width in task.widths],
            heads=floats(header.head_shape(task)),
            n_conditioned=task.n_conditioned,
        )
        for task in header.tasks
    )
    if any((running.var < 0).any() for task in tasks for running in task.statistics):
        raise DamagedMemoryFile("a variance in it is negative")
    shapes = header.generator.kernel_shapes(header.widths, header.noise_dim)
    memory = Memory(
        kernels=[np.zeros(shape, np.float32) for shape in shapes],
        reserved=list(unite_masks(tasks, header.mask_shapes(header.widths))),
        tasks=tasks,
        noise_dim=header.noise_dim,
        network=header.network,
        image_size=header.image_size,
        labels=tuple(label for task in header.tasks for label in task.labels),
        names=tuple(composed(name) for task in header.tasks for name in task.names),
        gate_before_norm=header.gate_before_norm,
    )
    for kernel, used in zip(memory.kernels, used_weights(memory), strict=True):
        kernel[used] = floats((int(used.sum()),))
    if taken < len(body):
        raise DamagedMemoryFile(f"expected {taken:,} bytes of arrays, found {len(body):,}")
    return memory


def _floats(array: np.ndarray) -> bytes:
    if array.dtype != np.float32:
        raise TypeError(f"a memory's numbers are float32, found {array.dtype}")
    return np.ascontiguousarray(array, _FLOAT).tobytes()
