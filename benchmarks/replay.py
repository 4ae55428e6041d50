"""Seconds to sample 1 000 images of the first task from memory, right after it was learnt and after nine more tasks.

A task's sub-network is cut out of a generator that has grown since, so sampling an old task should stay as cheap as it
was at first. Widths are those of `benchmarks.step`; weights and masks are random, half of the gates open.

    python -m benchmarks.replay --out replay.jsonl
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from benchmarks import machine
from benchmarks.points import TASKS, settings, widths_of_tasks
from dgm_jax.config import Config, Variant
from dgm_jax.errors import exit_status
from dgm_jax.memory.memory import Memory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.models import dcgan

REPLAYED = 1000  # Number of images whose sampling is timed.


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
    }


def table(variant: str, found: Mapping[str, Any]) -> str:
    """Returns the figures as text."""
    lines = [
        f"{variant}: task 0 right after task 0 {found['seconds_on_first_day']:.4f} s, after task {TASKS - 1} "
        f"{found['seconds'][0]:.4f} s: {found['ratio_to_first_day']:.2f} x"
    ]
    for task, (seconds, ratio) in enumerate(zip(found["seconds"], found["ratios"])):
        lines.append(f"  task {task}: {seconds:8.4f} s, {ratio:6.2f} x task 0")
    return "\n".join(lines)


def main(out: Path | None = None) -> None:
    """Measures both variants, prints tables, and writes records.

    Args:
      out: file of JSON Lines; a line for each variant is added.
    """
    machine.check("float32", out)
    for variant in get_args(Variant):
        found = measure(widths_of_tasks(variant), variant, settings(variant), seconds=20.0)
        print(table(variant, found), flush=True)
        machine.keep(out, variant=variant, images=REPLAYED, **found, **machine.peak_bytes())
    print(machine.peak_in_words())


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.replay", description=__doc__)))
