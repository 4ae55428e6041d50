"""Exports for use without dgm_jax: a memory's arrays as .npz; what draws, and what predicts, as programs for JAX."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dgm_jax.errors import UserError
from dgm_jax.memory.classifier import Classifier, Predicting, require_network
from dgm_jax.memory.memory import Memory
from dgm_jax.memory.sampling import CHUNK, chosen_mode, sample_chunk
from dgm_jax.models.prediction import discriminated
from dgm_jax.system import files
from dgm_jax.system.pinned import KEYS, pinned
from dgm_jax.types import params_to_tree

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # The platforms that an exported program runs on.


def to_npz(memory: Memory) -> bytes:
    """The arrays of a memory as the bytes of an .npz file, which NumPy reads without pickle (docs/formats.md)."""
    arrays: dict[str, np.ndarray] = {
        "labels": np.array(memory.labels[: memory.n_classes], np.int64),
        "names": np.array(memory.names[: memory.n_classes], np.str_),
    }
    for name in ("network", "image_size", "noise_dim", "gate_before_norm"):
        arrays[name] = np.array(getattr(memory, name))
    if memory.scale is not None:
        arrays |= {"scale_mean": memory.scale.mean, "scale_deviation": memory.scale.deviation}
    if not memory.own_kernels:
        arrays |= {f"kernel_{i}": kernel for i, kernel in enumerate(memory.kernels)}
    for t, task in enumerate(memory.tasks):
        for name, values in (("classes", "noise_entries"), ("widths", "widths"), ("n_conditioned", "n_conditioned")):
            arrays[f"task_{t}_{name}"] = np.array(getattr(task, values))
        if memory.has_modes:
            arrays[f"task_{t}_labels"] = np.array([memory.labels[index] for index in task.classes], np.int64)
            arrays[f"task_{t}_images"] = np.array(task.counts, np.int64)
        arrays[f"task_{t}_heads"] = task.heads
        arrays |= {f"task_{t}_mask_{i}": mask for i, mask in enumerate(task.masks)}
        arrays |= {f"task_{t}_kernel_{i}": kernel for i, kernel in enumerate(task.kernels or ())}
        for layers in (params_to_tree(task.norms), params_to_tree(task.statistics)):
            arrays |= {f"task_{t}_norm_{i}_{name}": a for i, layer in enumerate(layers) for name, a in layer.items()}
    return files.to_npz(arrays)


def sampler(memory: Memory) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Makes a pure function that draws the same images as `Memory.sample`, 128 at a time.

    Returns:
      A function `sample(key_data, start, label)`. `key_data` is uint32 [2] (`jax.random.key_data`); `start`, the number
      of the first image, and `label` are int32 []. It returns the images `start` to `start + 127` of the key, float32
      [128, height, width, channels] in [-1, 1], or vectors, float32 [128, d]; NaN if the memory does not know the
      label.

    Raises:
      UserError: if a label does not fit into 32 bits.
    """
    known = _of_32_bits(memory.labels[: memory.n_classes])
    tasks, heads, entries, shares = _tables_of_modes(memory)

    def branch(number: int) -> Callable[..., jax.Array]:
        task = memory.tasks[number]
        cut = replace(memory.cut(task), scale=memory.scale)
        chunk = partial(sample_chunk, memory.generator, noise_dim=memory.noise_dim, n_conditioned=task.n_conditioned)

        def images_of_class(key: jax.Array, start: jax.Array, entry: jax.Array, head: jax.Array) -> jax.Array:
            heads = lax.dynamic_slice_in_dim(cut.generator.heads, head, 1)
            with_one_head = replace(cut, generator=replace(cut.generator, heads=heads))
            return chunk(with_one_head, key, start, entry)

        return images_of_class

    branches = [branch(number) for number in range(len(memory.tasks))]
    if memory.has_modes:
        one = (memory.image_size, memory.image_size, memory.channels) if memory.scale is None else (memory.channels,)
        branches.append(lambda key, start, entry, head: jnp.zeros((CHUNK, *one), jnp.float32))

    @pinned()
    def sample(key_data: jax.Array, start: jax.Array, label: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(key_data, impl=KEYS)
        is_label = jnp.asarray(known) == label
        index = jnp.argmax(is_label).astype(jnp.int32)

        def of_mode(mode: int) -> jax.Array:
            task, entry, head = (jnp.asarray(table)[index, mode] for table in (tasks, entries, heads))
            return lax.switch(task, branches, key, start, entry, head)

        images = of_mode(0)
        chosen = chosen_mode(key, start, list(jnp.asarray(shares)[index])).reshape(-1, *(images.ndim - 1) * [1])
        for mode in range(1, tasks.shape[1]):
            images = jnp.where(chosen == mode, of_mode(mode), images)
        return jnp.where(jnp.any(is_label), images, jnp.nan)

    return sample


def _tables_of_modes(memory: Memory) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each class and mode: the number of its task, its output layer there, and its entry of the noise; and shares.

    There is room for the most modes that a class has. One that a class lacks has a task beyond the last and a share of
    0. Int32 [classes, modes], and uint32 [classes, modes - 1].
    """
    places = [[(t, task) for t, task in enumerate(memory.tasks) if i in task.classes] for i in range(memory.n_classes)]
    most = max(map(len, places))
    tasks = np.full((len(places), most), len(memory.tasks), np.int32)
    heads, entries = np.zeros((2, *tasks.shape), np.int32)
    shares = np.zeros((len(places), most - 1), np.uint32)
    for index, of_class in enumerate(places):
        for mode, (number, task) in enumerate(of_class):
            head = task.classes.index(index)
            tasks[index, mode], heads[index, mode], entries[index, mode] = number, head, task.noise_entries[head]
        own = memory.shares(index)
        shares[index, : len(own)] = own
    return tasks, heads, entries, shares


def predictor(classifier: Classifier) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Makes a pure function that predicts as `Classifier.predict` does.

    Returns:
      A function of images, float32 [n, height, width, channels] in [-1, 1], of the classifier's `image_shape`, or of
      vectors, float32 [n, d]. It returns labels, int32 [n], and probabilities, float32 [n, classes], in the order of
      the classifier's labels.

    Raises:
      UserError: if a label does not fit into 32 bits.
    """
    labels = _of_32_bits(classifier.labels)

    @pinned()
    def predict(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        if classifier.scale is not None:
            images = classifier.scale.scaled(images)
        output = discriminated(classifier.params, classifier.statistics, images, network=classifier.network)
        probabilities = jax.nn.softmax(output.logits[:, : len(labels)] / classifier.temperature)
        return jnp.asarray(labels)[jnp.argmax(probabilities, axis=1)], probabilities

    return predict


@pinned()
def to_stablehlo(what: Memory | Predicting) -> bytes:
    """A memory's sampler, or a classifier's predictor, as a serialised `jax.export` program for CPU, GPU and TPU.

    With JAX installed, `jax.export.deserialize(bytearray(content)).call` is the program: of a memory a function of
    `(key_data, start, label)`, of a classifier a function of `images`, any number of them.

    Raises:
      UserError: if a label does not fit into 32 bits, or the classifier is not a network alone.
    """
    function: Callable[..., Any]
    if isinstance(what, Memory):
        number = jax.ShapeDtypeStruct((), jnp.int32)
        function, arguments = sampler(what), [jax.ShapeDtypeStruct((2,), jnp.uint32), number, number]
    else:
        (n,) = jax.export.symbolic_shape("n")
        shape = what.image_shape if what.scale is None else what.image_shape[2:]
        function, arguments = predictor(require_network(what)), [jax.ShapeDtypeStruct((n, *shape), jnp.float32)]
    return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())


def _of_32_bits(labels: tuple[int, ...]) -> np.ndarray:
    """Labels as int32, which all programs of JAX can hold."""
    known = np.array(labels, np.int64)
    if known.min() < -(2**31) or known.max() >= 2**31:
        raise UserError(f"labels from {known.min()} to {known.max()} do not fit into the program's 32 bits")
    return known.astype(np.int32)
