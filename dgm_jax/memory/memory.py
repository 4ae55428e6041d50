"""The memory: a frozen generator that draws images of every class it learnt, exactly as it did when it learnt them.

The weights are shared by all tasks; a task owns its norms, its output layers and its binary masks. To draw, a task's
sub-network is cut out of the shared weights: for DGMa the open units, for DGMw the masked weights at the widths that
the network had when the task ended. This cut never changes, in value or in shape, however much the network grows or
learns. So old images stay equal bit for bit, and drawing old classes never becomes slower.

In the method `separate`, each task has its own kernels instead, and no masks.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax import nn
from dgm_jax.data import pictures
from dgm_jax.data.dataset import composed
from dgm_jax.data.order import classes_of
from dgm_jax.memory import sampling
from dgm_jax.memory.sampling import CHUNK
from dgm_jax.memory.task import TaskMemory, cut_units, cut_weights, own_generator, unite_masks
from dgm_jax.models import pair
from dgm_jax.models.generator import Generator
from dgm_jax.system.pinned import as_key, pinned
from dgm_jax.types import SamplerParams, Scale, Tree, norms_from_tree, params_to_tree, statistics_from_tree


@dataclass(frozen=True)
class Memory:
    """The frozen generator of all tasks so far."""

    kernels: list[np.ndarray]  # Shared weights, of the present logical widths; or those that the next task begins with.
    reserved: list[np.ndarray]  # Cumulative masks, bool: of each layer (DGMa) or kernel (DGMw).
    tasks: tuple[TaskMemory, ...]
    noise_dim: int
    labels: tuple[int, ...]  # The label of each class index in the data set.
    names: tuple[str, ...]
    image_size: int  # Side of the images; 1 for vectors.
    network: str = "dcgan"  # The kind of generator.
    gate_before_norm: bool = False
    scale: Scale | None = None  # Of vectors; None for images.

    def __repr__(self) -> str:
        """What it draws and how large it is: the weights themselves would fill the screen."""
        kilobytes = sum(kernel.nbytes for kernel in self.own_kernels or self.kernels) / 1000
        channels = f"x{self.channels}" if self.tasks else ""  # Before the first task none draws.
        drawn = f"images={self.image_size}x{self.image_size}{channels}"
        if self.scale is not None:
            drawn = f"vectors of {len(self.scale.mean)}"
        return (
            f"Memory(labels={list(self.labels[: self.n_classes])}, tasks={len(self.tasks)}, {drawn}, "
            f"network={self.network!r}, widths={'-'.join(map(str, self.widths))}, weights={kilobytes:,.0f} kB)"
        )

    @property
    def generator(self) -> Generator:
        """How its layers are wired."""
        return pair(self.network).generator(self.image_size)

    @property
    def own_kernels(self) -> list[np.ndarray]:
        """The weights of all tasks that have a generator of their own; none if tasks share them."""
        return jax.tree.leaves([task.kernels for task in self.tasks])

    @property
    def widths(self) -> tuple[int, ...]:
        """Present output units of each masked layer, first to last."""
        return self.generator.widths(self.kernels)

    @property
    def n_classes(self) -> int:
        """Classes that can be drawn."""
        return len(classes_of([task.classes for task in self.tasks]))

    @property
    def channels(self) -> int:
        """Of the images, or numbers of a vector; there must have been a task."""
        return self.tasks[0].heads.shape[-1]

    @pinned()
    def sample(self, label: int, n: int, key: jax.Array, *, mode: int | None = None) -> jax.Array:
        """Draws images, or vectors, of one class.

        Image i depends only on the key and on i: of two calls with one key, the longer begins with the shorter. If the
        class has several modes, image i is that of one of them, each in proportion to the training images that it
        stands for. What a mode draws never changes; a mode that is added replaces the images that come from it.

        Args:
          label: the class, as the data set labels it.
          n: how many, >= 1.
          key: a PRNG key of JAX's default generator, threefry2x32.
          mode: draw this mode of the class only, from 0 (`modes` says how many there are); None: all.

        Returns:
          Images in [-1, 1], float32 [n, height, width, channels]; or vectors as the data have them, float32 [n, d].

        Raises:
          ValueError: if the memory does not know the class or mode, or n < 1, or the key is of another generator, or
            the call is inside `jit`, `vmap`, `scan` or `grad`: use `sampler` there.
        """
        return jnp.asarray(self.sample_index(self._index(label), n, key, mode=mode))

    @pinned()
    def sample_index(self, index: int, n: int, key: jax.Array, *, mode: int | None = None) -> np.ndarray:
        """As `sample`, but for the class of this index, and into host memory."""
        return np.concatenate(jax.device_get(list(self._chunks(index, n, key, mode))))[:n]

    def stream(self, label: int, n: int, key: jax.Array, *, mode: int | None = None) -> Iterator[np.ndarray]:
        """As `sample`, for more images than memory holds: parts of up to 128, on the host, one after the other."""
        index = self._index(label)
        for start, chunk in enumerate(self._chunks(index, n, key, mode)):
            with pinned():
                images = np.asarray(chunk)
            yield images[: n - start * CHUNK]

    def sampler(self, label: int, *, mode: int | None = None) -> tuple[Any, Callable[..., jax.Array]]:
        """`sample` as a pure function, to be used inside `jit`, `vmap`, `scan` and `grad`, where `sample` cannot be.

        Args:
          label: the class, as the data set labels it.
          mode: as in `sample`.

        Returns:
          The parameters, a pytree of float32 arrays, and a function `draw(params, key, start=0)`. It returns the images
          number `start` to `start + 127` of the key, float32 [128, height, width, channels] in [-1, 1], or vectors
          [128, d]: bit for bit those of `sample`, if the parameters are arguments of the compiled program and not
          constants in it. It raises `OtherGenerator`, a ValueError, for a key of another generator than threefry2x32.

        Raises:
          ValueError: if the memory does not know the class or the mode.
        """
        return self._sampler(self._index(label), mode)

    def modes(self, label: int) -> tuple[int, ...]:
        """For each mode of a class, first to last, the number of training images that it stands for.

        A class has a mode for each task that brought images of it. A memory of an earlier version, or read from a file,
        does not know the number if there is one mode, and says 1.

        Raises:
          ValueError: if the memory does not know the class.
        """
        return _counts(self.modes_of(self._index(label)))

    @pinned()
    def _sampler(self, index: int, mode: int | None = None) -> tuple[Any, Callable[..., jax.Array]]:
        modes = self.modes_of(index)
        if mode is not None:
            if not 0 <= mode < len(modes):
                raise ValueError(f"mode={mode}, but class {self.labels[index]} has {len(modes)} modes, from 0")
            modes = modes[mode : mode + 1]
        draws = [sampling.of_mode(self.generator, task, self.noise_dim) for task in modes]
        params = jax.device_put(tuple(replace(self.cut(task), scale=self.scale) for task in modes))
        if len(modes) == 1:
            return params[0], draws[0]
        return params, sampling.mixed(draws, self.shares(index))

    def batches(self, batch_size: int, key: jax.Array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draws mini-batches of all classes without end, to train a classifier on.

        The classes take turns, so that their counts in a batch differ by at most 1. The images of the class with index
        c are those of `sample` with the key `jax.random.fold_in(key, c)`, one after the other. Up to 128 images of each
        class are kept in host memory.

        Args:
          batch_size: images in a batch, >= 1.
          key: a PRNG key of JAX's default generator, threefry2x32.

        Yields:
          Images, float32 [batch_size, height, width, channels] in [-1, 1], or vectors [batch_size, d], and labels,
          int64 [batch_size], as the data set labels them.

        Raises:
          ValueError: if batch_size < 1, the memory knows no class, or the key is of another generator.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected at least 1")
        if not self.tasks:
            raise ValueError("the memory knows no class yet, and so there is nothing to draw")
        with pinned():
            keys = [jax.random.fold_in(as_key(key), index) for index in range(self.n_classes)]
        return self._batches(batch_size, [self._endless(index, own) for index, own in enumerate(keys)])

    def _batches(
        self, batch_size: int, images: Sequence[Iterator[np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        labels = np.array(self.labels, np.int64)
        for start in itertools.count(step=batch_size):
            turns = [number % len(images) for number in range(start, start + batch_size)]
            yield np.stack([next(images[turn]) for turn in turns]), labels[turns]

    def _endless(self, index: int, key: jax.Array) -> Iterator[np.ndarray]:
        """The images of a class, one after the other; between chunks, only the key is kept on the device."""
        for start in itertools.count(step=CHUNK):
            with pinned():
                params, draw = self._sampler(index)
                images = np.asarray(draw(params, key, start))
            yield from images

    def _index(self, label: int) -> int:
        known = self.labels[: self.n_classes]
        if label not in known:
            raise ValueError(f"the memory knows no class {label!r}; it knows {', '.join(map(str, known))}")
        return self.labels.index(label)

    @pinned()
    def _chunks(self, index: int, n: int, key: jax.Array, mode: int | None) -> Iterator[jax.Array]:
        """Starts one program for each chunk; a caller that lists them all waits for none before all are started."""
        if n < 1:
            raise ValueError(f"n={n} images cannot be drawn; ask for at least 1")
        if isinstance(key, jax.core.Tracer):
            raise ValueError("images cannot be drawn so inside jit, vmap, scan or grad; use the function of `sampler`")
        key = as_key(key)
        params, draw = self._sampler(index, mode)
        return (draw(params, key, start) for start in range(0, n, CHUNK))

    def modes_of(self, index: int) -> list[TaskMemory]:
        """The modes of the class of this index: its tasks, each as if it had been the only class of them."""
        return [task.of_class(index) for task in self.tasks if index in task.classes]

    def shares(self, index: int) -> tuple[int, ...]:
        """How images of the class of this index are shared out to its modes (`sampling.shares_of`)."""
        return sampling.shares_of(_counts(self.modes_of(index)))

    @property
    def has_modes(self) -> bool:
        """Whether a class has more than one mode."""
        return self.n_classes < sum(len(task.classes) for task in self.tasks)

    def noise_entry(self, index: int) -> int:
        """The entry of the noise that is 1 for the class of this index; it stays when classes are numbered anew."""
        return self.modes_of(index)[0].noise_entries[0]

    def cut(self, task: TaskMemory) -> SamplerParams:
        """Cuts a task's sub-network out of the shared weights, padded to one of few shapes."""
        if task.kernels is not None:
            return own_generator(self.generator, task.kernels, task)
        cut = cut_units if task.masks[0].ndim == 1 and not self.gate_before_norm else cut_weights
        return cut(self.generator, self.kernels, task)

    def newly_reserved(self) -> list[int]:
        """Gates of each mask that the last task opened and no task before."""
        before = unite_masks(self.tasks[:-1], [mask.shape for mask in self.tasks[-1].masks])
        return [int((mask & ~old).sum()) for mask, old in zip(self.tasks[-1].masks, before, strict=True)]

    def parameters(self) -> dict[str, int]:
        """How many weights all tasks share, and how many numbers belong to one task: norms, statistics, heads.

        Where each task has its own generator (`separate`), its weights count as the task's, and none is shared.
        """
        own, arrays = self.own_kernels, jax.tree.leaves([(t.norms, t.statistics, t.heads) for t in self.tasks])
        return {
            "shared_weights": 0 if own else sum(kernel.size for kernel in self.kernels),
            "task_parameters": sum(array.size for array in [*arrays, *own]),
        }

    def bytes(self) -> dict[str, int]:
        """Bytes of the memory: weights and norms in float32, and one bit for each gate of each task."""
        sizes = {name: 4 * count for name, count in self.parameters().items()}
        if self.scale is not None:
            sizes["scale"] = 8 * len(self.scale.mean)
        sizes["masks"] = sum(-(-mask.size // 8) for task in self.tasks for mask in task.masks)
        return sizes | {"total": sum(sizes.values())}

    def images(self, index: int, n: int, key: jax.Array, *, mode: int | None = None) -> np.ndarray:
        """As `sample_index`, as a stream gives them: images rounded to uint8, vectors scaled, float32 [n, 1, 1, d]."""
        if self.scale is not None:
            return replace(self, scale=None).sample_index(index, n, key, mode=mode)
        return pictures.to_uint8(self.sample_index(index, n, key, mode=mode))

    def to_tree(self) -> tuple[Tree, dict[str, Any]]:
        """What a checkpoint holds: arrays, and values that JSON can hold."""
        tree = {
            "kernels": list(self.kernels),
            "reserved": list(self.reserved),
            "tasks": [
                {
                    **({"masks": list(task.masks)} if task.kernels is None else {"kernels": list(task.kernels)}),
                    "norms": params_to_tree(task.norms),
                    "statistics": params_to_tree(task.statistics),
                    "heads": task.heads,
                }
                for task in self.tasks
            ],
        }
        if self.scale is not None:
            tree["scale"] = params_to_tree(self.scale)
        plain = {
            "noise_dim": self.noise_dim,
            "network": self.network,
            "image_size": self.image_size,
            "gate_before_norm": self.gate_before_norm,
            "labels": list(self.labels),
            "names": list(self.names),
            "tasks": [
                {
                    "classes": list(task.classes),
                    "widths": list(task.widths),
                    "n_conditioned": task.n_conditioned,
                    **({} if task.conditions is None else {"conditions": list(task.conditions)}),
                    **({} if task.counts is None else {"counts": list(task.counts)}),
                }
                for task in self.tasks
            ],
        }
        return tree, plain

    @classmethod
    def from_tree(cls, tree: Tree, plain: dict[str, Any]) -> "Memory":
        """Undoes `to_tree`."""
        tasks = tuple(
            TaskMemory(
                classes=tuple(data["classes"]),
                widths=tuple(data["widths"]),
                masks=_masks(arrays.get("masks", []), data),
                norms=norms_from_tree(arrays["norms"]),
                statistics=statistics_from_tree(arrays["statistics"]),
                heads=arrays["heads"],
                n_conditioned=data["n_conditioned"],
                kernels=arrays.get("kernels"),
                conditions=tuple(data["conditions"]) if "conditions" in data else None,
                counts=tuple(data["counts"]) if "counts" in data else None,
            )
            for arrays, data in zip(tree["tasks"], plain["tasks"], strict=True)
        )
        return cls(
            kernels=tree["kernels"],
            reserved=_masks(tree["reserved"], plain),
            tasks=tasks,
            noise_dim=plain["noise_dim"],
            # Early checkpoints lack these fields; they were all DCGANs.
            network=plain.get("network", "dcgan"),
            image_size=plain.get("image_size", 4 * 2 ** len(tree["kernels"])),
            labels=tuple(plain["labels"]),
            names=tuple(map(composed, plain["names"])),
            gate_before_norm=plain["gate_before_norm"],
            scale=Scale(**tree["scale"]) if "scale" in tree else None,
        )

    def as_of(self, n_tasks: int) -> "Memory":
        """The memory with only the first `n_tasks` tasks; it draws the same images as the whole memory."""
        tasks = self.tasks[:n_tasks]
        n_classes = len(classes_of([task.classes for task in tasks]))
        return replace(self, tasks=tasks, labels=self.labels[:n_classes], names=self.names[:n_classes])


def _counts(modes: Sequence[TaskMemory]) -> tuple[int, ...]:
    """The training images that each mode of a class stands for."""
    return tuple(1 if mode.counts is None else mode.counts[0] for mode in modes)


def _masks(arrays: Sequence[np.ndarray], plain: dict[str, Any]) -> list[np.ndarray]:
    """Binary masks; early checkpoints have 8 gates in a byte, and say the shapes."""
    if "mask_shapes" not in plain:
        return list(arrays)
    return [
        np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
        for bits, shape in zip(arrays, plain["mask_shapes"], strict=True)
    ]


def used_weights(memory: Memory) -> list[np.ndarray]:
    """The shared weights that some task draws with: bool, of the kernels' shapes. No cut holds any other of them."""
    used = [np.zeros(kernel.shape, bool) for kernel in memory.kernels]
    for task in memory.tasks:
        if task.kernels is not None:  # It shares none.
            continue
        of_units = task.masks[0].ndim == 1
        for number, (source, target) in enumerate(memory.generator.ends):
            if not of_units:
                corner = used[number][tuple(slice(0, n) for n in task.masks[number].shape)]
                corner |= task.masks[number]
            elif source == nn.INPUT:
                used[number][..., : task.widths[target]] |= task.masks[target]
            else:
                # A unit that is gated before its norm emits the norm's shift even if it is closed.
                inputs = task.masks[source] | memory.gate_before_norm
                corner = used[number][:, :, : task.widths[source], : task.widths[target]]
                corner |= inputs[:, None] & task.masks[target]
    return used
