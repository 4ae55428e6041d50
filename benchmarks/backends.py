"""Host time of a call of a mapped program, by backend and number of devices: `pmap` against `jit` of `shard_map`.

The program takes and gives the arrays of a training step with the authors' settings for MNIST, and computes almost
nothing. Backends are timed in turns, and only the time that the calling thread computes counts. Virtual CPU devices
take the place of real ones. A call of a run takes about a second, so a difference of a millisecond is 0.1 %.

    python -m benchmarks.backends --out backends.jsonl
"""

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import machine
from benchmarks.points import settings
from dgm_jax.errors import exit_status
from dgm_jax.training.devices import data_parallel, place
from dgm_jax.training.task import Networks, begin_task

COUNTS = (1, 2, 4)
_ROUNDS, _CALLS = 60, 5
_DROPPED = 5  # Rounds before figures count.


def measure(n: int) -> dict[str, float]:
    """Returns microseconds of a call on `n` devices for each backend: the median of all rounds."""
    devices, config = jax.devices()[:n], settings("dgmw")
    networks, key = Networks(config, channels=1, n_classes=10, max_heads=1), jax.random.key(0)
    widths = networks.first_widths
    state, capacity = begin_task(
        networks,
        key,
        networks.new_kernels(key, widths),
        [np.zeros(shape, bool) for shape in networks.mask_shapes(widths)],
        physical=widths,
        classes=[0],
        discriminator=None,
    )

    def step(state: Any, capacity: Any, key: Any, sums: Any, start: Any, stop: Any, shard: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf, state), sums + start

    arguments = place((capacity, key), devices)
    calls = {backend: data_parallel(step, devices, backend) for backend in ("pmap", "shard_map")}
    states = {backend: place(state, devices) for backend in calls}
    rounds: dict[str, list[float]] = {backend: [] for backend in calls}
    for _ in range(_ROUNDS):
        for backend, call in calls.items():
            begun = time.thread_time()
            for _ in range(_CALLS):
                numbers = (np.zeros(16, np.float32), np.int32(0), np.int32(5))
                states[backend], _ = call(states[backend], *arguments, *numbers)
            rounds[backend].append(1e6 * (time.thread_time() - begun) / _CALLS)
            jax.block_until_ready(states[backend])
    return {backend: statistics.median(times[_DROPPED:]) for backend, times in rounds.items()}


def main(out: Path | None = None) -> None:
    """Measures each number of devices, prints a line for each, and writes records.

    Args:
      out: file of JSON Lines; a line for each number of devices is added.
    """
    # Read when the first device is used, which is below.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(COUNTS)}"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    for n in COUNTS:
        microseconds = measure(n)
        said = ", ".join(f"{backend} {value:.0f} us" for backend, value in microseconds.items())
        ratio = microseconds["shard_map"] / microseconds["pmap"]
        print(f"{n} devices: {said} a call; shard_map / pmap {ratio:.2f}", flush=True)
        machine.keep(out, devices=n, microseconds=microseconds)


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.backends", description=__doc__)))
