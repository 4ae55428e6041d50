"""What an optimised GPU program launches, read from its text: kernels, their bytes and FLOP, and their least seconds.

A kernel takes the longest of three: its bytes at the memory's bandwidth, its FLOP at the share of the chip that its
tiles can fill, and its launch. The figures of an H200 are NVIDIA's; the shares and launch times are what is known of
cuBLAS, cuDNN and CUDA graphs. Nothing here was measured on a GPU, so compare predictions with each other.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

BYTES_A_SECOND = 4.8e12
FLOP_A_SECOND = {"float32": 67e12, "tf32": 495e12, "bf16": 989e12}
MULTIPROCESSORS = 132
_IN_GRAPH, _LIBRARY_CALL, _LOOP = 2e-6, 4e-6, 15e-6  # Seconds of a launch, and of a loop's condition.
_BITS = {"pred": 8, "bf16": 16}  # Other types have their number of bits in their name.
_NO_KERNEL = {
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "constant",
    "after-all",
    "partition-id",
    "replica-id",
}
_EXCHANGES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


class Op(NamedTuple):
    """A line of a program."""

    name: str
    type: str
    opcode: str
    rest: str  # From the opcode on.

    def called(self, role: str) -> str:
        """The name of the computation that it calls as `role`, e.g. "body"."""
        found = re.search(rf"{role}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return re.findall(r"%([\w.\-]+)", self.rest[self.rest.index("(") :].split("), ")[0])


class Product(NamedTuple):
    """A product of matrices, [m, k] x [k, n], and the side of the tiles that it is cut into: [rows, columns]."""

    m: int
    n: int
    k: int
    tile: tuple[int, int]
    fills_all: bool = False  # Whether sums are split, too, so that few tiles fill the chip.

    @property
    def flop(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.n * self.k

    def seconds(self, flop_a_second: float) -> float:
        """With the tiles' waste, on as many multiprocessors as there are tiles."""
        rows, columns = (math.ceil(size / side) for size, side in zip((self.m, self.n), self.tile))
        used = 1.0 if self.fills_all else min(1.0, rows * columns / MULTIPROCESSORS)
        padded = 2 * rows * self.tile[0] * columns * self.tile[1] * self.k
        return padded / (flop_a_second * used)


@dataclass(frozen=True)
class Kernel:
    """Something that is launched."""

    op: Op
    bytes: int
    products: Sequence[Product] = ()

    @property
    def flop(self) -> int:
        """Of its products."""
        return sum(product.flop for product in self.products)

    @property
    def is_exchange(self) -> bool:
        """Whether devices wait for each other in it; the end of an exchange that was begun elsewhere does not count."""
        return self.op.opcode.startswith(_EXCHANGES) and not self.op.opcode.endswith("-done")

    def seconds(self, precision: str) -> float:
        """What it takes at least."""
        is_convolution = "cudnn" in self.op.rest
        peak = FLOP_A_SECOND[precision] * (0.6 if is_convolution else 0.5)
        launch = _LIBRARY_CALL if is_convolution else _IN_GRAPH
        return max(launch, self.bytes / BYTES_A_SECOND, *(product.seconds(peak) for product in self.products))


@dataclass(frozen=True)
class Loop:
    """The body of a loop, and the loops in it."""

    kernels: Sequence[Kernel]
    inner: Sequence["Loop"]

    @property
    def launches(self) -> int:
        """Kernels and loops."""
        return len(self.kernels) + len(self.inner)

    def seconds(self, precision: str) -> float:
        """What one passage takes at least, without the loops in it."""
        return _LOOP + sum(kernel.seconds(precision) for kernel in self.kernels)


def loops(text: str) -> list[Loop]:
    """The outermost loops of a compiled program, `compiled.as_text()`."""
    found, entry = _computations(text)
    return _read(found, entry).inner  # type: ignore[return-value]


def _computations(text: str) -> tuple[dict[str, list[Op]], str]:
    found: dict[str, list[Op]] = {}
    name = entry = ""
    for line in text.splitlines():
        begins = re.match(r"(ENTRY )?%?([\w.\-]+)\s*(?:\(.*\))?\s*->.*\{\s*$", line)
        if begins:
            name = begins[2]
            found[name], entry = [], name if begins[1] else entry
        elif name and (op := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)(\(.*)$", line)):
            found[name].append(Op(op[1], op[2], op[3], op[3] + op[4]))
    return found, entry


def _read(found: dict[str, list[Op]], name: str) -> Loop:
    types = {op.name: op.type for op in found[name]}
    kernels: list[Kernel] = []
    inner: list[Loop] = []
    for op in found[name]:
        if op.opcode == "while":
            inner.append(_read(found, op.called("body")))
        elif op.opcode == "call" and op.called("to_apply") in found:
            part = _read(found, op.called("to_apply"))
            kernels += part.kernels
            inner += part.inner
        elif op.opcode not in _NO_KERNEL:
            kernels.append(_kernel(found, op, types))
    return Loop(kernels, inner)


def _kernel(found: dict[str, list[Op]], op: Op, types: dict[str, str]) -> Kernel:
    moved = _bytes(op.type) + sum(_bytes(types.get(operand, "")) for operand in op.operands)
    if op.opcode == "custom-call" and "cudnn" in op.rest:
        return Kernel(op, moved, [_convolution(op, types)])
    if op.opcode == "custom-call" and "cublas" in op.rest:
        return Kernel(op, moved, [_product(op, types, r'"lhs_contracting_dimensions":\[([^\]]*)\]')])
    if op.opcode != "fusion":
        return Kernel(op, moved)
    inside = list(_inside(found, op.called("calls")))
    products = [
        _product(each, types, r"lhs_contracting_dims=\{([\d,]*)\}") for each, types in inside if each.opcode == "dot"
    ]
    if not products and any(each.opcode in ("gather", "dynamic-slice") for each, _ in inside):
        moved = min(moved, 2 * _bytes(op.type) + 4_000_000)  # It reads a part of a large array.
    return Kernel(op, moved, products)


def _inside(found: dict[str, list[Op]], name: str) -> Iterator[tuple[Op, dict[str, str]]]:
    """All lines of a fused computation and of those fused in it, each with the types of its computation."""
    types = {op.name: op.type for op in found.get(name, [])}
    for op in found.get(name, []):
        yield op, types
        if op.opcode == "fusion":
            yield from _inside(found, op.called("calls"))


def _product(op: Op, types: dict[str, str], axes: str) -> Product:
    out, left = _shape(op.type), _shape(types.get(op.operands[0], ""))
    summed = re.search(axes, op.rest)
    k = math.prod(left[int(axis)] for axis in re.findall(r"\d+", summed[1])) if summed and left else 1
    n = out[-1] if out else 1
    return Product(max(1, math.prod(out) // n), n, k, (64, 64))


def _convolution(op: Op, types: dict[str, str]) -> Product:
    """The product that a call of cuDNN is, images [n, h, w, c]."""
    found = re.search(r"window=\{[^}]*size=([\dx]+)", op.rest)
    window = math.prod(map(int, found[1].split("x"))) if found else 1
    out = _shape(op.type)
    a, b = (_shape(types.get(operand, "")) for operand in op.operands[:2])
    if "BackwardFilter" in op.rest:
        return Product(out[0], math.prod(out[1:]), math.prod(b[:3]), (128, 64), fills_all=True)
    if "BackwardInput" in op.rest:
        k = math.prod(a) * window // math.prod(out[:3])
    else:
        groups = re.search(r"feature_group_count=(\d+)", op.rest)
        k = window * a[3] // int(groups[1] if groups else 1)
    return Product(math.prod(out[:3]), out[3], k, (128, 64))


def _shape(kind: str) -> list[int]:
    """The shape of the first array of floats in a type."""
    found = re.search(r"(?:f32|bf16|f16)\[([\d,]*)\]", kind)
    return [int(size) for size in found[1].split(",") if size] if found else []


def _bytes(kind: str) -> int:
    arrays = re.findall(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\]", kind)
    bits = [(_BITS.get(name) or int(name[1:]), sizes) for name, sizes in arrays]
    return sum(each // 8 * math.prod(int(size) for size in sizes.split(",") if size) for each, sizes in bits)
