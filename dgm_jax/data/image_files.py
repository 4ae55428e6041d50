"""Decodes image files to uint8 arrays of one size, and says which cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dgm_jax.data.classes import few
from dgm_jax.data.dataset import DataError, Images
from dgm_jax.errors import is_of_environment, naming_extras
from dgm_jax.system.files import PathLike

if TYPE_CHECKING:
    from PIL.Image import Image

# Formats of Pillow that are read. PostScript is not: to read it, Pillow runs another program.
_FORMATS = (
    "AVIF",
    "BMP",
    "DDS",
    "DIB",
    "GIF",
    "ICNS",
    "ICO",
    "IM",
    "JPEG",
    "JPEG2000",
    "MPO",
    "MSP",
    "PCX",
    "PNG",
    "PPM",
    "PSD",
    "QOI",
    "SGI",
    "SUN",
    "TGA",
    "TIFF",
    "WEBP",
    "XBM",
    "XPM",
)
_WHITES = (255, 4095, 65535)  # The largest values of 8, 12 and 16 bits.
_GREY = ("1", "L", "LA", "La")
_COLOURED = ("RGB", "RGBA", "LA", "RGBX", "CMYK")
_DEEP_COLOURS = -1  # In place of the largest value: Pillow reads only the upper 8 bits of such a file.


@naming_extras()
def read_images(
    files: Sequence[PathLike], *, size: int, channels: int, on_note: Callable[[str], None] = warnings.warn
) -> Images:
    """Reads image files as `from_folder` does, and converts all to grey (1 channel) or to colour (3 channels).

    `on_note` is called with each note, such as how files of more than 8 bits were scaled: it depends on these files.

    Returns:
      uint8 [n, size, size, channels].

    Raises:
      DataError: if files cannot be read as images; the message names them.
    """
    paths = [Path(file) for file in files]
    images, _, faults, notes = read_files(paths, size, np.ones(len(paths), bool))
    for note in notes:
        on_note(note)
    faulty = [f"{path} ({fault})" for path, fault in zip(paths, faults, strict=True) if fault]
    if faulty:
        raise DataError(f"{len(faulty):,} of {len(paths):,} files cannot be read as images: {few(faulty)}.")
    if channels == 3:
        return images
    from PIL import Image

    grey = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
    return np.stack(grey)[..., None] if grey else images[..., :1]


@naming_extras()
def read_files(files: Sequence[Path], size: int, wanted: np.ndarray) -> tuple[Images, np.ndarray, list[str], list[str]]:
    """Reads files in threads (Pillow releases the interpreter lock while it decodes).

    Args:
      files: the files.
      size: height and width of the images.
      wanted: bool [n]: which images are needed. Other files are opened, and decoded only if they have more than 8 bits,
        because the largest value of all such files says what is white.

    Returns:
      Images [n, size, size, 3], which of them are grey, what is wrong with each file ("" if nothing), and notes.
    """
    images = np.zeros((len(files), size, size, 3), np.uint8)
    grey = np.zeros(len(files), bool)
    largest = np.zeros(len(files), int)  # The largest value in a file of more than 8 bits.

    def read(row: int, white: int = _WHITES[-1]) -> str:
        try:
            if not wanted[row] and (seen := _without_decoding(files[row])) is not None:
                grey[row], largest[row] = seen
                return ""
            image, largest[row] = _read(files[row], size, white)
        except Exception as error:  # For a damaged file decoders raise SyntaxError, struct.error and others.
            if is_of_environment(error):
                raise
            return _fault(files[row], error)
        images[row], grey[row] = image, image.shape[-1] == 1
        return ""

    pool = ThreadPoolExecutor()
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # One line per image with e.g. broken EXIF data.
        try:
            faults = list(pool.map(read, range(len(files))))
            if coloured := [files[row].name for row in np.flatnonzero(largest == _DEEP_COLOURS).tolist()]:
                notes.append(
                    "colour files of more than 8 bits, of which the upper 8 are read (dark if the file uses fewer): "
                    f"{len(coloured):,}, {few(coloured)}"
                )
            largest[largest == _DEEP_COLOURS] = 0
            deep, most = np.flatnonzero(largest).tolist(), int(largest.max(initial=0))
            white = next(white for white in _WHITES if most <= white)
            dark = [files[row].name for row in deep if any(largest[row] <= less < white for less in _WHITES)]
            if dark:
                notes.append(
                    f"files of more than 8 bits that are dark beside others, whose white is {white}: {len(dark):,}, "
                    f"{few(dark)}"
                )
            if deep and white < _WHITES[-1]:
                list(pool.map(partial(read, white=white), deep))
                notes.append(
                    f"files of more than 8 bits whose largest value is {most}, so that white is taken to be {white}: "
                    f"{len(deep):,}, {few([files[row].name for row in deep])}"
                )
        finally:
            pool.shutdown(cancel_futures=True)  # Otherwise Ctrl-C would wait until all images are read.
    return images, grey, faults, notes


def _read(file: Path, size: int, white: int) -> tuple[Images, int]:
    """Reads an image as [size, size, 1 or 3], as `from_folder` says, and the largest value in it if it has over 8 bits.

    `white` is the value of white in files of more than 8 bits.
    """
    from PIL import Image, ImageOps

    with _open(file) as opened:
        # JPEGs only: decodes at the smallest of 1, 1/2, 1/4, 1/8 of the size that is at least as large as this. With
        # twice `size`, ImageNet is not read faster, and single pixels change by 30 levels.
        opened.draft(None, (4 * size, 4 * size))
        has_deep_colours = _has_deep_colours(opened)
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        image, largest = _grey_or_rgb(opened, white)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).reshape(size, size, -1), _DEEP_COLOURS if has_deep_colours else largest


def _without_decoding(file: Path) -> tuple[bool, int] | None:
    """Whether an image is grey, and what `_read` says of its largest value; None if only its pixels tell that."""
    with _open(file) as opened:
        if opened.mode.startswith("I"):
            return None
        return opened.mode in _GREY, _DEEP_COLOURS if _has_deep_colours(opened) else 0


def _open(file: Path) -> Image:
    from PIL import Image

    if not file.is_file():  # For example a pipe: opening it would wait for ever.
        raise FileNotFoundError("not a file")
    Image.init()
    return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])


def _has_deep_colours(image: Image) -> bool:
    return image.mode in _COLOURED and _is_deep(image)


def _is_deep(image: Image) -> bool:
    """Whether a file that was opened, and not loaded, has more than 8 bits in a channel, as Pillow describes it."""
    described = [argument for tile in getattr(image, "tile", ()) for argument in np.ravel([tile[-1]]).tolist()]
    return any(";16" in str(argument) or str(argument).isdecimal() and int(argument) > 255 for argument in described)


def _grey_or_rgb(image: Image, white: int) -> tuple[Image, int]:
    """Converts an image of any mode to L if it is grey, else to RGB; also the largest value, if it has over 8 bits."""
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow would clip values at 255.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > _WHITES[-1]:
            raise ValueError(f"values {values.min()}..{values.max()}, expected 8 to 16 bits")
        return Image.fromarray(np.round(values / (white / 255)).astype(np.uint8)), int(values.max())
    if image.mode == "F":
        raise ValueError("floating-point values, expected 8 or 16 bits")
    grey = image.mode in _GREY
    if not image.has_transparency_data:
        return image.convert("L" if grey else "RGB"), 0
    image = image.convert("LA" if grey else "RGBA")
    ground = Image.new("L" if grey else "RGB", image.size, "white")
    ground.paste(image.convert(ground.mode), mask=image.getchannel("A"))
    return ground, 0


def _fault(file: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if file.is_file() and not file.stat().st_size:
        return "empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or in a format that is not read"
    return (str(error).splitlines() or [type(error).__name__])[0]
