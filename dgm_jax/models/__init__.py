"""Pairs of a generator and a discriminator, by name. A new kind is a new file here, and an entry below."""

from collections.abc import Sequence
from types import ModuleType
from typing import Literal, Protocol

import jax

from dgm_jax.models import dcgan, mlp, resnet
from dgm_jax.models.discriminator import Output
from dgm_jax.models.generator import Generator
from dgm_jax.types import DiscriminatorParams, Statistics


class Pair(Protocol):
    """What a file of this room offers."""

    def generator(self, image_size: int) -> Generator:
        """The wiring of a generator of square images of this side; 1 for vectors."""

    def generator_widths(self, width: int, image_size: int) -> tuple[int, ...]:
        """Output units of each masked layer of a new generator, first to last."""

    def init_discriminator(
        self, key: jax.Array, *, width: int, image_size: int, channels: int, n_classes: int
    ) -> tuple[DiscriminatorParams, list[Statistics]]:
        """Fresh parameters and running statistics of a discriminator."""

    def discriminate(
        self,
        params: DiscriminatorParams,
        statistics: Sequence[Statistics],
        images: jax.Array,
        *,
        train: bool,
        axis_name: str | None = None,
        form: Literal["xla"] | None = None,
    ) -> tuple[Output, list[Statistics]]:
        """Computes the critic's value D(x) and the auxiliary classifier's logits of each image.

        Args:
          params: as `init_discriminator` makes them.
          statistics: running statistics of the norms.
          images: [batch, height, width, channels] in [-1, 1]; or scaled vectors, [batch, 1, 1, channels].
          train: normalise by the batch, and update the running statistics.
          axis_name: the mapped axis over which the batch is split, if any.
          form: of the convolutions, as `nn.conv` takes it.

        Returns:
          (critic [batch], logits [batch, classes], features [batch, n]) and the new running statistics.
        """

    def discriminator_flops(self, width: int, image_size: int, channels: int) -> float:
        """Floating-point operations of one forward pass of the discriminator for one image."""


_PAIRS: dict[str, ModuleType] = {"dcgan": dcgan, "resnet": resnet, "mlp": mlp}
NETWORKS = tuple(_PAIRS)
OF_VECTORS = "mlp"  # The pair for vectors; all others are for images.


def pair(network: str) -> Pair:
    """The pair of that name: "dcgan", "resnet" or, for vectors, "mlp"."""
    return _PAIRS[network]  # type: ignore[return-value]  # A module with these functions.
