"""Masked layers for any JAX model: gates, protection and growth. Needs only jax and optax; knows no GAN."""

from dgm_jax.nn.convolution import conv, conv_transpose
from dgm_jax.nn.expansion import expand, grown_unit_widths, grown_weight_widths, padded_width
from dgm_jax.nn.gates import annealed_scale, binarise, gate, reserve, sparsity
from dgm_jax.nn.general import conv_general_dilated
from dgm_jax.nn.masked import gate_units, gates_weights, masked_conv, masked_conv_transpose, masked_dense
from dgm_jax.nn.patches import fold, unfold
from dgm_jax.nn.product import product
from dgm_jax.nn.protection import (
    ProtectState,
    block,
    compensate,
    multipliers,
    protect,
    reserved_weights,
    task_kernels,
    with_reserved,
)
from dgm_jax.nn.wiring import INPUT, Ends, chain

__all__ = [
    "Ends",
    "INPUT",
    "ProtectState",
    "annealed_scale",
    "binarise",
    "block",
    "chain",
    "compensate",
    "conv",
    "conv_general_dilated",
    "conv_transpose",
    "expand",
    "fold",
    "gate",
    "gate_units",
    "gates_weights",
    "grown_unit_widths",
    "grown_weight_widths",
    "masked_conv",
    "masked_conv_transpose",
    "masked_dense",
    "multipliers",
    "padded_width",
    "product",
    "protect",
    "reserve",
    "reserved_weights",
    "sparsity",
    "task_kernels",
    "unfold",
    "with_reserved",
]
