"""Time a classifier takes for an image, against calls of other sizes and against the convolution of training.

The networks are those of the presets for MNIST and CIFAR-10, with fresh weights; images are noise.

    python -m benchmarks.predict --out results/predict.jsonl
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import machine
from dgm_jax.config import Config, preset
from dgm_jax.errors import exit_status
from dgm_jax.models import pair
from dgm_jax.models.prediction import predict, to_unit_range
from dgm_jax.types import DiscriminatorParams, Statistics

_IMAGES, _CLASSES = 2048, 10
_CHANNELS = {"mnist": 1, "cifar10": 3}


def measure(config: Config, channels: int, *, n: int = _IMAGES, seconds: float) -> dict[str, Any]:
    """Times `predict`, and the convolution of training with 256 and 64 images a call, in turns.

    Args:
      config: the settings that name the network.
      channels: of the images.
      n: number of images.
      seconds: how long to measure, without compiling.

    Returns:
      For each way, under its name, microseconds of an image: "cpu_us" of all cores together, "wall_us"; "ratio", CPU
      time by that of `predict` (median over turns); "largest_difference" of a logit from `predict`'s.
    """
    own = config.networks
    params, statistics_ = pair(own.network).init_discriminator(
        jax.random.key(0),
        width=own.discriminator_width,
        image_size=config.data.image_size,
        channels=channels,
        n_classes=_CLASSES,
    )
    shape = (n, config.data.image_size, config.data.image_size, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    program = jax.jit(partial(_by_training_s_convolution, network=own.network))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "predict": partial(predict, params, statistics_, images, network=own.network),
        "patches, 64 a call": partial(_one_after_the_other, program, params, statistics_, images, 64),
        "patches, 256 a call": partial(_one_after_the_other, program, params, statistics_, images, 256),
    }
    logits = {name: way() for name, way in ways.items()}
    taken = _in_turns(list(ways.values()), seconds) * 1e6 / n  # [turns, ways, (CPU, wall)]
    return {
        name: {
            "cpu_us": float(np.median(taken[:, i, 0])),
            "wall_us": float(np.median(taken[:, i, 1])),
            "ratio": statistics.median(taken[:, i, 0] / taken[:, 0, 0]),
            "largest_difference": float(np.abs(logits[name] - logits["predict"]).max()),
        }
        for i, name in enumerate(ways)
    }


def _by_training_s_convolution(
    params: DiscriminatorParams, statistics_: Sequence[Statistics], images: jax.Array, *, network: str
) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return pair(network).discriminate(params, statistics_, to_unit_range(images), train=False)[0].logits


def _one_after_the_other(
    program: Callable[..., jax.Array],
    params: DiscriminatorParams,
    statistics_: Sequence[Statistics],
    images: np.ndarray,
    size: int,
) -> np.ndarray:
    """Waits for the logits of each batch before the next."""
    starts = range(0, len(images), size)
    return np.concatenate([jax.device_get(program(params, statistics_, images[i : i + size])) for i in starts])


def _in_turns(ways: Sequence[Callable[[], Any]], seconds: float) -> np.ndarray:
    """CPU seconds of all threads and wall seconds, [turns, ways, 2]; at least three turns."""
    turns: list[list[tuple[float, float]]] = []
    begun = time.perf_counter()
    while len(turns) < 3 or time.perf_counter() - begun < seconds:
        turns.append([])
        for way in ways:
            cpu, wall = time.process_time(), time.perf_counter()
            way()
            turns[-1].append((time.process_time() - cpu, time.perf_counter() - wall))
    return np.asarray(turns)


def table(name: str, found: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the figures of a network as text."""
    lines = [f"{name:8} {'way':20} {'CPU us':>8} {'wall us':>8} {'ratio':>6} {'difference':>11}"]
    for way, own in found.items():
        lines.append(
            f"{name:8} {way:20} {own['cpu_us']:8.1f} {own['wall_us']:8.1f} {own['ratio']:6.2f} "
            f"{own['largest_difference']:11.1e}"
        )
    return "\n".join(lines)


def main(out: Path | None = None) -> None:
    """Measures both networks, prints tables, and writes records.

    Args:
      out: file of JSON Lines; a line for each network is added.
    """
    machine.check("float32", out)
    for name, channels in _CHANNELS.items():
        found = measure(preset(name), channels, seconds=20.0)
        print(table(name, found), flush=True)
        machine.keep(out, network=name, images=_IMAGES, ways=found, **machine.peak_bytes())


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.predict", description=__doc__)))
