"""Every setting of a run, what each may be, and for which methods it does something."""

import dataclasses
import math
import numbers
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dgm_jax.errors import ConfigError

Variant = Literal["dgma", "dgmw"]
Precision = Literal["float32", "tf32", "bf16"]
Method = Literal["dgm", "joint", "finetune", "er", "icarl", "ewc", "dgr", "mergan", "mergan-jtr"]

GENERATIVE: tuple[Method, ...] = ("dgm", "dgr", "mergan", "mergan-jtr")  # Those with a memory that draws images,
KEEPS_IMAGES: tuple[Method, ...] = ("joint", "er", "icarl")  # and those that keep real ones of earlier tasks.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run. Symbols in brackets are the paper's."""

    network: Literal["dcgan", "resnet"] = "dcgan"
    """The pair of networks: the authors' DCGAN, or the residual pair of ImageNet-50."""
    method: Method = "dgm"
    """dgm, or a baseline on the same stream and networks (docs/baselines.md says what each is)."""
    variant: Variant = "dgma"
    """What the masks gate: output units (dgma) or weights (dgmw); of dgm alone."""
    seed: int = 0
    """Seed of everything random."""
    protocol: Literal["strict", "paper"] = "strict"
    """strict: the last epoch counts. paper: the epoch that is best on held-out REAL images of all classes so far."""

    image_size: int = 32
    """Side of the square images that the networks see: 4 times a power of two."""
    train_per_class: int | None = None
    """Use only the first so many training images of each class; None: all."""
    held_out: float = 0.0
    """Fraction of each class's training images held out for validation (the paper protocol needs it)."""

    noise_dim: int = 128
    """Entries of the noise vector [nz]; the first ones carry the one-hot class."""
    generator_width: int = 20
    """Width of the generator's last masked layer [ngf]; each before is twice as wide, in resnet equally wide."""
    discriminator_width: int = 32
    """Width of the discriminator's first layer [ndf]; each after is twice as wide, in resnet each stage."""
    gate_position: Literal["last", "before_norm"] = "last"
    """Where dgma gates a unit: after norm and ReLU, or before the norm, as released (old memories then drift)."""

    epochs: int = 101
    """Epochs for each task [I]."""
    batch_size: int = 64
    """Images in a mini-batch [B], over all devices."""
    generator_learning_rate: float = 2e-3
    """Step size of the generator's Adam."""
    discriminator_learning_rate: float = 2e-3
    """Step size of the discriminator's Adam."""
    adam_b1: float = 0.5
    """Decay of Adam's first moment."""
    adam_b2: float = 0.999
    """Decay of Adam's second moment."""
    clip_norm: float = 10_000.0
    """Global norm at which the generator's gradients are clipped."""
    adversarial_weight: float = 1.0
    """Weight of the critic's value in the generator's loss [lambda_adv]."""
    penalty_weight: float = 1.0
    """Weight of the gradient penalty in the critic's loss [lambda_gp]."""
    reconstruction_weight: float = 0.0
    """Weight in the generator's loss of the L1 distance to the real images of the batch [L1]."""
    auxiliary_generator: bool = False
    """Add the auxiliary classifier's cross-entropy to the generator's loss [aux_G]."""
    reinitialise_discriminator: bool = True
    """Start the discriminator afresh at every task."""
    critic_condition: Literal["none", "projection"] = "none"
    """projection: where tasks of dgm have several classes, the critic is told each image's (Miyato and Koyama 2018)."""
    generator_average: float = 0.0
    """The generator's weights are averaged over a task's steps, fading by this factor a step; 0: the last ones."""
    warm_start: bool = False
    """A task begins with norms, output layers and masks of the earlier task that its classes look most like."""

    scale_max: float = 1e5
    """Slope of the gates at the end of a task [s_max]."""
    masks: Literal["learnt", "random", "none"] = "learnt"
    """learnt: with the weights. Ablations: random: half of the gates, drawn when a task begins and kept; none: all
    are open and nothing is reserved, so that old images drift."""
    reuse: bool = True
    """Let a task's masks open what earlier tasks reserved (false: an ablation)."""
    expansion: bool = True
    """Let the generator grow after each task (false: an ablation)."""
    scale_lead: int = 0
    """The slope's annealing is so many epochs ahead (the authors': 1 on ImageNet)."""
    mask_share: float = 1.0
    """Share of a task's epochs in which its masks are learnt; in the rest they are binary and only weights learn."""
    anneal_within_epoch: bool = False
    """Anneal the slope again within each epoch, up to the epoch's own (the paper's dgmw)."""
    gate_gradient: Literal["closed", "product"] = "closed"
    """How embeddings' gradients are compensated: S sigmoid'(e) in closed form, or HAT's product."""
    sparsity_weight: float = 0.01
    """Weight of the share of free capacity that a task opens [lambda_R]."""
    headroom: int = 2
    """The first arrays are so many times as wide as the first task needs: room to grow before recompiling."""

    precision: Precision = "float32"
    """Precision of the factors of training's products: tf32 on GPUs, bf16 anywhere (on CPUs no faster)."""
    replay: Literal["fixed", "fresh"] = "fixed"
    """Draw the replayed images once per task, or anew for every epoch."""
    replay_steps: int | None = None
    """Mini-batches an iteration for the auxiliary classifier, of real and replayed images; None: one for each task."""

    consolidation_steps: int = 400
    """Steps for which the consolidated classifier is trained after each task."""
    consolidation_samples: int = 500
    """Images per class that the memory generates for the consolidated classifier."""
    consolidation_learning_rate: float = 1e-3
    """First step size of the consolidated classifier's Adam, which decays to 0 along a cosine."""
    consolidation_shift: int = 0
    """Images are moved by up to so many pixels, at random, when the classifier is consolidated."""
    consolidation_flip: bool = False
    """Images are mirrored left to right, at random, when the classifier is consolidated."""
    consolidation_smoothing: float = 0.0
    """Share of the consolidated classifier's target that is spread over all classes (label smoothing)."""
    consolidation_network: Literal["dcgan", "resnet"] | None = None
    """Network of the consolidated classifier; None: that of the discriminator."""
    consolidation_width: int | None = None
    """Width of the first layer of the consolidated classifier; None: that of the discriminator."""

    memory_size: int = 200
    """Real images that er and icarl keep, of all classes together."""
    ewc_weight: float = 1e5
    """Weight of ewc's quadratic penalty."""
    alignment_weight: float = 300.0
    """Weight of mergan's replay alignment."""
    checkpoint_epochs: int = 10
    """Save a checkpoint every so many epochs, besides the one after each task."""

    @property
    def matmul_precision(self) -> str:
        """What JAX calls the precision."""
        return {"float32": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}[self.precision]

    @property
    def classifier_network(self) -> Literal["dcgan", "resnet"]:
        """The network of the consolidated classifier, and of the baselines' classifiers."""
        return self.consolidation_network or self.network

    @property
    def classifier_width(self) -> int:
        """The width of its first layer."""
        return self.consolidation_width or self.discriminator_width

    def for_method(self, method: Method) -> "Config":
        """The same settings for another method; those that would do nothing for it are at their defaults."""
        idle = {name: _default(name) for name, methods in _SERVES.items() if method not in methods}
        return dataclasses.replace(self, method=method, **idle)

    def __post_init__(self) -> None:
        """Refuses values that cannot work, before anything is computed."""
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise ConfigError(f"{name}={value!r} must be {_in_words(kinds)}")
            if isinstance(value, numbers.Real) and not math.isfinite(value):
                raise ConfigError(f"{name}={value!r} must be a finite number")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value!r} must be greater than 0")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(f"{name}={value!r} must not be negative")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(map(str, choices))}"
                )
        if self.image_size not in (8, 16, 32, 64, 128):
            raise ConfigError(f"image_size={self.image_size} must be 4 times a power of two: 8, 16, 32, 64 or 128")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out} must be a fraction of at least 0 and below 1")
        if self.consolidation_shift >= self.image_size / 2:
            raise ConfigError(
                f"consolidation_shift={self.consolidation_shift} must be below half of image_size={self.image_size}"
            )
        if not 0 < self.mask_share <= 1:
            raise ConfigError(f"mask_share={self.mask_share} must be a share greater than 0 and at most 1")
        for name in ("consolidation_smoothing", "generator_average"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        if not 0 <= self.adam_b1 < 1 or not 0 <= self.adam_b2 < 1:
            raise ConfigError(f"adam_b1={self.adam_b1} and adam_b2={self.adam_b2} must be at least 0 and below 1")
        if self.scale_max < 1:
            raise ConfigError(f"scale_max={self.scale_max} must be at least 1: gates start at 1 / scale_max")
        if self.variant == "dgmw" and self.gate_position != "last":
            raise ConfigError("gate_position='before_norm' is for dgma; dgmw gates weights, always before the norm")
        if self.warm_start and (self.masks != "learnt" or not self.reuse):
            raise ConfigError(
                f"warm_start=True begins with an earlier class's masks; masks={self.masks!r} and reuse={self.reuse} "
                "must be 'learnt' and True"
            )
        if self.warm_start and self.anneal_within_epoch:
            raise ConfigError(
                "warm_start=True begins with gates nearly open or closed, which anneal_within_epoch brings back to "
                "half open in every epoch: leave out one of the two"
            )
        for name, methods in _SERVES.items():
            default = _default(name)
            if self.method not in methods and getattr(self, name) != default:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} does nothing for method {self.method!r}, but for "
                    f"{', '.join(methods)}: leave it at {default!r}"
                )
        if self.masks == "none" and self.gate_gradient == "product":
            raise ConfigError("masks='none' has no gate to learn; gate_gradient must be 'closed'")
        if self.seed >= 2**32:
            raise ConfigError(f"seed={self.seed} must be below 2**32")
        if self.protocol == "paper" and self.held_out == 0:
            raise ConfigError("protocol='paper' chooses epochs on held-out images; set held_out, e.g. 0.15")


def _kinds_of(annotation: Any) -> tuple[type, ...]:
    """The types that a setting may have; a whole number will do for any number."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return tuple({type(value) for value in parts})
    if parts:  # Of a union.
        return tuple(dict.fromkeys(kind for part in parts for kind in _kinds_of(part)))
    return {int: (numbers.Integral,), float: (numbers.Real,)}.get(annotation, (annotation,))


def _in_words(kinds: tuple[type, ...]) -> str:
    names = {numbers.Integral: "a whole number", numbers.Real: "a number", bool: "true or false", str: "a name"}
    return " or ".join(names.get(kind, "None") for kind in kinds)


def _choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values that a setting is one of; none where it may have any."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return parts
    chosen = tuple(value for part in parts for value in _choices_of(part))
    return (*chosen, None) if chosen and NoneType in parts else chosen


def _default(name: str) -> Any:
    return Config.__dataclass_fields__[name].default


_HINTS = get_type_hints(Config)
_KINDS = {name: _kinds_of(hint) for name, hint in _HINTS.items()}
_CHOICES = {name: choices for name, hint in _HINTS.items() if (choices := _choices_of(hint))}
_POSITIVE = (
    *("image_size", "train_per_class", "noise_dim", "generator_width", "discriminator_width", "epochs", "batch_size"),
    *("generator_learning_rate", "discriminator_learning_rate", "clip_norm", "scale_max", "headroom", "replay_steps"),
    *("consolidation_steps", "consolidation_samples", "consolidation_learning_rate", "checkpoint_epochs"),
    *("memory_size", "consolidation_width"),
)
_NOT_NEGATIVE = (
    *("seed", "adversarial_weight", "penalty_weight", "sparsity_weight", "reconstruction_weight", "scale_lead"),
    *("consolidation_shift", "ewc_weight", "alignment_weight"),
)
_SERVES: dict[str, tuple[Method, ...]] = {  # Methods that would pass over an option in silence refuse it.
    **dict.fromkeys(("warm_start", "generator_average", "scale_lead", "critic_condition", "replay"), ("dgm",)),
    "consolidation_smoothing": GENERATIVE,
}
