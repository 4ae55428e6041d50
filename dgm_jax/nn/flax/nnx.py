"""Masked layers for `flax.nnx`, and what a model of them needs: protection, the end of a task, old tasks, growth.

The functions find the masked layers in any module. Which layer reads which is said in *paths*: each is a list of the
names of layers in the order in which data flow, such as `["conv1", "block.conv2", "dense"]`. Where branches part or
are added up, give several paths. Layers without gates may be in a path. A layer that is in no path behind another one
counts as reading the input of the network; this protects more weights, never fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from flax.typing import Dtype, Initializer, PrecisionLike
from jax.typing import ArrayLike

from dgm_jax.nn.flax import forward, network
from dgm_jax.nn.flax.network import Network, Path, Task
from dgm_jax.nn.flax.network import not_gates as not_gates
from dgm_jax.nn.geometry import Padding, Sizes
from dgm_jax.nn.protection import protect as protect_weights

ModelT = TypeVar("ModelT", bound=nnx.Module)


class Gate(nnx.Param):
    """The embedding of gates. It is a parameter, so that `nnx.grad` and `nnx.Optimizer` see it."""


class Reserved(nnx.Variable):
    """The cumulative mask of what earlier tasks have reserved, bool."""


class _Masked(nnx.Module):
    """A kernel and its gates. Each subclass says in `_linear` how the kernel is applied."""

    def __init__(
        self,
        shape: tuple[int, ...],
        gates: forward.Gates,
        use_bias: bool,
        dtype: Dtype | None,
        param_dtype: Dtype,
        precision: PrecisionLike,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ):
        forward.refuse_bias(use_bias)
        of_gates = forward.gate_shape(gates, shape)
        self.in_features, self.out_features, self.gates = shape[-2], shape[-1], gates
        self.dtype, self.param_dtype, self.precision = dtype, param_dtype, precision
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.gate = Gate(jnp.zeros(of_gates, param_dtype))
        self.reserved = Reserved(jnp.zeros(of_gates, bool))

    def _linear(self) -> forward.Linear:
        raise NotImplementedError

    def __call__(
        self, x: jax.Array, *, slope: ArrayLike | None, then: Callable[[jax.Array], jax.Array] | None = None
    ) -> jax.Array:
        """Applies the layer.

        Args:
          x: as for the layer of Flax.
          slope: the slope of the gates, a scalar > 0, see `nn.annealed_scale`; None: gates are open or closed as the
            signs of their embeddings say.
          then: what comes between the kernel and the gates, such as a norm and an activation; it keeps the last axis.
            A closed unit emits exactly 0 only if nothing but an activation with f(0) = 0 follows the layer. A norm
            that follows it would turn the 0 into its shift, so give a norm here.
        """
        arrays = (self.kernel[...], self.gate[...])
        return forward.masked(self._linear(), x, *arrays, slope, then, self.dtype, self.precision)


class MaskedLinear(_Masked):
    """`nnx.Linear` with gates. The kernel has the layout of Flax, so trained weights go in as they are."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        gates: forward.Gates = "units",
        use_bias: bool = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        rngs: nnx.Rngs,
    ):
        """Makes the layer.

        Args:
          in_features, out_features, dtype, param_dtype, precision, kernel_init, rngs: those of `nnx.Linear`.
          gates: "units" for one gate per output unit (DGMa), "weights" for one per weight (DGMw).
          use_bias: must be False, because no gate would protect a bias.

        Raises:
          ValueError: if `gates` is another word, or `use_bias` is True.
        """
        shape = (in_features, out_features)
        super().__init__(shape, gates, use_bias, dtype, param_dtype, precision, kernel_init, rngs)

    def _linear(self) -> forward.Linear:
        return forward.dense


class MaskedConv(_Masked):
    """`nnx.Conv` with gates; see `MaskedLinear`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: Sizes | None = 1,
        *,
        padding: Padding = "SAME",
        gates: forward.Gates = "units",
        use_bias: bool = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        rngs: nnx.Rngs,
    ):
        """Makes the layer.

        Args:
          in_features, out_features, kernel_size, strides: those of `nnx.Conv`.
          padding: that of `nnx.Conv`: numbers, pairs, 'SAME' or 'VALID'.
          gates, use_bias, dtype, param_dtype, precision, kernel_init, rngs: those of `MaskedLinear`.
        """
        shape = (*forward.window(kernel_size), in_features, out_features)
        super().__init__(shape, gates, use_bias, dtype, param_dtype, precision, kernel_init, rngs)
        self.kernel_size, self.strides, self.padding = shape[:-2], forward.fixed(strides), forward.fixed(padding)

    def _linear(self) -> forward.Linear:
        return forward.conv(self.kernel_size, self.strides, self.padding)


class MaskedConvTranspose(MaskedConv):
    """`nnx.ConvTranspose` with gates; see `MaskedConv`."""

    def _linear(self) -> forward.Linear:
        return forward.conv_transpose(self.kernel_size, self.strides, self.padding)


def reserved_weights(model: nnx.Module, *paths: Path) -> dict[Any, Any]:
    """Which weights earlier tasks have reserved: masks by name, for `nn.protect` and `nn.with_reserved`."""
    return network.protection(_read(model), paths)


def protect(model: nnx.Module, *paths: Path) -> optax.GradientTransformationExtraArgs:
    """Keeps the reserved weights where they are; chain it after the optimiser, see `nn.protect`.

    The masks are those of now. After `reserve`, make a new optimiser, or give the old one's state the new masks by
    `nn.with_reserved(state, reserved_weights(model, *paths))`.
    """
    return protect_weights(reserved_weights(model, *paths))


def sparsity(model: nnx.Module, slope: ArrayLike) -> jax.Array:
    """The share of the free capacity that the gates open, in [0, 1]: a penalty, see `nn.sparsity`."""
    return network.sparsity(_read(model), slope)


def reserve(model: nnx.Module, *paths: Path) -> Task:
    """Ends a task. The model changes: what the task uses is reserved, and all gates are as at the beginning.

    Returns:
      The task, for `use`. It holds the binary masks, and copies of what is not protected: norms, statistics, heads.
    """
    structure, state = nnx.split(model)
    ended, task = network.reserve(_read(model), paths, structure)
    nnx.update(model, _state(ended))
    return task


def use(model: nnx.Module, task: Task) -> Any:
    """The model as it was at the end of a task: a new module, in evaluation mode, of the widths of that day.

    Its outputs are the same bit for bit, whatever later tasks have learnt and however the model has grown: weights that
    the task uses come from `model`, where they are protected, all others are 0, and the rest comes from the task. The
    slope has no effect on its gates.

    Raises:
      ValueError: if the task's masks do not fit the model.
    """
    old = nnx.merge(task.structure, _state(network.use(_read(model), task)))
    old.eval()
    return old


def expand(old: nnx.Module, fresh: ModelT, *paths: Path) -> ModelT:
    """Growth: a new module like `fresh`, a model of grown widths, with the weights, statistics and masks of `old`.

    New units have the weights of `fresh`, and so have all gates. Both arguments stay as they are.

    Raises:
      ValueError: if something shrinks or is missing, or if it is not known where the old weights belong: a kernel whose
        inputs grow must be in a path behind the layer that it reads.
    """
    structure, _ = nnx.split(fresh)
    return nnx.merge(structure, _state(network.grown(_read(old), _read(fresh), paths)))


def expand_moments(old_state: Any, fresh_state: Any, old: nnx.Module, fresh: nnx.Module, *paths: Path) -> Any:
    """Growth of an optimiser: its fresh state with the counts and moments of the old one.

        optimiser.opt_state = expand_moments(old_optimiser.opt_state, optimiser.opt_state, old, model, path)

    Moments of gates and the masks of `nn.protect` are those of `fresh_state`.
    """
    return network.grown_moments(old_state, fresh_state, _read(old), _read(fresh), paths)


def _read(model: nnx.Module) -> Network:
    """The arrays of a module."""
    variables: dict[Any, Any] = dict(nnx.to_flat_state(nnx.state(model)))
    found = Network({}, {}, {}, {})
    for path, variable in variables.items():
        value = variable.get_value()
        if isinstance(variable, Gate):
            found.gates[path[:-1]] = value
        elif isinstance(variable, Reserved):
            found.reserved[path[:-1]] = value
        elif path[-1] == "kernel":
            found.kernels[path[:-1]] = value
        else:
            found.others[path] = value
    return found


def _state(arrays: Network) -> Any:
    """The inverse of `_read`: a state that `nnx.merge` and `nnx.update` take."""
    parts = {"kernel": arrays.kernels, "gate": arrays.gates, "reserved": arrays.reserved}
    named: Any = {(*name, leaf): array for leaf, part in parts.items() for name, array in part.items()}
    return nnx.from_flat_state(arrays.others | named)
