"""Seconds to sample 1 000 images of the first task from memory, right after it was learnt and after nine more tasks.

A task's sub-network is cut out of a generator that has grown since, so sampling an old task should stay as cheap as it
was at first. Widths are those of `benchmarks.step`; weights and masks are random, half of the gates open.

    python -m benchmarks.replay --out replay.jsonl
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import arg

from benchmarks import arithmetic, machine, records
from benchmarks.points import TASKS, settings, widths_of_tasks
from dgm_jax.commands.arguments import parse_options
from dgm_jax.config import Config, Variant
from dgm_jax.errors import exit_status
from dgm_jax.memory.memory import Memory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.models import dcgan
from dgm_jax.types import GeneratorParams

REPLAYED = 1000  # Number of images whose sampling is timed.
CHUNK = 125  # Number of images for which products are counted at once: about as many as a memory samples at once.


def memory_at(widths: Sequence[tuple[int, ...]], variant: Variant, config: Config, n_classes: int) -> Memory:
    """Builds a memory with one task for each of these widths; weights and masks are random.

    Args:
      widths: the widths at the end of each task; the last ones are those of the generator.
      variant: what masks gate.
      config: sizes of noise and generator.
      n_classes: number of classes of the whole stream.
    """
    generator = dcgan.generator(config.data.image_size)

    def masks(seed: int, task_widths: tuple[int, ...]) -> list[np.ndarray]:
        numbers = np.random.default_rng(seed)
        by_weight = generator.kernel_shapes(task_widths, config.networks.noise_dim)
        shapes = [(width,) for width in task_widths] if variant == "dgma" else by_weight
        return [numbers.permutation(np.arange(np.prod(shape)) % 2 == 0).reshape(shape) for shape in shapes]

    def task(index: int, task_widths: tuple[int, ...]) -> TaskMemory:
        norms, heads = generator.init_task(jax.random.key(index), task_widths, 1, 1)
        return TaskMemory(
            classes=(index,),
            widths=task_widths,
            masks=masks(index, task_widths),
            norms=norms,
            statistics=generator.init_statistics(task_widths),
            heads=heads,
            n_conditioned=n_classes,
        )

    labels = tuple(range(n_classes))
    return Memory(
        kernels=generator.init_kernels(jax.random.key(0), widths[-1], config.networks.noise_dim),
        reserved=masks(0, widths[-1]),
        tasks=tuple(task(index, task_widths) for index, task_widths in enumerate(widths)),
        noise_dim=config.networks.noise_dim,
        image_size=config.data.image_size,
        labels=labels,
        names=tuple(map(str, labels)),
    )


def replay_products(memory: Memory, task: int, n: int) -> Counter[arithmetic.Product]:
    """Counts the matrix products that sampling `n` images of a task needs, with its open units only, not padded."""
    frozen = memory.tasks[task]
    widths = [int(mask.sum()) for mask in frozen.masks] if frozen.masks[0].ndim == 1 else frozen.widths
    channels = frozen.heads.shape[-1]

    key = jax.random.key(0)
    kernels = memory.generator.init_kernels(key, widths, memory.noise_dim)
    params = GeneratorParams(kernels, *memory.generator.init_task(key, widths, channels, 1))

    def generate(params: GeneratorParams) -> jax.Array:
        noise, head = jnp.zeros((n, memory.noise_dim)), jnp.zeros(n, jnp.int32)
        statistics = memory.generator.init_statistics(widths)
        return memory.generator.generate(params, statistics, [None] * len(widths), noise, head, train=False)[0]

    return arithmetic.products(generate, params)


def measure(widths: Sequence[tuple[int, ...]], variant: Variant, config: Config, *, seconds: float) -> dict[str, Any]:
    """Times the replay of each task from the grown memory, and of the first task from the memory right after it.

    Args:
      widths: the widths at the end of each task.
      variant: what masks gate.
      config: sizes of noise and generator.
      seconds: how long to measure, without compiling.

    Returns:
      "seconds" of each task, "ratios" to the first task's, and "ratio_to_first_day" of the first task's.
    """
    grown = memory_at(widths, variant, config, len(widths))
    young = memory_at(widths[:1], variant, config, len(widths))
    key = jax.random.key(0)
    calls = [partial(young.images, 0, REPLAYED, key)]
    calls += [partial(grown.images, task, REPLAYED, key) for task in range(len(widths))]
    taken = machine.alternately(calls, seconds=seconds)
    # The ratios of each round: a moment in which the machine is slow slows all calls.
    ratios = np.median(taken[:, 1:] / taken[:, 1:2], axis=0)
    return {
        "widths": [list(task_widths) for task_widths in widths],
        "seconds_on_first_day": float(np.median(taken[:, 0])),
        "seconds": np.median(taken[:, 1:], axis=0).tolist(),
        "ratios": ratios.tolist(),
        "ratio_to_first_day": float(np.median(taken[:, 1] / taken[:, 0])),
        "gflop": [arithmetic.gflop(replay_products(grown, task, REPLAYED)) for task in range(len(widths))],
    }


def table(variants: Mapping[str, Any]) -> str:
    """Returns the figures as text."""
    lines = []
    for variant, found in variants.items():
        lines.append(
            f"{variant}: task 0 right after task 0 {found['seconds_on_first_day']:.4f} s, after task {TASKS - 1} "
            f"{found['seconds'][0]:.4f} s: {found['ratio_to_first_day']:.2f} x"
        )
        for task, (seconds, ratio, gflop) in enumerate(zip(found["seconds"], found["ratios"], found["gflop"])):
            lines.append(f"  task {task}: {seconds:8.4f} s, {ratio:6.2f} x task 0; {gflop:8.2f} GFLOP")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where results go."""

    out: Annotated[
        Path | None,
        arg(metavar="FILE", help="file of JSON Lines; a line for each variant is added", help_behavior_hint=""),
    ] = None


def main(argv: Sequence[str] | None = None) -> None:
    """Measures both variants, prints a table, and writes records."""
    options = parse_options(Options, argv, program="python -m benchmarks.replay", description=__doc__)
    machine.check("float32", options.out)
    for variant in get_args(Variant):
        found = measure(widths_of_tasks(variant), variant, settings(variant), seconds=20.0)
        print(table({variant: found}), flush=True)
        if options.out:
            named = {"variant": variant, "images": REPLAYED}
            records.append(options.out, {**named, **found, **machine.peak_bytes(), **machine.where()})
    print(f"peak memory: {machine.in_words(machine.peak_bytes())}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
