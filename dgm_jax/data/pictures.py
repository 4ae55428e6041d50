"""Pictures for people: grids of images, with or without a name beside each row, written as PNG files.

Names and files need Pillow. It is imported inside the functions, so that learning and sampling work without it.
"""

import io
import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dgm_jax.errors import naming_extras
from dgm_jax.system import files

_SEPARATOR = 255  # White, because the borders of most images here are dark.
_MARGIN = 4
_SLACK = 1e-3  # Arithmetic in low precision may exceed 1 by this much; it is less than one step of uint8.


def grid(images: ArrayLike, *, separator: int = 1) -> NDArray[np.uint8]:
    """Arranges images in rows and columns, with white lines between them.

    Args:
      images: [rows, columns, h, w, c], uint8, or float in [-1, 1].
      separator: pixels between two images, >= 0.

    Returns:
      uint8 [rows * h + (rows - 1) * separator, columns * w + (columns - 1) * separator, c].

    Raises:
      ValueError: if the rank, the number of channels or the values are not as above.
    """
    pixels = _as_uint8(images, rank=5, axes="[rows, columns, h, w, c]")
    rows, columns, h, w, c = pixels.shape
    # Every image gets a line below and one to the right; the outermost lines are cut off.
    spaced = np.full((rows, columns, h + separator, w + separator, c), _SEPARATOR, np.uint8)
    spaced[:, :, :h, :w] = pixels
    whole = spaced.transpose(0, 2, 1, 3, 4).reshape(rows * (h + separator), columns * (w + separator), c)
    return whole[: whole.shape[0] - separator, : whole.shape[1] - separator]


@naming_extras()
def labelled_grid(
    rows: Mapping[str, ArrayLike], *, scale: int = 2, columns: int | None = None, separator: int = 1
) -> NDArray[np.uint8]:
    """Arranges images in one row (or more) for each name, with the name at the left.

    Args:
      rows: images by name, each uint8 or float in [-1, 1], [n, h, w, c]; only n may differ. The rest of a short row is
        white.
      scale: each pixel becomes a square with sides of `scale` pixels, >= 1.
      columns: images in a row; further images go to further rows of the same name. None: the largest n.
      separator: pixels between two images, before scaling.

    Returns:
      uint8 [height, width, c].

    Raises:
      ValueError: if there are no rows, or their images are not as above or differ in shape.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows:
        raise ValueError("there are no images to arrange")
    named = {name: _as_uint8(images, rank=4, axes="[n, h, w, c]") for name, images in rows.items()}
    shapes = {images.shape[1:] for images in named.values()}
    if len(shapes) > 1:
        raise ValueError(f"images of different shapes cannot share a grid: {', '.join(map(str, sorted(shapes)))}")
    ((h, w, c),) = shapes
    columns = columns or max(1, *(len(images) for images in named.values()))

    lines: list[NDArray[np.uint8]] = []
    first_line: dict[str, int] = {}
    for name, images in named.items():
        first_line[name] = len(lines)
        for start in range(0, max(1, len(images)), columns):
            line = np.full((columns, h, w, c), _SEPARATOR, np.uint8)
            part = images[start : start + columns]
            line[: len(part)] = part
            lines.append(line)
    picture = grid(np.stack(lines), separator=separator).repeat(scale, axis=0).repeat(scale, axis=1)

    font = ImageFont.load_default()
    boxes = {name: font.getbbox(name) for name in named}
    margin = int(max(box[2] for box in boxes.values())) + 2 * _MARGIN
    canvas = Image.new("L", (margin, picture.shape[0]), _SEPARATOR)
    draw = ImageDraw.Draw(canvas)
    for name, (_, top, _, bottom) in boxes.items():
        middle = scale * (first_line[name] * (h + separator) + h / 2)
        draw.text((_MARGIN, middle - (top + bottom) / 2), name, fill=0, font=font)
    label = np.repeat(np.asarray(canvas)[:, :, None], c, axis=2)
    return np.concatenate([label, picture], axis=1)


@naming_extras()
def write_png(path: str | os.PathLike[str], array: ArrayLike) -> None:
    """Writes a picture as PNG, atomically.

    Args:
      path: the file; its folder must exist.
      array: uint8 [h, w], [h, w, 1] or [h, w, 3].

    Raises:
      ValueError: if the array has another dtype or shape.
      OSError: if the file cannot be written.
    """
    from PIL import Image

    pixels = np.asarray(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[2] == 3):
        raise ValueError(f"{path}: a picture is uint8 [h, w], [h, w, 1] or [h, w, 3]; got {_describe(pixels)}")
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    files.write_atomically(path, content.getvalue())


def to_uint8(images: ArrayLike) -> NDArray[np.uint8]:
    """Rounds images [n, h, w, c], float in [-1, 1], to uint8; uint8 images are returned unchanged.

    Raises:
      ValueError: if the array is not as above, or holds NaN.
    """
    return _as_uint8(images, rank=4, axes="[n, h, w, c]")


def _as_uint8(images: ArrayLike, *, rank: int, axes: str) -> NDArray[np.uint8]:
    values = np.asarray(images)
    if values.ndim != rank or values.shape[-1] not in (1, 3):
        raise ValueError(f"expected images {axes} with 1 or 3 channels; got {_describe(values)}")
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"expected images of uint8, or of floats in [-1, 1]; got {_describe(values)}")
    if not np.all(np.abs(values) <= 1 + _SLACK):  # Also false for NaN.
        raise ValueError(f"expected float images in [-1, 1]; found {values.min()} to {values.max()}")
    return np.round((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
