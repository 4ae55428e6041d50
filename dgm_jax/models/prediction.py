"""Class scores and features of images, from a discriminator in evaluation mode."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.models import pair
from dgm_jax.system.pinned import pinned
from dgm_jax.types import DiscriminatorParams, Statistics


def to_unit_range(images: jax.Array) -> jax.Array:
    """Scales uint8 images to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


_PREDICTED_AT_ONCE = 256


@pinned()
def predict(
    params: DiscriminatorParams, statistics: Sequence[Statistics], images: np.ndarray, *, network: str
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the class head, [n, classes], and its input, [n, features], of images, by programs of one batch size.

    Args:
      params: of the discriminator.
      statistics: running statistics of its norms.
      images: [n, height, width, channels], uint8, or float32 in [-1, 1].
      network: "dcgan" or "resnet".
    """
    n = len(images)
    if n == 0:  # Predict for one image, and drop its scores below.
        images = np.zeros((1, *images.shape[1:]), images.dtype)
    padded = np.concatenate([images, np.zeros((-len(images) % _PREDICTED_AT_ONCE, *images.shape[1:]), images.dtype)])
    parts = [
        jax.device_get(_predict(params, statistics, padded[i : i + _PREDICTED_AT_ONCE], network=network))
        for i in range(0, len(padded), _PREDICTED_AT_ONCE)
    ]
    logits, features = (np.concatenate(arrays)[:n] for arrays in zip(*parts, strict=True))
    return logits, features


def predict_logits(
    params: DiscriminatorParams,
    statistics: Sequence[Statistics],
    images: np.ndarray,
    seen: np.ndarray,
    *,
    network: str,
) -> np.ndarray:
    """The logits of `predict`; classes not in `seen`, bool [classes], get the lowest finite number."""
    logits, _ = predict(params, statistics, images, network=network)
    return np.where(seen[None], logits, np.finfo(logits.dtype).min)


@partial(jax.jit, static_argnames="network")
def _predict(
    params: DiscriminatorParams, statistics: Sequence[Statistics], images: jax.Array, *, network: str
) -> tuple[jax.Array, jax.Array]:
    if images.dtype == np.uint8:
        images = to_unit_range(images)
    with jax.default_matmul_precision("highest"):
        output, _ = pair(network).discriminate(params, statistics, images, train=False)
    return output.logits, output.features
