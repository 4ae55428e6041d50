"""Real images that a method keeps from task to task: as they are, or as JPEG.

They are arrays by name, as a checkpoint holds them: "labels", the class index of each, int32 [n], and either "images",
uint8 [n, h, w, c] (or scaled vectors, float32 [n, 1, 1, d]), or three arrays of JPEG of quality 75 (Wang et al. 2022,
MRDC, arXiv 2202.06592, compress replayed images so). A JPEG stream begins with its size and its tables, which are the
same for all images here: "header", uint8, holds them once. What follows is different from image to image: "scans",
uint8, one after the other, and "lengths", int32 [n].
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import jax
import numpy as np

from dgm_jax.config import MethodSettings, setting
from dgm_jax.errors import ConfigError, naming_extras
from dgm_jax.methods.classifying import ClassifierMethod, State
from dgm_jax.methods.method import Setting

Kept = dict[str, np.ndarray]
MemoryFormat = Literal["raw", "jpeg"]

_QUALITY = 75
_START_OF_SCAN, _END = b"\xff\xda", b"\xff\xd9"  # Marks of a JPEG stream: of its last header, and of its end.


@dataclass(frozen=True, kw_only=True)
class KeptImagesSettings(MethodSettings):
    """The settings of a method that keeps a limited number of images."""

    memory_size: int = setting(200, above=0)
    """Real images that are kept, of all classes together."""
    memory_format: MemoryFormat = setting("raw")
    """raw: keep images as they are. jpeg: keep them as JPEG of quality 75; the classifier learns from what such files
    decode to, also of new images."""


class ImageMemory(ClassifierMethod):
    """A method that keeps real images of earlier tasks beside its classifier."""

    checkpoints_kept = 2  # Each holds all images that are kept.

    @property
    def memory_format(self) -> MemoryFormat:
        """How images are kept."""
        return "raw"

    def new_state(self, key: jax.Array) -> State:
        """A fresh classifier, and no images yet."""
        return replace(super().new_state(key), kept=no_images(self.setting.room(0), self.memory_format))

    def images(self, state: State) -> np.ndarray:
        """The images, or vectors, that are kept; their classes are `state.kept["labels"]`."""
        return decoded(state.kept, self.setting.image_shape)

    def as_kept(self, images: np.ndarray) -> np.ndarray:
        """New images as they would be if they were kept, so that what compression does to an image tells no class."""
        if self.memory_format == "raw":
            return images
        none = no_images(images[:0], self.memory_format)
        return decoded(chosen(none, range(len(images)), images, np.zeros(len(images), np.int32)), images.shape[1:])

    def kept_bytes(self, state: State) -> dict[str, int]:
        """The images: raw ones as the data set stores them."""
        if self.memory_format == "raw":
            return {"images": self.setting.bytes_of(len(state.kept["labels"]))}
        return {"images": state.kept["header"].nbytes + state.kept["scans"].nbytes}


class LimitedImageMemory(ImageMemory):
    """Keeps at most `memory_size` images."""

    settings = KeptImagesSettings

    @property
    def memory_format(self) -> MemoryFormat:
        """As the settings say."""
        found: MemoryFormat = self.method_settings.memory_format
        return found


class BalancedImageMemory(LimitedImageMemory):
    """Keeps equally many images of each class, as far as this is possible."""

    def __init__(self, setting: Setting) -> None:
        """Binds the method to settings; raises ConfigError if there is no room for one image of each class."""
        super().__init__(setting)
        size, n = self.method_settings.memory_size, setting.n_classes
        if size < n:
            method = self.config.method
            raise ConfigError(
                f"memory_size={size}, but {method} keeps an image of each of {n} classes; give at least {n}"
            )


def no_images(none: np.ndarray, memory_format: MemoryFormat) -> Kept:
    """An empty memory for images, or vectors; `none` is an array of none of them, [0, h, w, c]."""
    labels = np.zeros(0, np.int32)
    if memory_format == "raw":
        return {"images": none, "labels": labels}
    scans, lengths = np.zeros(0, np.uint8), np.zeros(0, np.int32)
    return {"header": _as_array(_header(none.shape[1:])), "scans": scans, "lengths": lengths, "labels": labels}


def chosen(kept: Kept, rows: Sequence[int] | np.ndarray, images: np.ndarray, labels: np.ndarray) -> Kept:
    """What is kept after new images have come; a kept image is never encoded a second time.

    Args:
      kept: n images.
      rows: of what is kept from now on: below n of `kept`, then n + i for the new image number i.
      images: the new images, uint8 [m, h, w, c].
      labels: their class indices, int32 [m].
    """
    picked, n_before = np.asarray(rows, int), len(kept["labels"])
    left = {"labels": np.concatenate([kept["labels"], labels])[picked]}
    if "images" in kept:
        return {"images": np.concatenate([kept["images"], images])[picked]} | left
    header, before = kept["header"].tobytes(), _scans(kept)
    scans = [before[row] if row < n_before else _scan(images[row - n_before], header) for row in picked]
    lengths = np.array([len(scan) for scan in scans], np.int32)
    return {"header": kept["header"], "scans": _as_array(b"".join(scans)), "lengths": lengths} | left


def decoded(kept: Kept, shape: tuple[int, int, int]) -> np.ndarray:
    """The images of a shape that are kept, uint8 [n, h, w, c]."""
    if "images" in kept:
        return kept["images"]
    from PIL import Image

    header = kept["header"].tobytes()
    streams = (io.BytesIO(header + scan + _END) for scan in _scans(kept))
    pixels = [np.asarray(Image.open(stream, formats=["JPEG"])) for stream in streams]
    return np.reshape(np.array(pixels, np.uint8), (-1, *shape))


def jpeg_bytes(images: np.ndarray) -> tuple[int, float]:
    """Bytes that the common header takes, and each of these images on average; images are uint8 [n, h, w, c]."""
    header = _header(images.shape[1:])
    return len(header), sum(len(_scan(image, header)) for image in images) / len(images)


def _scans(kept: Kept) -> list[bytes]:
    ends = np.cumsum(kept["lengths"])
    content = kept["scans"].tobytes()
    return [content[end - length : end] for end, length in zip(ends, kept["lengths"], strict=True)]


@naming_extras()
def _encoded(image: np.ndarray) -> bytes:
    """A whole JPEG stream of an image, grey or of three colours."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, format="JPEG", quality=_QUALITY)
    return stream.getvalue()


def _header(shape: tuple[int, int, int]) -> bytes:
    """What all streams of images of a shape begin with."""
    stream = _encoded(np.zeros(shape, np.uint8))
    last = stream.index(_START_OF_SCAN) + len(_START_OF_SCAN)
    return stream[: last + int.from_bytes(stream[last : last + 2], "big")]


def _scan(image: np.ndarray, header: bytes) -> bytes:
    """What an image's stream has between the header and the mark of the end."""
    stream = _encoded(image)
    if not (stream.startswith(header) and stream.endswith(_END)):
        raise ConfigError(
            "memory_format='jpeg': the Pillow that is installed encodes with other tables than the one with which this "
            "run was begun; install that version"
        )
    return stream[len(header) : -len(_END)]


def _as_array(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)
