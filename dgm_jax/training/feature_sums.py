"""Adds the features of images to sums (`models/closed_form.py`), on all devices."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dgm_jax.models.closed_form import Sums
from dgm_jax.models.patch_filters import PatchFilters, features
from dgm_jax.training.devices import AXIS, data_parallel, local, place, share
from dgm_jax.training.epoch import padded

AT_ONCE = 64  # Images of a call, on each device.
IMAGES_PER_BLOCK = 4096  # The sums of a block are float32 and exact enough; blocks are added up in float64.


class FeatureSums:
    """The compiled program that adds images to sums."""

    def __init__(self, n_features: int, devices: Sequence[jax.Device], *, mirror: bool, backend: str = "pmap") -> None:
        """Binds it to devices; compiles nothing yet. With `mirror`, half of each image's part is its mirror image's."""
        self.n_features, self.devices = n_features, devices
        add = partial(add_features, mirror=mirror, n_devices=len(devices))
        self._add = data_parallel(add, devices, backend)

    def with_images(
        self,
        sums: Sums,
        filters: PatchFilters | None,
        images: np.ndarray,
        labels: np.ndarray,
        on_images: Callable[[int], None],
    ) -> Sums:
        """The sums, float64 on the host, with images [n, h, w, c], or scaled vectors, of classes [n] added.

        `on_images(n)` is called after every n images.
        """
        for start in range(0, len(images), IMAGES_PER_BLOCK):
            rows = slice(start, start + IMAGES_PER_BLOCK)
            added = self._block(len(sums.counts), filters, images[rows], labels[rows], on_images)
            sums = jax.tree.map(np.add, sums, added)
        return sums

    def _block(
        self,
        n_classes: int,
        filters: PatchFilters | None,
        images: np.ndarray,
        labels: np.ndarray,
        on_images: Callable[[int], None],
    ) -> Sums:
        nothing = Sums.of_nothing(n_classes, self.n_features)
        sums, filters = place((nothing, filters), self.devices)
        size = AT_ONCE * len(self.devices)
        for start in range(0, len(images), size):
            part = padded(images[start : start + size], labels[start : start + size], size)
            sums = self._add(sums, filters, part.images, part.labels, part.count)
            on_images(int(part.count))
        return jax.device_get(local(sums, self.devices))


def add_features(
    sums: Sums,
    filters: PatchFilters | None,
    images: jax.Array,
    labels: jax.Array,
    count: jax.Array,
    shard: jax.Array,
    *,
    mirror: bool,
    n_devices: int,
) -> Sums:
    """Adds the first `count` of some images, or scaled vectors, to the sums, each device its share."""
    images, labels = share(images, shard, n_devices), share(labels, shard, n_devices)
    weights = jnp.float32(shard * len(images) + jnp.arange(len(images)) < count)
    if mirror:
        images, labels = jnp.concatenate([images, images[:, :, ::-1]]), jnp.tile(labels, 2)
        weights = jnp.tile(weights, 2) / 2
    rows = images.reshape(len(images), -1) if filters is None else features(filters, images)
    of_class = jax.nn.one_hot(labels, len(sums.counts)) * weights[:, None]
    with jax.default_matmul_precision("highest"):
        added = Sums(rows.T @ (rows * weights[:, None]), of_class.T @ rows, of_class.sum(axis=0))
    return jax.tree.map(jnp.add, sums, lax.psum(added, AXIS))
