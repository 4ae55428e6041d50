"""Seconds to draw 1 000 images of the first task's memory, right after it was learnt and after nine tasks more.

A task's own sub-network is cut out of a generator that has grown since, so an old task should stay as cheap to draw as
on its first day. Widths are those of `benchmarks.step`; weights and masks are random, half of the gates open.

    python -m benchmarks.replay --json replay.json
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import arithmetic, machine
from benchmarks.points import TASKS, settings, widths_of_tasks
from dgm_jax.config import Config, Variant
from dgm_jax.memory.memory import Memory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.models import dcgan
from dgm_jax.system.files import write_json

REPLAYED = 1000  # Images whose drawing is timed.
CHUNK = 125  # Of which so many are counted, and drawn plainly, at once: about as many as a memory draws at once.


def memory_at(widths: Sequence[tuple[int, ...]], variant: Variant, config: Config, n_classes: int) -> Memory:
    """A memory of one task for each of these widths, at which it ended; weights and masks are random.

    Args:
      widths: of each task, first to last; the last are the memory's own.
      variant: what masks gate.
      config: sizes of noise and generator.
      n_classes: of the whole stream.
    """
    generator = dcgan.generator(config.data.image_size)

    def masks(seed: int, own: tuple[int, ...]) -> list[np.ndarray]:
        draw = np.random.default_rng(seed)
        shapes = [(w,) for w in own] if variant == "dgma" else generator.kernel_shapes(own, config.networks.noise_dim)
        return [draw.permutation(np.arange(np.prod(shape)) % 2 == 0).reshape(shape) for shape in shapes]

    def task(index: int, own: tuple[int, ...]) -> TaskMemory:
        parameters = jax.device_get(generator.init_task(jax.random.key(index), own, 1, 1))
        return TaskMemory(
            classes=(index,),
            widths=own,
            masks=masks(index, own),
            norms=parameters["norms"],
            statistics=jax.device_get(generator.init_statistics(own)),
            heads=parameters["heads"],
            n_conditioned=n_classes,
        )

    labels = tuple(range(n_classes))
    return Memory(
        kernels=generator.init_kernels(jax.random.key(0), widths[-1], config.networks.noise_dim),
        reserved=masks(0, widths[-1]),
        tasks=tuple(task(index, own) for index, own in enumerate(widths)),
        noise_dim=config.networks.noise_dim,
        image_size=config.data.image_size,
        labels=labels,
        names=tuple(map(str, labels)),
    )


def replay_products(memory: Memory, task: int, n: int) -> Counter[arithmetic.Product]:
    """The matrix products that drawing `n` images of a task needs: of its open units alone, without padding."""
    own = memory.tasks[task]
    widths = [int(mask.sum()) for mask in own.masks] if own.masks[0].ndim == 1 else own.widths
    channels = own.heads.shape[-1]

    key = jax.random.key(0)
    params = {
        "kernels": memory.generator.init_kernels(key, widths, memory.noise_dim),
        **memory.generator.init_task(key, widths, channels, 1),
    }

    def generate(params: dict[str, Any]) -> jax.Array:
        noise, head = jnp.zeros((n, memory.noise_dim)), jnp.zeros(n, jnp.int32)
        statistics = memory.generator.init_statistics(widths)
        return memory.generator.generate(params, statistics, [None] * len(widths), noise, head, train=False)[0]

    return arithmetic.products(generate, params)


def measure(widths: Sequence[tuple[int, ...]], variant: Variant, config: Config, *, seconds: float) -> dict[str, Any]:
    """Times the replay of each task from the grown memory, and of the first from the memory of its own day.

    Args:
      widths: at which each task ended.
      variant: what masks gate.
      config: sizes of noise and generator.
      seconds: to spend, compiling apart.

    Returns:
      "seconds" of each task, "ratios" to the first task's, and "ratio_to_first_day" of the first task's.
    """
    grown, young = (memory_at(own, variant, config, len(widths)) for own in (widths, widths[:1]))
    key = jax.random.key(0)
    calls = [partial(young.images, 0, REPLAYED, key)]
    calls += [partial(grown.images, task, REPLAYED, key) for task in range(len(widths))]
    taken = machine.alternately(calls, seconds=seconds)
    # Of each round: what slows the machine for a moment slows all.
    ratios = np.median(taken[:, 1:] / taken[:, 1:2], axis=0)
    return {
        "widths": [list(own) for own in widths],
        "seconds_on_first_day": float(np.median(taken[:, 0])),
        "seconds": np.median(taken[:, 1:], axis=0).tolist(),
        "ratios": ratios.tolist(),
        "ratio_to_first_day": float(np.median(taken[:, 1] / taken[:, 0])),
        "gflop": [arithmetic.gflop(replay_products(grown, task, REPLAYED)) for task in range(len(widths))],
    }


def table(variants: Mapping[str, Any]) -> str:
    """Lays the figures out for people."""
    lines = []
    for variant, own in variants.items():
        lines.append(
            f"{variant}: task 0 on its first day {own['seconds_on_first_day']:.4f} s, after task {TASKS - 1} "
            f"{own['seconds'][0]:.4f} s: {own['ratio_to_first_day']:.2f} x"
        )
        for task, (seconds, ratio, gflop) in enumerate(zip(own["seconds"], own["ratios"], own["gflop"])):
            lines.append(f"  task {task}: {seconds:8.4f} s, {ratio:6.2f} x task 0; {gflop:8.2f} GFLOP")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures both variants, prints a table, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(argv)
    variants = {}
    for variant in get_args(Variant):
        variants[variant] = measure(widths_of_tasks(variant), variant, settings(variant), seconds=20.0)
        print(table({variant: variants[variant]}), flush=True)
    result = {"machine": machine.describe(), "images": REPLAYED, "variants": variants, **machine.peak_bytes()}
    print(f"peak memory: {machine.in_words(result)}")
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
