"""A trained classifier: what tells images of all classes learnt apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dgm_jax.data.dataset import resize
from dgm_jax.errors import UserError
from dgm_jax.models.prediction import predict, predict_logits
from dgm_jax.types import DiscriminatorParams, Statistics


class BadImages(UserError, ValueError):
    """Images that the classifier cannot read."""


@dataclass(frozen=True)
class Classifier:
    """Tells images of the classes learnt so far apart; `load_classifier` loads that of a run."""

    params: DiscriminatorParams
    statistics: list[Statistics]
    network: str
    image_shape: tuple[int, int, int]  # [height, width, channels] of the images that the network reads.
    labels: tuple[int, ...]  # Of the classes learnt, as the data set labels them, in the order of the outputs.
    names: tuple[str, ...]

    def __repr__(self) -> str:
        """A short description: the weights would fill the screen."""
        shape = "x".join(map(str, self.image_shape))
        return f"Classifier(labels={list(self.labels)}, images={shape}, network={self.network!r})"

    @property
    def n_outputs(self) -> int:
        """Outputs of the network, those of classes that are not learnt yet included."""
        return len(self.params.classifier.bias)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores uint8 images [n, height, width, channels] of `image_shape`.

        Returns:
          float32 [n, n_outputs]; classes that are not learnt yet have the lowest number there is.
        """
        seen = np.arange(self.n_outputs) < len(self.labels)
        return predict_logits(self.params, self.statistics, images, seen, network=self.network)

    def features(self, images: np.ndarray) -> np.ndarray:
        """What the class head reads of uint8 images [n, height, width, channels]: float32 [n, features]."""
        return predict(self.params, self.statistics, images, network=self.network)[1]

    def predict(self, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Predicts the class of images.

        Args:
          images: uint8 [n, height, width, channels], or [n, height, width] if grey, of any size, with the channels of
            training. They are resized to what the network reads; an image that is not square is squeezed.
            (`python -m dgm_jax predict` cuts images to their central square first, as training on class folders does.)

        Returns:
          Labels, int64 [n], and probabilities, float32 [n, classes], in the order of `labels`: the network's softmax.
          They are not calibrated: the network learnt generated images and now reads real ones.

        Raises:
          BadImages: if the images have another shape or type.
        """
        pixels = np.asarray(images)
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        channels = self.image_shape[2]
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != channels or 0 in pixels.shape[1:]:
            raise BadImages(
                f"images of {pixels.dtype} {list(pixels.shape)}; expected uint8 [n, height, width, {channels}]"
            )
        if pixels.shape[1:3] != self.image_shape[:2]:
            pixels = resize(pixels, self.image_shape[0])
        logits = self.logits(pixels)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))[:, : len(self.labels)]
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return np.asarray(self.labels, np.int64)[probabilities.argmax(axis=1)], probabilities
