"""Counts the matrix products that a function needs, in the program it is lowered to, and runs just these products.

A convolution counts as a product over patches of its image. Products on which no result depends are not counted: the
compiler drops them too.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo


class Product(NamedTuple):
    """A batch of products of an [m, k] by a [k, n] matrix."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def flop(self) -> int:
        """Returns the floating-point operations: a multiplication and an addition count as two."""
        return 2 * self.batch * self.m * self.k * self.n


def products(function: Callable[..., Any], *arguments: Any) -> Counter[Product]:
    """Counts the products that the results of `function(*arguments)` need, on this platform.

    Raises:
      ValueError: if there are products in a loop or a branch: it is not known in advance how often they run.
    """
    module: Any = jax.jit(function).lower(*arguments).compiler_ir("stablehlo")
    functions = {
        ir.StringAttr(f.attributes["sym_name"]).value: f.regions[0].blocks[0]
        for f in module.body.operations
        if f.operation.name == "func.func"
    }
    main = functions["main"]
    return _needed(functions, main, _results(main))[0]


def gflop(counted: Mapping[Product, int]) -> float:
    """Returns the floating-point operations of these products, in 10^9."""
    return 1e-9 * sum(product.flop * number for product, number in counted.items())


def times(counted: Mapping[Product, int], number: int) -> Counter[Product]:
    """Returns the same products, `number` times as often."""
    return Counter({product: number * count for product, count in counted.items()})


def plainly(counted: Counter[Product]) -> Callable[[], Any]:
    """Makes one program of exactly these products, in float32, each on separate arrays on the device."""
    numbers = np.random.default_rng(0)

    def ready(*shape: int) -> jax.Array:
        return jax.device_put(numbers.standard_normal(shape[1:] if shape[0] == 1 else shape, np.float32))

    pairs = [(ready(p.batch, p.m, p.k), ready(p.batch, p.k, p.n)) for p in counted.elements()]
    # Every product is a result, and no two use the same arrays, so that the compiler can drop none.
    program = jax.jit(lambda pairs: [jnp.matmul(a, b) for a, b in pairs])
    return lambda: program(pairs)


def _needed(functions: Mapping[str, Any], block: Any, results: Iterable[int]) -> tuple[Counter[Product], set[Any]]:
    """Returns the products that some results of a block need, and all values that these results depend on."""
    *operations, returned = block.operations
    wanted = {returned.operands[i] for i in results}
    counted: Counter[Product] = Counter()
    for operation in reversed(operations):
        asked = [i for i, result in enumerate(operation.results) if result in wanted]
        if not asked:
            continue
        name = operation.operation.name
        if name == "func.call":
            callee = functions[ir.FlatSymbolRefAttr(operation.attributes["callee"]).value]
            inner, used = _needed(functions, callee, asked)
            counted += inner
            wanted |= {given for given, taken in zip(operation.operands, callee.arguments) if taken in used}
            continue
        wanted |= set(operation.operands)
        if name == "stablehlo.dot_general":
            counted[_dot(operation)] += 1
        elif name == "stablehlo.convolution":
            counted[_convolution(operation)] += 1
        # If the platform chose a branch while lowering, there is only one.
        is_choice_made = name == "stablehlo.case" and len(operation.regions) == 1
        for region in operation.regions:
            inner, used = _needed(functions, region.blocks[0], asked if is_choice_made else _results(region.blocks[0]))
            if inner and not is_choice_made:
                raise ValueError(f"products inside {name} cannot be counted: count those of its body")
            counted += inner
            wanted |= used
    return counted, wanted


def _results(block: Any) -> range:
    return range(len(block.operations[-1].operands))


def _dot(operation: Any) -> Product:
    left, right = (ir.RankedTensorType(operand.type).shape for operand in operation.operands)
    axes = stablehlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
    batch = math.prod(left[i] for i in axes.lhs_batching_dimensions)
    k = math.prod(left[i] for i in axes.lhs_contracting_dimensions)
    return Product(batch, math.prod(left) // (batch * k), k, math.prod(right) // (batch * k))


def _convolution(operation: Any) -> Product:
    """Returns the product of a convolution, of its transpose or of a derivative.

    Along each axis there are three sizes: of the image, of the window and of the result. Where the window strides, or
    zeros are put between the pixels, one of the three is inflated; it is the largest, and every pair of positions in
    the other two is multiplied once.
    """
    values = [*operation.operands, operation.results[0]]
    image, kernel, result = (ir.RankedTensorType(value.type).shape for value in values)
    axes = stablehlo.ConvDimensionNumbers(operation.attributes["dimension_numbers"])
    groups = math.prod(
        ir.IntegerAttr(operation.attributes[name]).value for name in ("feature_group_count", "batch_group_count")
    )
    pairs = 1
    positions = 1
    spatial = (axes.input_spatial_dimensions, axes.kernel_spatial_dimensions, axes.output_spatial_dimensions)
    for i, w, o in zip(*spatial, strict=True):
        smaller = sorted((image[i], kernel[w], result[o]))[:2]
        pairs *= math.prod(smaller)
        positions *= result[o]
    features = kernel[axes.kernel_input_feature_dimension]
    return Product(
        batch=groups,
        m=result[axes.output_batch_dimension] * positions,
        k=max(1, round(features * pairs / positions)),
        n=result[axes.output_feature_dimension] // groups,
    )
