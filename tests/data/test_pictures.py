"""Grids, pixel for pixel, and PNG files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgm_jax.data import pictures as images


def test_grid_puts_every_pixel_in_its_place() -> None:
    pixels = np.arange(2 * 3 * 2 * 1, dtype=np.uint8).reshape(2, 3, 2, 1, 1)  # 2 rows, 3 columns, images of 2x1
    expected = [
        [0, 255, 2, 255, 4],
        [1, 255, 3, 255, 5],
        [255, 255, 255, 255, 255],
        [6, 255, 8, 255, 10],
        [7, 255, 9, 255, 11],
    ]
    picture = images.grid(pixels)
    assert picture.dtype == np.uint8 and picture.shape == (5, 5, 1)
    np.testing.assert_array_equal(picture[:, :, 0], expected)


@pytest.mark.parametrize("separator", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_grid_against_a_loop(separator: int, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 6, channels), np.uint8)
    expected = np.full((3 * 5 + 2 * separator, 4 * 6 + 3 * separator, channels), 255, np.uint8)
    for row in range(3):
        for column in range(4):
            top, left = row * (5 + separator), column * (6 + separator)
            expected[top : top + 5, left : left + 6] = pixels[row, column]
    np.testing.assert_array_equal(images.grid(pixels, separator=separator), expected)


def test_floats_are_scaled() -> None:
    pixels = np.array([-1.0, -1 / 3, 0.0, 1.0, 1.0001], np.float32).reshape(1, 5, 1, 1, 1)
    assert images.grid(pixels, separator=0).ravel().tolist() == [0, 85, 128, 255, 255]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 3, 4, 4), np.uint8), r"got uint8 \[2, 3, 4, 4\]"),
        (np.zeros((1, 1, 4, 4, 2), np.uint8), "1 or 3 channels"),
        (np.zeros((1, 1, 4, 4, 1), np.int64), "uint8, or of floats"),
        (np.full((1, 1, 4, 4, 1), 2.0), r"\[-1, 1\]; found 2.0 to 2.0"),
        (np.full((1, 1, 4, 4, 1), np.nan), "found nan"),
    ],
)
def test_grid_refuses(bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.grid(bad)


def test_labelled_grid_scales_and_pads_short_rows() -> None:
    rows = {"three": np.zeros((3, 8, 8, 1), np.uint8), "one": np.full((1, 8, 8, 1), 7, np.uint8)}
    picture = images.labelled_grid(rows, scale=2)
    width = 2 * (3 * 8 + 2)
    right = picture[:, -width:, 0]
    assert picture.shape[0] == 2 * (2 * 8 + 1)
    assert (right[:16, :16] == 0).all() and (right[:16, 16:18] == 255).all()
    assert (right[16:18] == 255).all()
    assert (right[18:, :16] == 7).all() and (right[18:, 16:] == 255).all()
    label = picture[:, :-width, 0]
    assert (label[:16] < 128).any() and (label[18:] < 128).any(), "both rows are named"


def test_labelled_grid_breaks_long_rows() -> None:
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    picture = images.labelled_grid({"a": pixels, "b": pixels[:1]}, scale=1, columns=2, separator=0)
    assert picture[:, -2:, 0].tolist() == [[0, 1], [2, 3], [4, 255], [0, 255]]


def test_labelled_grid_keeps_colour() -> None:
    red = np.zeros((1, 4, 4, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    assert images.labelled_grid({"red": red}, scale=1)[0, -1].tolist() == [200, 0, 0]


def test_labelled_grid_refuses() -> None:
    with pytest.raises(ValueError, match="no images"):
        images.labelled_grid({})
    with pytest.raises(ValueError, match="different shapes"):
        images.labelled_grid({"a": np.zeros((1, 4, 4, 1), np.uint8), "b": np.zeros((1, 8, 8, 1), np.uint8)})


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_png_reads_back_the_same(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images.write_png(tmp_path / "a.png", array)
    with Image.open(tmp_path / "a.png") as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read).reshape(shape), array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_png_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        images.write_png(tmp_path / "a.png", np.zeros((4, 4)))
    assert not list(tmp_path.iterdir())
