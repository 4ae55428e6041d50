"""The settings in groups; symbols in brackets are the paper's."""

from dataclasses import dataclass
from typing import Literal

from dgm_jax.config.choices import DGM, FROZEN, GENERATIVE, TRAINS, Network, Precision, Variant
from dgm_jax.config.setting import Settings, setting
from dgm_jax.errors import ConfigError

_SMOOTHED: tuple = (*GENERATIVE, "joint", "er", "gdumb", "finetune")  # Their classifier learns labels by cross-entropy.
_SAMPLED: tuple = (*FROZEN, "mergan", "mergan-jtr")  # Their classifier learns from images drawn of all classes.
_FEATURES: tuple = ("analytic", *FROZEN)  # They can keep sums of features.


@dataclass(frozen=True, kw_only=True)
class Data(Settings):
    """What a run sees of the data set."""

    image_size: int = setting(32)
    """Side of the square images that the networks see: 4 times a power of two; 1 for vectors."""
    train_per_class: int | None = setting(None, above=0)
    """Use only the first N training images of each class; None: all."""
    held_out: float = setting(0.0, at_least=0, below=1)
    """Fraction of each class's training images held out for validation (the paper protocol needs it)."""

    def check(self) -> None:
        """Refuses sizes that the networks do not have."""
        if self.image_size not in (1, 8, 16, 32, 64, 128):
            raise ConfigError(
                f"image_size={self.image_size} must be 4 times a power of two: 8, 16, 32, 64 or 128 (or 1 for vectors)"
            )

    @property
    def are_vectors(self) -> bool:
        """Whether vectors are learnt, as images of a single pixel, and not images."""
        return self.image_size == 1


@dataclass(frozen=True, kw_only=True)
class Networks(Settings):
    """Generator and discriminator."""

    network: Network = setting("dcgan", used_by=TRAINS)
    """The pair of networks: the authors' DCGAN, the residual pair of ImageNet-50, or dense layers, for vectors."""
    noise_dim: int = setting(128, above=0, used_by=GENERATIVE)
    """Entries of the noise vector [nz]; the first ones carry the one-hot class."""
    generator_width: int = setting(20, above=0, used_by=GENERATIVE)
    """Width of the generator's last masked layer [ngf]; each before is twice as wide; in resnet, mlp all are equal."""
    discriminator_width: int = setting(32, above=0, used_by=TRAINS)
    """Width of the discriminator's first layer [ndf]; each after is twice as wide; in resnet each stage, in mlp all
    are equal."""


@dataclass(frozen=True, kw_only=True)
class Gan(Settings):
    """How generator and discriminator are trained."""

    epochs: int = setting(101, above=0, changeable=True, used_by=GENERATIVE)
    """Epochs for each task [I]."""
    batch_size: int = setting(64, above=0, used_by=TRAINS)
    """Images in a mini-batch [B], over all devices."""
    precision: Precision = setting("auto", used_by=TRAINS)
    """Precision of the factors of training's products: float32, tf32 (GPUs only) or bf16. auto: that of the run in the
    folder, or in a new one tf32 on GPUs that have it, bf16 on TPUs, float32 elsewhere."""
    generator_learning_rate: float = setting(2e-3, above=0, changeable=True, used_by=GENERATIVE)
    """Step size of the generator's Adam."""
    discriminator_learning_rate: float = setting(2e-3, above=0, changeable=True, used_by=GENERATIVE)
    """Step size of the discriminator's Adam."""
    adam_b1: float = setting(0.5, at_least=0, below=1, used_by=GENERATIVE)
    """Decay of Adam's first moment."""
    adam_b2: float = setting(0.999, at_least=0, below=1, used_by=GENERATIVE)
    """Decay of Adam's second moment."""
    clip_norm: float = setting(10_000.0, above=0, changeable=True, used_by=GENERATIVE)
    """Global norm at which the generator's gradients are clipped."""
    adversarial_weight: float = setting(1.0, at_least=0, changeable=True, used_by=GENERATIVE)
    """Weight of the critic's value in the generator's loss [lambda_adv]."""
    penalty_weight: float = setting(1.0, at_least=0, changeable=True, used_by=GENERATIVE)
    """Weight of the gradient penalty in the critic's loss [lambda_gp]."""
    reconstruction_weight: float = setting(0.0, at_least=0, used_by=GENERATIVE)
    """Weight in the generator's loss of the L1 distance to the real images of the batch [L1]."""
    auxiliary_generator: bool = setting(False, used_by=FROZEN)
    """Add the auxiliary classifier's cross-entropy to the generator's loss [aux_G]."""
    reinitialise_discriminator: bool = setting(True, used_by=FROZEN)
    """Start the discriminator afresh at every task."""
    critic_condition: Literal["none", "projection"] = setting("none", used_by=FROZEN)
    """projection: if tasks have several classes, the critic sees each image's class (Miyato and Koyama 2018)."""
    generator_average: float = setting(0.0, at_least=0, below=1, used_by=FROZEN)
    """Average the generator's weights over a task's steps, with this decay a step; 0: keep the last weights."""


@dataclass(frozen=True, kw_only=True)
class Gates(Settings):
    """The masks of DGM, what they reserve, and how the generator grows."""

    variant: Variant = setting("dgma", used_by=DGM)
    """What the masks gate: output units (dgma) or weights (dgmw)."""
    gate_position: Literal["last", "before_norm"] = setting("last", used_by=DGM)
    """Where dgma gates a unit: after norm and ReLU, or before the norm, as released (old memories then drift)."""
    scale_max: float = setting(1e5, above=0, changeable=True, used_by=DGM)
    """Slope of the gates at the end of a task [s_max]."""
    masks: Literal["learnt", "random", "none"] = setting("learnt", used_by=DGM)
    """learnt: with the weights. Ablations: random: half of the gates, drawn when a task begins and kept; none: all
    are open and nothing is reserved, so that old images drift."""
    reuse: bool = setting(True, used_by=DGM)
    """Let a task's masks open what earlier tasks reserved (false: an ablation)."""
    expansion: bool = setting(True, used_by=DGM)
    """Let the generator grow after each task (false: an ablation)."""
    memory_limit_kb: int | None = setting(None, above=0, changeable=True, used_by=DGM)
    """Let the generator grow only as far as its weights and the masks, norms and output layers of all tasks of the
    stream take at most N kB (1,000 bytes); None: no limit."""
    scale_lead: int = setting(0, at_least=0, used_by=DGM)
    """Epochs by which the annealing of the slope is ahead (the authors': 1 on ImageNet)."""
    mask_share: float = setting(1.0, above=0, at_most=1, changeable=True, used_by=DGM)
    """Share of a task's epochs in which its masks are learnt; in the rest they are binary and only weights learn."""
    anneal_within_epoch: bool = setting(False, used_by=DGM)
    """Anneal the slope again within each epoch, up to the slope of the epoch (the paper's dgmw)."""
    gate_gradient: Literal["closed", "product"] = setting("closed", used_by=DGM)
    """How embeddings' gradients are compensated: S sigmoid'(e) in closed form, or HAT's product."""
    sparsity_weight: float = setting(0.01, at_least=0, changeable=True, used_by=DGM)
    """Weight of the sparsity term of the generator's loss, the share of free capacity that masks open [lambda_R]; it
    grows with the generator."""
    headroom: int = setting(2, above=0, used_by=DGM)
    """Initial array width, as a multiple of what the first task needs, so that growth does not force a recompile."""
    warm_start: bool = setting(
        False,
        used_by=DGM,
        because="a task then begins with masks of earlier tasks, in the generator that it shares with them",
    )
    """Begin a task with norms, output layers and masks of the earlier classes that its classes look most like."""

    def check(self) -> None:
        """Refuses what cannot work together."""
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
        if self.masks == "none" and self.gate_gradient == "product":
            raise ConfigError("masks='none' has no gate to learn; gate_gradient must be 'closed'")


@dataclass(frozen=True, kw_only=True)
class Replay(Settings):
    """How images of earlier classes are replayed."""

    replay: Literal["fixed", "fresh"] = setting("fixed", changeable=True, used_by=FROZEN)
    """Draw the replayed images once per task, or anew for every epoch."""
    replay_steps: int | None = setting(None, above=0, changeable=True, used_by=FROZEN)
    """Mini-batches an iteration for the auxiliary classifier, of real and replayed images; None: one for each task."""


@dataclass(frozen=True, kw_only=True)
class Consolidation(Settings):
    """How the classifier of all classes is trained after each task, and the classifiers of the baselines."""

    consolidation_steps: int = setting(400, above=0, changeable=True, used_by=TRAINS)
    """Steps for which the consolidated classifier is trained after each task."""
    consolidation_samples: int = setting(500, above=0, changeable=True, used_by=_SAMPLED)
    """Images per class that the memory generates for the consolidated classifier."""
    consolidation_learning_rate: float = setting(1e-3, above=0, changeable=True, used_by=TRAINS)
    """First step size of the consolidated classifier's Adam, which decays to 0 along a cosine."""
    consolidation_shift: int = setting(0, at_least=0, changeable=True, used_by=TRAINS)
    """Shift images at random by up to N pixels when the classifier is consolidated."""
    consolidation_flip: bool = setting(False, changeable=True, used_by=TRAINS)
    """Mirror images at random, left to right, when the classifier is consolidated."""
    consolidation_noise: float = setting(0.0, at_least=0, changeable=True, used_by=_SAMPLED)
    """Add normal noise to images, in [-1, 1], when the classifier is consolidated: each has its own deviation of up to
    N, so that the classifier does not rely on fine details, which drawn images show worst."""
    consolidation_means: bool = setting(False, used_by=FROZEN)
    """Keep the mean image of each class, shrunk to 8x8, and move the drawn images of the class to it before the
    classifier is consolidated."""
    consolidation_smoothing: float = setting(0.0, at_least=0, below=1, changeable=True, used_by=_SMOOTHED)
    """Share of the classifier's target that is spread over all classes (label smoothing)."""
    consolidation_network: Network | None = setting(None, used_by=TRAINS)
    """Network of the consolidated classifier; None: that of the discriminator."""
    consolidation_width: int | None = setting(None, above=0, used_by=TRAINS)
    """Width of the first layer of the consolidated classifier; None: that of the discriminator."""


@dataclass(frozen=True, kw_only=True)
class Features(Settings):
    """Sums of features of real images, which analytic keeps, and dgm and separate beside their memory if combined."""

    filters: int = setting(100, above=0, used_by=_FEATURES)
    """Filters that are found in the first task's images; an image has eight features of each."""
    mirror: bool = setting(False, used_by=_FEATURES)
    """Add up the features of each image's mirror image, too; each of the two then counts half."""
    combined: bool = setting(False, used_by=FROZEN)
    """Keep filters and sums, and measure two more classifiers: analytic, read off the sums, and combined, the mean of
    its log-probabilities and those of the consolidated one."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Settings):
    """Base of a method's own settings, which are declared beside the method; this one has none."""
