"""A conditional generator of masked layers, wired as its network says.

A *layer* is a row of units: the sum of what its kernels bring, normalised, rectified, gated. A *kernel* is a masked
linear map from one layer to a later one. In a chain each layer has one kernel; in a residual block two meet, that of
the main branch and that of the shortcut, and so grow to one width. Kernels are [k, k, c_in, c_out].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.models.normalisation import batch_norm, init_norm, init_statistics
from dgm_jax.nn import INPUT, gate_units, gates_weights, masked_conv_transpose
from dgm_jax.types import GeneratorParams, Norm, Statistics

DEVIATION = 0.02  # Of fresh weights.


class Edge(NamedTuple):
    """A masked kernel: from which layer to which, and how it is applied."""

    source: int  # The number of a layer, or INPUT.
    target: int  # The number of a later layer.
    window: int  # Side k of the kernel.
    positions: int  # Where the window is laid on an image: for counting arithmetic.
    layer: Callable[..., jax.Array]  # ({"kernel": ...}, x, gate) -> what it brings: one of the masked layers.
    deviation: float = DEVIATION


class OutputLayer(NamedTuple):
    """How the kernel of a class turns the last layer into an image."""

    window: int
    positions: int
    layer: Callable[..., jax.Array]  # (x, kernel) -> image, before it is bounded
    bounded: Callable[[jax.Array], jax.Array] = jnp.tanh
    gain: float | None = None  # Fresh weights are uniform in +- gain / sqrt(c_last); None: 1 / sqrt(k^2 channels).


# The first layer of every generator: 4x4 maps from the noise, a single pixel; so it is a masked linear layer.
FROM_NOISE = Edge(INPUT, 0, 4, 1, partial(masked_conv_transpose, stride=1, padding=0))


def n_doublings(image_size: int) -> int:
    """How often the side doubles from 4x4 maps to the image; a discriminator halves it as often."""
    return int(np.log2(image_size)) - 2


@dataclass(frozen=True)
class Generator:
    """The wiring of a generator; holds no parameters."""

    edges: tuple[Edge, ...]  # In the order of their targets.
    output: OutputLayer
    sized_by_weights: bool = False  # What `size` counts.

    @property
    def ends(self) -> tuple[tuple[int, int], ...]:
        """The layers that each kernel joins."""
        return tuple((edge.source, edge.target) for edge in self.edges)

    @property
    def n_layers(self) -> int:
        """Layers of units."""
        return 1 + max(edge.target for edge in self.edges)

    def kernel_shapes(self, widths: Sequence[int], noise_dim: int) -> list[tuple[int, int, int, int]]:
        """Shapes of the masked kernels, for layers of these widths."""
        inputs = {INPUT: noise_dim} | dict(enumerate(widths))
        return [(edge.window, edge.window, inputs[edge.source], widths[edge.target]) for edge in self.edges]

    def mask_shapes(self, variant: str, widths: Sequence[int], noise_dim: int) -> list[tuple[int, ...]]:
        """Shapes of the masks: one a layer (dgma, of its units) or one a kernel (dgmw, of its weights)."""
        return [(width,) for width in widths] if variant == "dgma" else list(self.kernel_shapes(widths, noise_dim))

    def widths(self, kernels: Sequence[np.ndarray]) -> tuple[int, ...]:
        """Output units of each layer."""
        found = {edge.target: kernel.shape[-1] for edge, kernel in zip(self.edges, kernels, strict=True)}
        return tuple(found[layer] for layer in sorted(found))

    def size(self, widths: Sequence[int], noise_dim: int) -> int:
        """The size to which the weight of the sparsity term is proportional: the number of masked units or weights."""
        if self.sized_by_weights:
            return sum(int(np.prod(shape)) for shape in self.kernel_shapes(widths, noise_dim))
        return sum(widths)

    def task_parameters(self, widths: Sequence[int], channels: int, n_heads: int) -> int:
        """How many numbers belong to one task: two of each unit's norm, two of its statistics, and output layers."""
        return 4 * sum(widths) + n_heads * self.output.window**2 * widths[-1] * channels

    def init_kernels(self, key: jax.Array, widths: Sequence[int], noise_dim: int) -> list[np.ndarray]:
        """Fresh weights of the masked layers, normally distributed: what tasks share, protect and grow."""
        random = host_generator(key)
        shapes = self.kernel_shapes(widths, noise_dim)
        return [random.normal(0, e.deviation, s).astype(np.float32) for e, s in zip(self.edges, shapes, strict=True)]

    def init_task(
        self, key: jax.Array, widths: Sequence[int], channels: int, n_heads: int
    ) -> tuple[list[Norm], np.ndarray]:
        """Fresh parameters that belong to one task.

        Returns:
          A norm for each layer, and output layers [n_heads, k, k, c_last, channels], one for each class.
        """
        # Output layers start wide, U(+-1 / sqrt(k^2 channels)): with N(0, 0.02) a short training stays grey.
        k = self.output.window
        gain = self.output.gain
        bound = 1 / np.sqrt(k**2 * channels) if gain is None else gain / np.sqrt(widths[-1])
        heads = host_generator(key).uniform(-bound, bound, (n_heads, k, k, widths[-1], channels)).astype(np.float32)
        return [init_norm(width) for width in widths], heads

    def init_statistics(self, widths: Sequence[int]) -> list[Statistics]:
        """Running statistics of a task's norms before its first batch."""
        return [init_statistics(width) for width in widths]

    # Jitted, so that a program which calls it several times traces it once.
    @partial(jax.jit, static_argnums=0, static_argnames=("train", "gate_before_norm", "axis_name"))
    def generate(
        self,
        params: GeneratorParams,
        statistics: Sequence[Statistics],
        masks: Sequence[jax.Array | None],
        noise: jax.Array,
        head: jax.Array,
        *,
        train: bool,
        gate_before_norm: bool = False,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, list[Statistics]]:
        """Draws images: G(z, y).

        Args:
          params: kernels, and the norms and output layers of one task; embeddings are not used, `masks` are.
          statistics: running statistics of each layer's norm.
          masks: one a layer, [c_l], gates units after norm and ReLU (DGMa); one a kernel, of its shape, gates weights
            (DGMw); None in place of any gates nothing.
          noise: [batch, noise_dim], the one-hot class already in it.
          head: [batch], which of the task's output layers each image uses.
          train: normalise by the batch, and update the running statistics.
          gate_before_norm: gate units before their norm, as the released code does (DGMa only).
          axis_name: the mapped axis over which the batch is split, if any.

        Returns:
          Images in [-1, 1], [batch, height, width, channels], or scaled vectors, [batch, 1, 1, channels]; and the new
          running statistics.

        Raises:
          ValueError: if `gate_before_norm` is set for gated weights: these are always gated before the norm.
        """
        of_weights = any(mask is not None and gates_weights(mask) for mask in masks)
        if gate_before_norm and of_weights:
            raise ValueError("gate_before_norm is for gated units (DGMa); weights are always gated before the norm")
        nothing = [None] * len(self.edges)
        weight_gates, unit_gates = (masks, nothing) if of_weights else (nothing, masks)
        outputs = {INPUT: noise[:, None, None, :]}
        updated = []
        for layer, (norm, running) in enumerate(zip(params.norms, statistics, strict=True)):
            brought = [
                edge.layer({"kernel": params.kernels[i]}, outputs[edge.source], weight_gates[i])
                for i, edge in enumerate(self.edges)
                if edge.target == layer
            ]
            x = sum(brought[1:], start=brought[0])
            if gate_before_norm:
                x = gate_units(x, unit_gates[layer])
            x, running = batch_norm(norm, running, x, train=train, axis_name=axis_name)
            x = jax.nn.relu(x)
            outputs[layer] = x if gate_before_norm else gate_units(x, unit_gates[layer])
            updated.append(running)
        return self.output.bounded(self._output(params.heads, outputs[len(updated) - 1], head)), updated

    def _output(self, heads: jax.Array, x: jax.Array, head: jax.Array) -> jax.Array:
        """Applies to each image the output layer of its class."""
        if heads.shape[0] == 1:  # One class a task: one product for the whole batch.
            return self.output.layer(x, heads[0])
        return jax.vmap(lambda image, kernel: self.output.layer(image[None], kernel)[0])(x, heads[head])

    def flops(self, widths: Sequence[int], noise_dim: int, channels: int) -> float:
        """Floating-point operations of one forward pass for one image; widths as trained (physical)."""
        shapes = self.kernel_shapes(widths, noise_dim)
        masked = sum(edge.positions * float(np.prod(shape)) for edge, shape in zip(self.edges, shapes, strict=True))
        return 2 * (masked + self.output.positions * self.output.window**2 * widths[-1] * channels)


def host_generator(key: jax.Array) -> np.random.Generator:
    """NumPy's generator for a JAX key. JAX would compile a new program for every new shape; NumPy does not."""
    return np.random.Generator(np.random.Philox(key=np.asarray(jax.random.key_data(key), np.uint64)))


def conditioned_noise(key: jax.Array, classes: jax.Array, *, noise_dim: int, n_conditioned: int) -> jax.Array:
    """Draws noise whose first `n_conditioned` entries are the one-hot class, as the authors do for tasks of one class.

    Args:
      key: a PRNG key.
      classes: [batch] class indices below `n_conditioned`.
      noise_dim: entries in all.
      n_conditioned: entries for the class.

    Returns:
      [batch, noise_dim]: one-hot, then N(0, 1).
    """
    free = jax.random.normal(key, (classes.shape[0], noise_dim - n_conditioned))
    return jnp.concatenate([jax.nn.one_hot(classes, n_conditioned), free], axis=1)
