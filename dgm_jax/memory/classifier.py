"""A trained classifier: what tells images of all classes learnt apart."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from dgm_jax.data import pictures
from dgm_jax.data.dataset import resize
from dgm_jax.errors import UserError
from dgm_jax.models.prediction import predict, predict_logits
from dgm_jax.types import DiscriminatorParams, Scale, Statistics

CONFIDENCE = ("temperature", "threshold")  # What a checkpoint knows of a classifier besides; earlier ones did not.
_SLACK = 1e-3  # Arithmetic in low precision may exceed 1 by this much.


class BadImages(UserError, ValueError):
    """Images, or vectors, that the classifier cannot read."""


class NoThreshold(UserError, ValueError):
    """A classifier that cannot tell unknown images."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Predicting(ABC):
    """What tells images of the classes learnt so far apart; a subclass gives the scores."""

    image_shape: tuple[int, int, int]  # [height, width, channels] of the images that it reads.
    labels: tuple[int, ...]  # Of the classes learnt, as the data set labels them, in the order of the scores.
    names: tuple[str, ...]
    scale: Scale | None = None  # Of vectors; None for images.
    temperature: float = 1.0  # What logits are divided by before they become probabilities (docs/confidence.md).
    threshold: float | None = None  # An image whose highest logit is below is of no class learnt; None: not known.

    @abstractmethod
    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores images of `image_shape`, uint8, or float32 in [-1, 1], or scaled vectors: [n, classes or more]."""

    def __repr__(self) -> str:
        """A short description: the weights would fill the screen."""
        read = f"images={'x'.join(map(str, self.image_shape))}"
        if self.scale is not None:
            read = f"vectors of {len(self.scale.mean)}"
        return f"{type(self).__name__}(labels={list(self.labels)}, {read})"

    def predict(self, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Predicts the class of images.

        Args:
          images: [n, height, width, channels], or [n, height, width] if grey, with the channels of training; uint8 in
            0..255, or floats in [-1, 1] as a memory draws them. Images of another size are resized to what the network
            reads, float images after rounding to uint8; an image that is not square is squeezed. (`python -m dgm_jax
            predict` cuts images to their central square first, as training on class folders does.) A classifier of
            vectors takes those, as the data have them: [n, d].

        Returns:
          Labels, int64 [n], and probabilities, float32 [n, classes], in the order of `labels`: the softmax of the
          logits divided by `temperature`. They are not calibrated if that is 1.

        Raises:
          BadImages: if the images have another shape, type or range. Float images without any value below 0 are
            refused, too: they would be black to white in 0..1.
        """
        logits = self._logits_of_known(images)
        odds = np.exp((logits - logits.max(axis=1, keepdims=True)) / np.float32(self.temperature))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return np.asarray(self.labels, np.int64)[probabilities.argmax(axis=1)], probabilities.astype(np.float32)

    def is_unknown(self, images: ArrayLike) -> np.ndarray:
        """Whether images look like none of the classes learnt: their highest logit is below `threshold`, bool [n].

        Images are as `predict` takes them.

        Raises:
          NoThreshold: if the classifier has none.
          BadImages: as `predict`.
        """
        if self.threshold is None:
            raise NoThreshold(
                "this classifier has no threshold below which an image is unknown; expected the consolidated one of a "
                "run of dgm or separate, of this version or later. docs/confidence.md says how to give it one"
            )
        return self._logits_of_known(images).max(axis=1) < self.threshold

    def _logits_of_known(self, images: ArrayLike) -> np.ndarray:
        if self.scale is not None:
            return self.logits(self.scale.scaled(_checked_vectors(images, self.image_shape[2])))[:, : len(self.labels)]
        pixels = _checked(images, self.image_shape[2])
        if pixels.shape[1:3] != self.image_shape[:2]:
            pixels = resize(pictures.to_uint8(pixels), self.image_shape[0])
        return self.logits(pixels)[:, : len(self.labels)]


@dataclass(frozen=True, repr=False)
class Classifier(Predicting):
    """A network that tells images of the classes learnt so far apart; `load_classifier` loads that of a run."""

    params: DiscriminatorParams
    statistics: list[Statistics]
    network: str

    @property
    def n_outputs(self) -> int:
        """Outputs of the network, those of classes that are not learnt yet included."""
        return len(self.params.classifier.bias)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores images [n, height, width, channels] of `image_shape`, uint8, or float32 in [-1, 1], or scaled vectors.

        Returns:
          float32 [n, n_outputs]; classes that are not learnt yet have the lowest number there is.
        """
        seen = np.arange(self.n_outputs) < len(self.labels)
        return predict_logits(self.params, self.statistics, images, seen, network=self.network)

    def features(self, images: np.ndarray) -> np.ndarray:
        """What the class head reads of images as `logits` takes them: float32 [n, features]."""
        return predict(self.params, self.statistics, images, network=self.network, part="features")


def require_network(classifier: Predicting) -> Classifier:
    """Returns the classifier if it is one network and nothing else, so that a file can hold it.

    Raises:
      UserError: if it needs sums of features.
    """
    if type(classifier) is Classifier:
        return classifier
    raise UserError(
        "this classifier needs sums of features, and a file holds a network alone; give the consolidated classifier, "
        "or use the folder of the run"
    )


def _checked_vectors(values: ArrayLike, size: int) -> np.ndarray:
    """Vectors as float32 [n, size]."""
    vectors = np.asarray(values)
    if vectors.ndim != 2 or vectors.shape[1] != size or not jnp.issubdtype(vectors.dtype, jnp.floating):
        raise BadImages(
            f"vectors of {vectors.dtype} {list(vectors.shape)}; expected floats [n, {size}], a row for each vector, "
            "from the network whose vectors were learnt"
        )
    vectors = vectors.astype(np.float32)
    rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if rows.size:
        raise BadImages(
            f"vectors of floats that are not all finite, in {len(rows)} of {len(vectors)} rows, e.g. row {rows[0]}; "
            "leave those rows out"
        )
    return vectors


def _checked(images: ArrayLike, channels: int) -> np.ndarray:
    """Images as uint8, or as float32 in [-1, 1], [n, height, width, channels]."""
    pixels = np.asarray(images)
    if pixels.ndim == 3 and pixels.shape[2] != 1:  # One image [height, width, 1] is no batch of grey ones.
        pixels = pixels[..., None]
    is_float = jnp.issubdtype(pixels.dtype, jnp.floating)
    is_image = pixels.ndim == 4 and pixels.shape[3] == channels and 0 not in pixels.shape[1:]
    if not is_image or not (is_float or pixels.dtype == np.uint8):
        raise BadImages(
            f"images of {pixels.dtype} {list(pixels.shape)}; expected [n, height, width, {channels}], uint8 in 0..255 "
            "or floats in [-1, 1]"
        )
    if not is_float or pixels.size == 0:
        return pixels.astype(np.float32) if is_float else pixels
    pixels = pixels.astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImages("images of floats that are not all finite; expected floats in [-1, 1]")
    if low < -1 - _SLACK or high > 1 + _SLACK:
        remedy = " If they are in 0..255: np.round(x).astype(np.uint8)." if low >= 0 and high <= 255 else ""
        raise BadImages(f"images of floats in {low:g}..{high:g}; expected floats in [-1, 1], or uint8.{remedy}")
    if low >= 0:
        raise BadImages(
            f"images of floats in {low:g}..{high:g}; expected floats in [-1, 1], black is -1. If black is 0 here: "
            "2 * x - 1. Images that are so bright can be given as uint8."
        )
    return pixels
