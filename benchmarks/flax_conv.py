"""Seconds of a training step of stock Flax networks, with `nn.conv_general_dilated` and with JAX's own.

Each step is timed twice with each of the two convolutions, in turns within one process: compiled by itself, and inside
`lax.scan`, where XLA's convolutions on CPUs are slowest. The losses are the cross-entropy, and the cross-entropy
with a gradient penalty, whose gradient is a second derivative. At size "wide", patches should lose outside of loops:
its images are small and its channels many, so XLA's convolution comes closest to a matrix product.

    python -m benchmarks.flax_conv --out flax_conv.jsonl
    python -m benchmarks.flax_conv --sizes small
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jax import lax

from benchmarks import machine
from dgm_jax import nn
from dgm_jax.errors import UserError, exit_status

STEPS = 4  # In one call of a scan.
SECONDS = 10.0  # For each row.
_CLASSES = 10
_LEARNING_RATE = 0.01
Params = Any
Batch = tuple[jax.Array, jax.Array]  # Images and labels.
Loss = Callable[[Params, Batch], jax.Array]


class Size(NamedTuple):
    """A network and its mini-batch."""

    name: str
    images: tuple[int, int, int, int]  # [batch, height, width, channels].
    channels: tuple[int, ...]  # Of each convolution.
    window: int
    stride: int


SIZES = (
    Size("small", (32, 8, 8, 1), (8, 16), 3, 2),
    Size("middle", (32, 28, 28, 1), (16, 32), 5, 2),
    Size("wide", (32, 8, 8, 64), (128, 128), 3, 1),
)


class Network(linen.Module):
    """Convolutions with biases and rectifiers, the mean over space, and a linear head: layers of Flax only."""

    size: Size
    convolution: Callable[..., jax.Array]

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits, [batch, 10]."""
        window, strides = (self.size.window,) * 2, (self.size.stride,) * 2
        for features in self.size.channels:
            x = linen.relu(linen.Conv(features, window, strides, conv_general_dilated=self.convolution)(x))
        return linen.Dense(_CLASSES)(x.mean((1, 2)))


def losses(network: Network) -> dict[str, Loss]:
    """Returns the two losses as functions of the parameters and a mini-batch."""

    def logits(params: Params, images: jax.Array) -> Any:
        return network.apply(params, images)

    def cross_entropy(params: Params, batch: Batch) -> jax.Array:
        images, labels = batch
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()

    def penalised(params: Params, batch: Batch) -> jax.Array:
        by_image = jax.grad(lambda images: jnp.sum(logits(params, images)[:, 0]))(batch[0])
        norms = jnp.sqrt(jnp.sum(by_image**2, (1, 2, 3)) + 1e-12)
        return cross_entropy(params, batch) + jnp.mean((norms - 1) ** 2)

    return {"cross-entropy": cross_entropy, "with gradient penalty": penalised}


def programs(loss: Loss) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns a step of gradient descent, and STEPS of them in a scan: compiled functions of parameters and batch."""

    def step(params: Params, batch: Batch) -> tuple[Params, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - _LEARNING_RATE * g, params, gradient), value

    def scan(params: Params, batch: Batch) -> tuple[Params, jax.Array]:
        return lax.scan(lambda params, _: step(params, batch), params, length=STEPS)

    return jax.jit(step), jax.jit(scan)


def measure(size: Size, *, seconds: float) -> list[dict[str, Any]]:
    """Times both convolutions in a network of this size.

    Args:
      size: the network.
      seconds: how long to measure each row, without compiling; three rounds at least.

    Returns:
      A record for each loss. It has the milliseconds of a step with each convolution, inside a scan and by itself; the
      median ratios; and the largest relative difference between the losses of both over the steps of a scan.
    """
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=size.images), jnp.float32)
    labels = jnp.asarray(rng.integers(_CLASSES, size=size.images[0]))
    ours, stock = (Network(size, convolve) for convolve in (nn.conv_general_dilated, lax.conv_general_dilated))
    arguments = jax.jit(stock.init)(jax.random.key(0), images), (images, labels)
    pairs = zip(losses(ours).items(), losses(stock).values(), strict=True)
    return [{"loss": name} | _compared(loss, stock_loss, arguments, seconds) for (name, loss), stock_loss in pairs]


def _compared(ours: Loss, stock: Loss, arguments: tuple[Params, Batch], seconds: float) -> dict[str, Any]:
    (step, scan), (stock_step, stock_scan) = programs(ours), programs(stock)
    values, expected = (np.asarray(program(*arguments)[1], np.float64) for program in (scan, stock_scan))
    calls = [partial(program, *arguments) for program in (step, stock_step, scan, stock_scan)]
    taken = machine.alternately(calls, seconds=seconds) / (1, 1, STEPS, STEPS)
    milliseconds = 1e3 * np.median(taken, axis=0)
    return {
        "milliseconds": dict(zip(("ours", "jax", "ours in scan", "jax in scan"), milliseconds.tolist())),
        "ratio": float(np.median(taken[:, 0] / taken[:, 1])),
        "ratio_in_scan": float(np.median(taken[:, 2] / taken[:, 3])),
        "loss_difference": float(np.max(np.abs(values / expected - 1))),
        "rounds": len(taken),
    }


def row(size: Size, found: Mapping[str, Any]) -> str:
    """Returns the figures as a line of text."""
    times = found["milliseconds"]
    return (
        f"{size.name:7} {found['loss']:22} in scan {times['ours in scan']:9.2f} ms, JAX's {times['jax in scan']:9.2f}: "
        f"{found['ratio_in_scan']:.3f} x; alone {times['ours']:8.2f} ms, JAX's {times['jax']:8.2f}: "
        f"{found['ratio']:.2f} x; losses differ by {found['loss_difference']:.0e}"
    )


def main(sizes: Sequence[str] = (), out: Path | None = None) -> None:
    """Measures the chosen sizes, prints a line for each loss, and writes records.

    Args:
      sizes: names of sizes, e.g. small wide (default: all sizes).
      out: file of JSON Lines; a line for each size and loss is added.
    """
    names = [size.name for size in SIZES]
    unknown = [name for name in sizes if name not in names]
    if unknown:
        raise UserError(f"--sizes {' '.join(unknown)}: unknown; choose from {', '.join(names)}")
    machine.check("float32", out)
    for size in (size for size in SIZES if size.name in (sizes or names)):
        for found in measure(size, seconds=SECONDS):
            print(row(size, found), flush=True)
            network = size._asdict()
            machine.keep(out, size=network.pop("name"), **network, **found)


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.flax_conv", description=__doc__)))
