"""Exports a memory for use without dgm_jax: its arrays as .npz, or its sampler as a program that needs only JAX."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dgm_jax.errors import UserError
from dgm_jax.memory.memory import Memory, sample_chunk
from dgm_jax.system import files
from dgm_jax.system.pinned import KEYS, pinned
from dgm_jax.types import params_to_tree

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # The platforms that an exported sampler runs on.


def to_npz(memory: Memory) -> bytes:
    """The arrays of a memory as the bytes of an .npz file, which NumPy reads without pickle (docs/formats.md)."""
    arrays: dict[str, np.ndarray] = {
        "labels": np.array(memory.labels[: memory.n_classes], np.int64),
        "names": np.array(memory.names[: memory.n_classes], np.str_),
    }
    for name in ("network", "image_size", "noise_dim", "gate_before_norm"):
        arrays[name] = np.array(getattr(memory, name))
    arrays |= {f"kernel_{i}": kernel for i, kernel in enumerate(memory.kernels)}
    for t, task in enumerate(memory.tasks):
        for name in ("classes", "widths", "n_conditioned"):
            arrays[f"task_{t}_{name}"] = np.array(getattr(task, name))
        arrays[f"task_{t}_heads"] = task.heads
        arrays |= {f"task_{t}_mask_{i}": mask for i, mask in enumerate(task.masks)}
        for layers in (params_to_tree(task.norms), params_to_tree(task.statistics)):
            arrays |= {f"task_{t}_norm_{i}_{name}": a for i, layer in enumerate(layers) for name, a in layer.items()}
    return files.to_npz(arrays)


def sampler(memory: Memory) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Makes a pure function that draws the same images as `Memory.sample`, 128 at a time.

    Returns:
      A function `sample(key_data, start, label)`. `key_data` is uint32 [2] (`jax.random.key_data`); `start`, the number
      of the first image, and `label` are int32 []. It returns the images `start` to `start + 127` of the key, float32
      [128, height, width, channels] in [-1, 1]; NaN if the memory does not know the label.

    Raises:
      UserError: if a label does not fit into 32 bits.
    """
    known = np.array(memory.labels[: memory.n_classes], np.int64)
    if known.min() < -(2**31) or known.max() >= 2**31:
        raise UserError(f"labels from {known.min()} to {known.max()} do not fit into the sampler's 32 bits")
    tasks = np.array([t for t, task in enumerate(memory.tasks) for _ in task.classes], np.int32)
    heads = np.array(list(itertools.chain.from_iterable(range(len(task.classes)) for task in memory.tasks)), np.int32)

    def branch(number: int) -> Callable[..., jax.Array]:
        task = memory.tasks[number]
        cut = memory.cut(task)
        chunk = partial(sample_chunk, memory.generator, noise_dim=memory.noise_dim, n_conditioned=task.n_conditioned)

        def images_of_class(key: jax.Array, start: jax.Array, index: jax.Array, head: jax.Array) -> jax.Array:
            heads = lax.dynamic_slice_in_dim(cut.generator.heads, head, 1)
            with_one_head = replace(cut, generator=replace(cut.generator, heads=heads))
            return chunk(with_one_head, key, start, index)

        return images_of_class

    branches = [branch(number) for number in range(len(memory.tasks))]

    @pinned()
    def sample(key_data: jax.Array, start: jax.Array, label: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(key_data, impl=KEYS)
        is_label = jnp.asarray(known, jnp.int32) == label
        index = jnp.argmax(is_label).astype(jnp.int32)
        images = lax.switch(jnp.asarray(tasks)[index], branches, key, start, index, jnp.asarray(heads)[index])
        return jnp.where(jnp.any(is_label), images, jnp.nan)

    return sample


@pinned()
def to_stablehlo(memory: Memory) -> bytes:
    """The sampler with its weights as a serialised `jax.export` program for CPU, GPU and TPU.

    With JAX installed, `jax.export.deserialize(bytearray(content)).call(key_data, start, label)` runs it.
    """
    number = jax.ShapeDtypeStruct((), jnp.int32)
    exported = jax.export.export(jax.jit(sampler(memory)), platforms=PLATFORMS)
    return bytes(exported(jax.ShapeDtypeStruct((2,), jnp.uint32), number, number).serialize())
