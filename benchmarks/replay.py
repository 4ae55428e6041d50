"""Seconds to draw 1 000 images of the first task's memory, right after it was learnt and after nine tasks more.

A task's own sub-network is cut out of a generator that has grown since, so an old task should stay as cheap to draw as
on its first day. Widths are those of `benchmarks.step`; weights and masks are random, half of the gates open.

    python -m benchmarks.replay --json replay.json
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import arithmetic
from dgm_jax.config import Config, Variant
from dgm_jax.memory import Memory, TaskMemory, cut_units, cut_weights
from dgm_jax.models import dcgan


def memory_at(widths: Sequence[tuple[int, ...]], variant: Variant, config: Config, n_classes: int) -> Memory:
    """A memory of one task for each of these widths, at which it ended; weights and masks are random.

    Args:
      widths: of each task, first to last; the last are the memory's own.
      variant: what masks gate.
      config: sizes of noise and generator.
      n_classes: of the whole stream.
    """
    draw = np.random.default_rng(0)

    def masks(own: tuple[int, ...]) -> list[np.ndarray]:
        shapes = [(w,) for w in own] if variant == "dgma" else dcgan.kernel_shapes(own, config.noise_dim)
        return [draw.permutation(np.arange(np.prod(shape)) % 2 == 0).reshape(shape) for shape in shapes]

    def task(index: int, own: tuple[int, ...]) -> TaskMemory:
        parameters = jax.device_get(dcgan.init_task(jax.random.key(index), own, 1, 1))
        return TaskMemory(
            classes=(index,),
            widths=own,
            masks=masks(own),
            norms=parameters["norms"],
            statistics=jax.device_get(dcgan.init_generator_statistics(own)),
            heads=parameters["heads"],
            n_conditioned=n_classes,
        )

    labels = tuple(range(n_classes))
    return Memory(
        kernels=jax.device_get(dcgan.init_kernels(jax.random.key(0), widths[-1], config.noise_dim)),
        reserved=masks(widths[-1]),
        tasks=tuple(task(index, own) for index, own in enumerate(widths)),
        noise_dim=config.noise_dim,
        labels=labels,
        names=tuple(map(str, labels)),
    )


def replay_products(memory: Memory, task: int, n: int) -> Counter[arithmetic.Product]:
    """The matrix products that drawing `n` images of a task needs, from its own sub-network alone."""
    own = memory.tasks[task]
    cut = (cut_units if own.masks[0].ndim == 1 else cut_weights)(memory.kernels, own)
    generate = partial(dcgan.generate, masks=[None] * len(cut["kernels"]), train=False)
    noise, head = jnp.zeros((n, memory.noise_dim)), jnp.zeros(n, jnp.int32)
    return arithmetic.products(lambda cut: generate(cut, cut["statistics"], noise=noise, head=head)[0], cut)
