"""The classifier that a run leaves behind, to tell images of all classes learnt."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dgm_jax import checkpoint
from dgm_jax.data.dataset import resize
from dgm_jax.errors import NoMemory, UserError
from dgm_jax.training.classifier import predict_logits
from dgm_jax.workdir import Workdir

READINGS = ("consolidated", "auxiliary")


class BadImages(UserError, ValueError):
    """Images that the classifier cannot tell anything of."""


@dataclass(frozen=True)
class Classifier:
    """Tells the class of images; made by `load_classifier`."""

    params: Any
    statistics: Any
    network: str
    image_shape: tuple[int, int, int]  # Of the images it learnt, as its network met them.
    n_outputs: int  # Of its head: classes that are not learnt yet included.
    labels: tuple[int, ...]  # Of the classes learnt, as the data set labels them.
    names: tuple[str, ...]

    def __repr__(self) -> str:
        """What it tells apart: the weights themselves would fill the screen."""
        shape = "x".join(map(str, self.image_shape))
        return f"Classifier(labels={list(self.labels)}, images={shape}, network={self.network!r})"

    def predict(self, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Tells images apart.

        Args:
          images: uint8 [n, height, width, channels] (or [n, height, width] if grey), of any size, which is scaled to
            the network's own (what is not square is squeezed; images of class folders were cut to their central square
            before, as `python -m dgm_jax predict` does); channels as in training.

        Returns:
          Labels, int64 [n], and probabilities, float32 [n, classes], in the order of `labels`: the network's softmax.
          They are not calibrated: it learnt generated images and meets real ones.

        Raises:
          BadImages: if the images are none of these.
        """
        pixels = np.asarray(images)
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        channels = self.image_shape[2]
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != channels or 0 in pixels.shape[1:]:
            raise BadImages(
                f"images of {pixels.dtype} {list(pixels.shape)}; expected uint8 [n, height, width, {channels}]"
            )
        seen = np.arange(self.n_outputs) < len(self.labels)
        if pixels.shape[1:3] != self.image_shape[:2]:
            pixels = resize(pixels, self.image_shape[0])
        logits = predict_logits(self.params, self.statistics, pixels, seen, network=self.network)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))[:, : len(self.labels)]
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return np.asarray(self.labels, np.int64)[probabilities.argmax(axis=1)], probabilities


def load_classifier(workdir: str | Path, *, reading: str = "consolidated") -> Classifier:
    """Loads the classifier of all classes that a run of DGM has learnt so far.

    Args:
      workdir: the folder of the run, finished or not.
      reading: "consolidated", which learnt from images that the memory drew, or "auxiliary", the paper's.

    Raises:
      NoMemory: if there is none yet, or the run is a baseline's.
      UserError: if `reading` is unknown, or what is there cannot be read.
    """
    if reading not in READINGS:
        raise UserError(f"reading={reading!r} is unknown; choose one of {', '.join(READINGS)}")
    folder = Workdir(workdir)
    if not folder.path.is_dir():
        raise NoMemory(f"{folder.path} is not a folder; expected the workdir of a run")
    if folder.seeds() and not folder.config.exists():
        raise NoMemory(f"{folder.path} holds the runs of several seeds; choose one: {', '.join(folder.seeds())}")
    restored = _newest_finished(folder)
    if restored is None:
        raise NoMemory(f"{folder.path} has no classifier; expected the workdir of a run of dgm with a finished task")
    own = restored.tree[{"consolidated": "classifier", "auxiliary": "auxiliary"}[reading]]
    config, memory = folder.read_config(), restored.metadata["memory"]
    network = memory.get("network", "dcgan")
    if reading == "consolidated":
        network = config["config"].get("consolidation_network") or network
    known = sum(len(task["classes"]) for task in memory["tasks"])
    return Classifier(
        params=own["params"],
        statistics=own["statistics"],
        network=network,
        image_shape=tuple(config["stream"]["image_shape"]),
        n_outputs=len(own["params"]["classifier"]["bias"]),
        labels=tuple(memory["labels"][:known]),
        names=tuple(memory["names"][:known]),
    )


def _newest_finished(folder: Workdir) -> checkpoint.Checkpoint | None:
    """Of a task in progress there are checkpoints without a classifier; that of the task before it lies beside them."""
    for step in reversed(checkpoint.steps(folder.checkpoints)):
        try:
            restored = checkpoint.restore(folder.checkpoints, step, on_damage=warnings.warn)
        except FileNotFoundError:  # A live run has just deleted it.
            continue
        except checkpoint.DamagedCheckpoint as error:
            warnings.warn(f"{error} The classifier is that of an earlier task.", stacklevel=3)
            continue
        if restored is not None and "classifier" in restored.tree:
            return restored
    return None
