"""Class scores and features of images, from a discriminator in evaluation mode."""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.models import pair
from dgm_jax.models.discriminator import Output
from dgm_jax.system.pinned import pinned
from dgm_jax.types import DiscriminatorParams, Statistics

_ON_CPU, _ELSEWHERE = 64, 256  # Images in a call. On CPUs, what a layer makes of 64 images still fits the cache.
_AHEAD = 16  # Calls that may wait for the device; more would keep more images there, and gain nothing.


def to_unit_range(images: jax.Array) -> jax.Array:
    """Scales uint8 images to float32 in [-1, 1]; floats, such as those of vectors, are scaled already."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1


@pinned()
def predict(
    params: DiscriminatorParams,
    statistics: Sequence[Statistics],
    images: np.ndarray,
    *,
    network: str,
    part: Literal["logits", "features"] = "logits",
) -> np.ndarray:
    """Logits of the class head, [n, classes], or its input, [n, features], of images, by programs of one batch size.

    The device computes one batch while the next ones are handed over; nobody waits for a batch before the next.

    Args:
      params: of the discriminator.
      statistics: running statistics of its norms.
      images: [n, height, width, channels], uint8, or float32 in [-1, 1]; or scaled vectors, float32 [n, 1, 1, d].
      network: "dcgan", "resnet" or "mlp".
      part: which of the two is returned.
    """
    n = len(images)
    if n == 0:  # Predict for one image, and drop its scores below.
        images = np.zeros((1, *images.shape[1:]), images.dtype)
    params, statistics = jax.device_put((params, list(statistics)))  # Once, not for each batch.
    waiting: deque[jax.Array] = deque()
    done: list[np.ndarray] = []
    for batch in _batches(images):
        waiting.append(getattr(discriminated(params, statistics, batch, network=network), part))
        if len(waiting) > _AHEAD:
            done.append(np.asarray(waiting.popleft()))
    return np.concatenate([*done, *map(np.asarray, waiting)])[:n]


def predict_logits(
    params: DiscriminatorParams,
    statistics: Sequence[Statistics],
    images: np.ndarray,
    seen: np.ndarray,
    *,
    network: str,
) -> np.ndarray:
    """The logits of `predict`; classes not in `seen`, bool [classes], get the lowest finite number."""
    logits = predict(params, statistics, images, network=network)
    return np.where(seen[None], logits, np.finfo(logits.dtype).min)


@partial(jax.jit, static_argnames="network")
def discriminated(
    params: DiscriminatorParams, statistics: Sequence[Statistics], images: jax.Array, *, network: str
) -> Output:
    """The output of a discriminator in evaluation mode, for images as `predict` takes them."""
    images = to_unit_range(images)
    with jax.default_matmul_precision("highest"):
        output, _ = pair(network).discriminate(params, statistics, images, train=False, form="xla")
    return output


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """The images in turn, as many at once as is best on the device; black ones fill up the last batch."""
    size = _ON_CPU if jax.default_backend() == "cpu" else _ELSEWHERE
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        missing = size - len(batch)
        yield np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)]) if missing else batch
