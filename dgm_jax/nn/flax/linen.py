"""Masked layers for `flax.linen`, and what a model of them needs: protection, the end of a task, old tasks, growth.

The embeddings of gates are the parameters "gate"; what earlier tasks have reserved is in the collection "reserved". The
functions take and return variables, such as `model.init` gives; paths are those of `dgm_jax.nn.flax.nnx`, with linen's
names of layers: `["conv1", "block.conv2", "dense"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen
from flax.linen.linear import default_kernel_init
from flax.typing import Dtype, Initializer, PrecisionLike
from jax.typing import ArrayLike

from dgm_jax.nn.flax import forward, network
from dgm_jax.nn.flax.network import Network, Path, Task
from dgm_jax.nn.flax.network import not_gates as not_gates
from dgm_jax.nn.geometry import Padding, Sizes
from dgm_jax.nn.protection import protect as protect_weights

Variables = Mapping[str, Any]
Then = Callable[[jax.Array], jax.Array]


class MaskedDense(linen.Module):
    """`linen.Dense` with gates. The kernel has the layout of Flax, so trained weights go in as they are.

    Attributes:
      features, dtype, param_dtype, precision, kernel_init: those of `linen.Dense`.
      gates: "units" for one gate per output unit (DGMa), "weights" for one per weight (DGMw).
      use_bias: must be False, because no gate would protect a bias.
    """

    features: int
    gates: forward.Gates = "units"
    use_bias: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init

    @linen.compact
    def __call__(self, x: jax.Array, *, slope: ArrayLike | None, then: Then | None = None) -> jax.Array:
        """Applies the layer; arguments are those of `dgm_jax.nn.flax.nnx.MaskedLinear`."""
        return _masked(self, (), forward.dense, x, slope, then)


class MaskedConv(linen.Module):
    """`linen.Conv` with gates; see `MaskedDense`.

    Attributes:
      kernel_size, strides, padding: those of `linen.Conv`; of the names of paddings, 'SAME' and 'VALID'.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: Sizes | None = 1
    padding: Padding = "SAME"
    gates: forward.Gates = "units"
    use_bias: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init

    @linen.compact
    def __call__(self, x: jax.Array, *, slope: ArrayLike | None, then: Then | None = None) -> jax.Array:
        """Applies the layer; arguments are those of `dgm_jax.nn.flax.nnx.MaskedLinear`."""
        window = forward.window(self.kernel_size)
        return _masked(self, window, forward.conv(window, self.strides, self.padding), x, slope, then)


class MaskedConvTranspose(MaskedConv):
    """`linen.ConvTranspose` with gates; see `MaskedConv`."""

    @linen.compact
    def __call__(self, x: jax.Array, *, slope: ArrayLike | None, then: Then | None = None) -> jax.Array:
        """Applies the layer; arguments are those of `dgm_jax.nn.flax.nnx.MaskedLinear`."""
        window = forward.window(self.kernel_size)
        return _masked(self, window, forward.conv_transpose(window, self.strides, self.padding), x, slope, then)


def _masked(
    layer: Any,
    window: tuple[int, ...],
    linear: forward.Linear,
    x: jax.Array,
    slope: ArrayLike | None,
    then: Then | None,
) -> jax.Array:
    forward.refuse_bias(layer.use_bias)
    shape = (*window, x.shape[-1], layer.features)
    of_gates = forward.gate_shape(layer.gates, shape)
    kernel = layer.param("kernel", layer.kernel_init, shape, layer.param_dtype)
    gate = layer.param("gate", linen.initializers.zeros_init(), of_gates, layer.param_dtype)
    if layer.is_initializing():  # Later, nothing in the forward pass reads it.
        layer.variable("reserved", "mask", jnp.zeros, of_gates, bool)
    return forward.masked(linear, x, kernel, gate, slope, then, layer.dtype, layer.precision)


def reserved_weights(variables: Variables, *paths: Path) -> dict[Any, Any]:
    """Which weights earlier tasks have reserved: masks by name, for `nn.protect` and `nn.with_reserved`."""
    return network.protection(_read(variables), paths)


def protect(variables: Variables, *paths: Path) -> optax.GradientTransformationExtraArgs:
    """Keeps the reserved weights where they are; chain it after the optimiser, see `nn.protect`.

    The masks are those of now. After `reserve`, make a new optimiser, or give the old one's state the new masks by
    `nn.with_reserved(state, reserved_weights(variables, *paths))`.
    """
    return protect_weights(reserved_weights(variables, *paths))


def sparsity(variables: Variables, slope: ArrayLike) -> jax.Array:
    """The share of the free capacity that the gates open, in [0, 1]: a penalty, see `nn.sparsity`.

    Args:
      variables: with the collections "params" and "reserved".
      slope: that of the layers.
    """
    return network.sparsity(_read(variables), slope)


def reserve(variables: Variables, *paths: Path) -> tuple[dict[str, Any], Task]:
    """Ends a task.

    Returns:
      Variables where what the task uses is reserved, and all gates are as at the beginning; and the task, for `use`.
      It holds the binary masks, and copies of what is not protected: norms, statistics, heads.
    """
    ended, task = network.reserve(_read(variables), paths)
    return _variables(ended), task


def use(variables: Variables, task: Task) -> dict[str, Any]:
    """Variables as they were at the end of a task, for the module of the widths of that day.

    The outputs are the same bit for bit; see `dgm_jax.nn.flax.nnx.use`.

    Raises:
      ValueError: if the task's masks do not fit the variables.
    """
    return _variables(network.use(_read(variables), task))


def expand(old: Variables, fresh: Variables, *paths: Path) -> dict[str, Any]:
    """Growth: variables of a wider module, with the weights, statistics and masks of the old ones.

    New units have the weights of `fresh`, and so have all gates. See `dgm_jax.nn.flax.nnx.expand`.
    """
    return _variables(network.grown(_read(old), _read(fresh), paths))


def expand_moments(old_state: Any, fresh_state: Any, old: Variables, fresh: Variables, *paths: Path) -> Any:
    """Growth of an optimiser: its fresh state with the counts and moments of the old one.

    Moments of gates and the masks of `nn.protect` are those of `fresh_state`.
    """
    return network.grown_moments(old_state, fresh_state, _read(old), _read(fresh), paths)


def _read(variables: Variables) -> Network:
    """The arrays of variables."""
    boxes = linen.meta.AxisMetadata
    if any(isinstance(leaf, boxes) for leaf in jax.tree.leaves(variables, is_leaf=lambda x: isinstance(x, boxes))):
        raise ValueError("the variables are boxed (`linen.with_partitioning`); give `linen.meta.unbox(variables)`")
    collections = {name: network.flat(tree) for name, tree in variables.items()}
    if "reserved" not in collections:
        raise ValueError(f"the collections are {', '.join(collections)}; expected 'params', 'reserved' and all others")
    found = Network({}, {}, {name[:-1]: mask for name, mask in collections["reserved"].items()}, {})
    for collection, arrays in collections.items():
        for name, array in arrays.items():
            if collection == "reserved":
                continue
            if collection == "params" and name[-1] == "kernel":
                found.kernels[name[:-1]] = array
            elif collection == "params" and name[-1] == "gate" and name[:-1] in found.reserved:
                found.gates[name[:-1]] = array
            else:
                found.others[(collection, *name)] = array
    return found


def _variables(arrays: Network) -> dict[str, Any]:
    """The inverse of `_read`."""
    kernels = {("params", *name, "kernel"): array for name, array in arrays.kernels.items()}
    gates = {("params", *name, "gate"): array for name, array in arrays.gates.items()}
    reserved = {("reserved", *name, "mask"): array for name, array in arrays.reserved.items()}
    return network.nested(kernels | gates | reserved | arrays.others)  # type: ignore[return-value]
