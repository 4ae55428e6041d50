"""What a task begins with and what it leaves behind, as functions of arrays on the host: begin, freeze, grow."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

import jax
import numpy as np

from dgm_jax import nn
from dgm_jax.config import Config
from dgm_jax.memory.task import TaskMemory
from dgm_jax.models import Pair, pair
from dgm_jax.models.generator import Generator, host_generator
from dgm_jax.models.normalisation import init_norm
from dgm_jax.training.state import Capacity, TrainState, init_optimiser, make_capacity, make_optimisers, sampler_params
from dgm_jax.training.warm_start import begin_as
from dgm_jax.types import DiscriminatorParams, GeneratorParams, Norm, Statistics

LayerT = TypeVar("LayerT", Norm, Statistics)


@dataclass(frozen=True)
class Networks:
    """The generator and the discriminator of a run, and how large they are at first."""

    config: Config
    channels: int  # Of the images, 1 or 3.
    n_classes: int  # Of the whole stream: outputs of the class head.
    max_heads: int  # Classes of the largest task: output layers of the generator.
    conditional: bool = True  # Whether the noise carries the class.

    @property
    def pair(self) -> Pair:
        """The kind of networks."""
        return pair(self.config.networks.network)

    @cached_property
    def generator(self) -> Generator:
        """How the generator's layers are wired."""
        return self.pair.generator(self.config.data.image_size)

    @property
    def n_conditioned(self) -> int:
        """Entries of the noise that carry the one-hot class."""
        return self.n_classes if self.conditional else 0

    @property
    def first_widths(self) -> tuple[int, ...]:
        """Widths of the generator's layers before any growth."""
        return self.pair.generator_widths(self.config.networks.generator_width, self.config.data.image_size)

    @property
    def mask_epochs(self) -> int:
        """Epochs of a task in which masks are learnt; in the rest they are settled."""
        if self.config.gates.masks != "learnt":
            return 0
        return max(1, round(self.config.gates.mask_share * self.config.gan.epochs))

    def new_kernels(self, key: jax.Array, widths: Sequence[int]) -> list[np.ndarray]:
        """Fresh shared weights of these logical widths."""
        return self.generator.init_kernels(key, widths, self.config.networks.noise_dim)

    def mask_shapes(self, widths: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of the masks at these widths: of each layer's units (DGMa) or each kernel's weights (DGMw)."""
        return self.generator.mask_shapes(self.config.gates.variant, widths, self.config.networks.noise_dim)

    def gated(self, kernels: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
        """What each mask gates: its output units, and its weights."""
        widths, targets = self.generator.widths(kernels), [target for _, target in self.generator.ends]
        if self.config.gates.variant == "dgmw":
            return [widths[target] for target in targets], [kernel.size for kernel in kernels]
        into = [0] * len(widths)
        for target, kernel in zip(targets, kernels, strict=True):
            into[target] += kernel.size
        return list(widths), into


def begin_task(
    networks: Networks,
    key: jax.Array,
    kernels: Sequence[np.ndarray],
    reserved: Sequence[np.ndarray],
    *,
    physical: Sequence[int],
    classes: Sequence[int],
    n_seen: int | None = None,
    discriminator: tuple[DiscriminatorParams, list[Statistics]] | None,
    similar: Sequence[TaskMemory] = (),
) -> tuple[TrainState, Capacity]:
    """The state in which a task's training begins, and what earlier tasks left to it; on the host.

    Args:
      networks: the kinds and sizes of the networks.
      key: a PRNG key.
      kernels: shared weights, of logical widths.
      reserved: cumulative masks, of logical widths.
      physical: the padded widths to train at (`shapes.physical_widths`); they change no result beyond rounding, except
        for free weights of closed units (`subnetwork`).
      classes: class indices of the task.
      n_seen: classes seen once the task is learnt; None: those up to the task's.
      discriminator: parameters and statistics to continue with; None: fresh ones.
      similar: for each of the classes one earlier class to begin as, each as a task of one class; may be empty.
    """
    config, wiring = networks.config, networks.generator
    task_key, discriminator_key = jax.random.split(key)
    widths = wiring.widths(kernels)
    shapes = networks.mask_shapes(physical)
    live = [nn.expand(np.ones(r.shape, bool), np.zeros(s, bool)) for r, s in zip(reserved, shapes, strict=True)]
    generator = _fresh_generator(networks, task_key, kernels, reserved, physical)
    statistics = wiring.init_statistics(physical)
    if similar:
        generator, statistics = begin_as(generator, statistics, similar, first_slope(networks))
    if discriminator is None:
        discriminator = networks.pair.init_discriminator(
            discriminator_key,
            width=config.networks.discriminator_width,
            image_size=config.data.image_size,
            channels=networks.channels,
            n_classes=networks.n_classes,
        )
    critic = replace(discriminator[0], projection=None)  # Each task begins with a new projection.
    if config.gan.critic_condition == "projection" and networks.max_heads > 1:
        critic = replace(critic, projection=np.zeros((networks.max_heads, len(critic.critic.kernel)), np.float32))
    optimisers = make_optimisers(config)
    state = TrainState(
        generator=generator,
        generator_statistics=statistics,
        generator_optimiser=init_optimiser(optimisers.generator, generator),
        discriminator=critic,
        discriminator_statistics=discriminator[1],
        discriminator_optimiser=init_optimiser(optimisers.discriminator, critic),
    )
    if config.gan.generator_average:
        state = replace(state, average=sampler_params(state.generator, state.generator_statistics))
    heads = np.zeros(networks.n_classes, np.int32)
    heads[list(classes)] = np.arange(len(classes))
    size, first_size = (wiring.size(each, config.networks.noise_dim) for each in (widths, networks.first_widths))
    capacity = make_capacity(
        [nn.expand(r, np.zeros(s, bool)) for r, s in zip(reserved, shapes, strict=True)],
        live,
        sparsity_weight=config.gates.sparsity_weight * (size / first_size),
        seen=np.arange(networks.n_classes) < (max(classes) + 1 if n_seen is None else n_seen),
        heads=heads,
    )
    return state, capacity


def first_slope(networks: Networks) -> float:
    """The slope `S_i` of the first epoch that can turn a gate: the slope of epoch 0, 1 / s_max, turns none."""
    config = networks.config
    return float(nn.annealed_scale(config.gates.scale_lead or 1, networks.mask_epochs, config.gates.scale_max))


def _fresh_generator(
    networks: Networks,
    key: jax.Array,
    kernels: Sequence[np.ndarray],
    reserved: Sequence[np.ndarray],
    physical: Sequence[int],
) -> GeneratorParams:
    """Shared weights padded to physical widths, with fresh norms, output layers and embeddings.

    Padding is neutral: a unit that is 0 stays 0 through its norm and ReLU, and no output layer reads it.
    """
    wiring, channels = networks.generator, networks.channels
    shapes = wiring.kernel_shapes(physical, networks.config.networks.noise_dim)
    _, heads = wiring.init_task(key, wiring.widths(kernels), channels, networks.max_heads)
    return GeneratorParams(
        kernels=[nn.expand(k, np.zeros(s, k.dtype)) for k, s in zip(kernels, shapes, strict=True)],
        norms=[init_norm(width) for width in physical],
        heads=nn.expand(heads, np.zeros((*heads.shape[:3], physical[-1], channels), heads.dtype)),
        embeddings=_first_embeddings(networks.config, key, reserved, networks.mask_shapes(physical)),
    )


def _first_embeddings(
    config: Config, key: jax.Array, reserved: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    """A task's embeddings before its first step: 0, or random, or open; -inf where a gate cannot be used."""
    random = host_generator(jax.random.fold_in(key, 1))
    values = {"learnt": (0.0,), "random": (-1.0, 1.0), "none": (np.inf,)}[config.gates.masks]
    drawn = [random.choice(values, r.shape).astype(np.float32) for r in reserved]
    usable = [e if config.gates.reuse else np.where(r, np.float32(-np.inf), e) for e, r in zip(drawn, reserved)]
    return [nn.expand(e, np.full(s, -np.inf, np.float32)) for e, s in zip(usable, shapes, strict=True)]


def freeze(
    networks: Networks, state: TrainState, widths: Sequence[int], *, classes: Sequence[int], n_heads: int | None = None
) -> tuple[list[np.ndarray], TaskMemory]:
    """Ends a task: binarises its masks and cuts the padding off all arrays (section 3.1).

    Args:
      networks: the kinds and sizes of the networks.
      state: after the last step.
      widths: the logical widths.
      classes: class indices of the task.
      n_heads: output layers to keep; None: one for each class.

    Returns:
      The shared weights, and what the task keeps for itself.
    """
    host = jax.device_get(state)
    final = host.average or sampler_params(host.generator, host.generator_statistics)
    generator, heads = final.generator, final.generator.heads
    shapes = networks.generator.kernel_shapes(widths, networks.config.networks.noise_dim)
    n_heads = len(classes) if n_heads is None else n_heads

    def trimmed(layers: list[LayerT]) -> list[LayerT]:
        """The arrays of each layer, [physical width] each, at their logical widths."""
        pairs = zip(layers, widths, strict=True)
        return [jax.tree.map(partial(_corner, shape=(width,)), layer) for layer, width in pairs]

    masks = zip(host.generator.embeddings, networks.mask_shapes(widths), strict=True)
    finished = TaskMemory(
        classes=tuple(classes),
        widths=tuple(widths),
        masks=[_corner(np.asarray(nn.binarise(e)), s) for e, s in masks],
        norms=trimmed(generator.norms),
        statistics=trimmed(final.statistics),
        heads=_corner(heads, (n_heads, *heads.shape[1:3], widths[-1], networks.channels)),
        n_conditioned=networks.n_conditioned,
    )
    return [_corner(k, s) for k, s in zip(generator.kernels, shapes, strict=True)], finished


def grow(
    networks: Networks,
    key: jax.Array,
    kernels: Sequence[np.ndarray],
    reserved: Sequence[np.ndarray],
    newly_reserved: Sequence[int],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Expands shared weights and cumulative masks after a task (section 3.2); old weights keep their place."""
    grown = grown_widths(networks, networks.generator.widths(kernels), newly_reserved)
    fresh = networks.new_kernels(key, grown)
    shapes = networks.mask_shapes(grown)
    return (
        [nn.expand(old, new) for old, new in zip(kernels, fresh, strict=True)],
        [nn.expand(r, np.zeros(s, bool)) for r, s in zip(reserved, shapes, strict=True)],
    )


def grown_widths(networks: Networks, widths: Sequence[int], newly_reserved: Sequence[int]) -> tuple[int, ...]:
    """The widths after a task that newly reserved so many gates of each mask."""
    config, wiring = networks.config, networks.generator
    if config.gates.variant == "dgma":
        return nn.grown_unit_widths(widths, newly_reserved)
    window = [edge.window**2 for edge in wiring.edges]
    return nn.grown_weight_widths(
        widths, newly_reserved, inputs=config.networks.noise_dim, window=window, ends=wiring.ends
    )


def _corner(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Cuts the leading corner of this shape out of an array."""
    return np.ascontiguousarray(array[tuple(slice(0, n) for n in shape)])
