"""Image files of every kind, written and read back: cut, turned, scaled, and said what is wrong with them."""

import errno
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image
from support.pictures import save

from dgm_jax import data
from dgm_jax.data import image_files

_ORIENTATION = 0x0112


def _read_one(file, size):
    return image_files._read(file, size, 65535)[0]


def test_the_central_square_is_scaled_and_averaged(photo, tmp_path):
    file = save(tmp_path / "wide.png", photo)
    square = Image.fromarray(np.ascontiguousarray(photo[:, 106:533]))  # (640 - 427) // 2 = 106
    expected = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(_read_one(file, 32), expected)
    tall = save(tmp_path / "tall.png", photo.swapaxes(0, 1))
    assert np.abs(_read_one(tall, 32).astype(int) - expected.swapaxes(0, 1)).max() <= 1
    board = np.uint8(255 * (np.indices((64, 64)).sum(axis=0) % 2))
    assert np.abs(_read_one(save(tmp_path / "board.png", board), 8).astype(int) - 127).max() <= 1, "no aliasing"


def test_large_jpegs_are_decoded_small_and_look_the_same(photo, tmp_path, monkeypatch):
    file = save(tmp_path / "large.jpg", photo, quality=95)
    sizes = []
    turn = image_files._grey_or_rgb
    monkeypatch.setattr(image_files, "_grey_or_rgb", lambda x, *white: sizes.append(x.size) or turn(x, *white))
    small = _read_one(file, 32).astype(int)
    with monkeypatch.context() as patch:
        patch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda self, mode, size: None)
        whole = _read_one(file, 32)
    assert sizes == [(320, 214), (640, 427)], "half: a quarter would be less than 4 x 32"
    assert np.abs(small - whole).mean() < 1.5 and np.abs(small - whole).max() < 16


def test_images_are_turned_as_exif_says(photo, tmp_path):
    exif = Image.Exif()
    exif[_ORIENTATION] = 6  # The camera was held on its side: turn by 90 degrees, clockwise.
    lying = np.rot90(photo, 1)  # Counter-clockwise, as it is stored.
    for suffix in ("png", "webp"):
        file = save(tmp_path / f"turned.{suffix}", np.ascontiguousarray(lying), exif=exif, lossless=True)
        upright = _read_one(save(tmp_path / "upright.png", photo), 48)
        assert np.abs(_read_one(file, 48).astype(int) - upright).max() <= 1


def test_broken_exif_is_no_fault_of_the_image(photo, tmp_path):
    """And no line for each image; Pillow warns, and warnings are errors here."""
    for name in ("a", "b"):
        for i in range(2):
            save(
                tmp_path / name / f"{i}.jpg",
                photo[:64, :64],
                exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x09\x01",
            )
    dataset = data.from_folder(tmp_path, size=64)
    assert np.abs(dataset.x_train[0].astype(int) - photo[:64, :64]).mean() < 4


def _modes(photo):
    """(file name, what is saved, options, what should be read) at 32x32."""
    colour = photo[200:232, 200:232]
    grey = np.asarray(Image.fromarray(colour).convert("L"))
    palette = Image.fromarray(colour).quantize(64)
    half = np.zeros((32, 32, 1), np.uint8)
    half[:, :16] = 255  # The right half is transparent, hence white.
    on_white = np.where(half > 0, colour, 255)
    cmyk = Image.fromarray(colour).convert("CMYK")
    deep = grey.astype(np.uint16) * 257
    bits = grey > 128
    shown = palette.convert("RGB")
    first_clear = palette.copy()
    index = np.asarray(palette)
    return {
        "rgb.bmp": (colour, {}, colour),
        "rgb.webp": (colour, {"lossless": True}, colour),
        "rgb.tif": (colour, {}, colour),
        "rgb.ppm": (colour, {}, colour),
        "palette.png": (palette, {}, shown),
        "palette.gif": (palette, {}, shown),
        "clear.png": (first_clear, {"transparency": 3}, np.where(index[..., None] == 3, 255, np.asarray(shown))),
        "cmyk.tif": (cmyk, {}, colour),
        "rgba.png": (np.concatenate([colour, half], axis=-1), {}, on_white),
        "la.png": (
            Image.fromarray(np.concatenate([grey[..., None], half], axis=-1), "LA"),
            {},
            np.where(half > 0, grey[..., None], 255),
        ),
        "grey.png": (grey, {}, grey[..., None]),
        "deep.png": (deep, {}, grey[..., None]),
        "deep.tif": (deep, {}, grey[..., None]),
        "deep.pgm": (deep, {}, grey[..., None]),
        "bits.png": (bits, {}, np.uint8(255 * bits[..., None])),
        "none.suffix": (None, {}, colour),
    }


@pytest.mark.parametrize("name", list(_modes(np.zeros((427, 640, 3), np.uint8))))
def test_every_mode_becomes_eight_bits_of_grey_or_rgb(name, photo, tmp_path):
    saved, options, expected = _modes(photo)[name]
    if saved is None:  # The content counts, not the name.
        file = save(tmp_path / "x.png", expected).rename(tmp_path / name)
    else:
        file = save(tmp_path / name, saved, **options)
    np.testing.assert_array_equal(_read_one(file, 32), expected)


def test_of_an_animation_the_first_image_counts(photo, tmp_path):
    frames = [Image.fromarray(photo[i : i + 32, :32]) for i in (0, 100, 200)]
    for suffix in ("png", "webp"):
        file = save(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(_read_one(file, 32), photo[:32, :32])


def test_files_are_read_in_threads_and_keep_their_order(pieces, monkeypatch):
    path, chosen = pieces
    waiting = threading.Event()
    read = image_files._read

    def slow(file, size, white):
        if file.name == "0.png":  # The first waits for the last.
            assert waiting.wait(timeout=30)
        if file.name == "4.png":
            waiting.set()
        return read(file, size, white)

    monkeypatch.setattr(image_files, "_read", slow)
    dataset = data.from_folder(path, size=16)
    np.testing.assert_array_equal(dataset.x_train, np.concatenate([chosen["cat"][:4], chosen["dog"][:4]]))


# ---- values of more than 8 bits, formats ----


@pytest.mark.parametrize("suffix, dtype", [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)])
@pytest.mark.parametrize("largest, white", [(255, 255), (200, 255), (4095, 4095), (3000, 4095), (65535, 65535)])
def test_files_of_more_than_8_bits_are_scaled_by_what_is_there(suffix, dtype, largest, white, tmp_path):
    values = np.linspace(0, largest, 12 * 256).round().reshape(12, 16, 16)
    for i, image in enumerate(values):
        save(tmp_path / "ab"[i % 2] / f"{i:02}.{suffix}", image.astype(dtype))
    dataset = data.from_folder(tmp_path, size=16)
    expected = np.round(np.concatenate([values[0::2], values[1::2]]) * (255 / white))
    found = np.concatenate([dataset.x_train[:5], dataset.x_test[:1], dataset.x_train[5:], dataset.x_test[1:]])
    np.testing.assert_allclose(found[..., 0], expected, atol=1)
    said = [
        note for note in dataset.notes if f"largest value is {largest}, so that white is taken to be {white}" in note
    ]
    assert len(said) == (white < 65535)


def test_an_image_that_would_run_a_program_is_not_read(pieces, monkeypatch, tmp_path):
    path, _ = pieces
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\necho gs >> {log}\nexit 1\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (path / "cat" / "holiday.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(data.DataError, match=r"holiday.jpg \(not an image, or in a format that is not read\)"):
        data.from_folder(path, size=16)
    assert not log.exists()


def test_running_out_of_files_or_memory_is_no_fault_of_an_image(pieces, monkeypatch):
    """Not even where unreadable files are to be skipped."""
    for error in (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), MemoryError("no memory")):
        monkeypatch.setattr(Image, "open", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            data.from_folder(pieces[0], size=16, unreadable="skip")


def test_files_of_unequal_depth_are_said(tmp_path):
    """One file of 16 bits makes those of 8 bits beside it dark."""
    rng = np.random.default_rng(0)
    for i in range(12):
        image = rng.integers(0, 65536 if i == 3 else 256, (16, 16)).astype(np.uint16)
        save(tmp_path / "ab"[i % 2] / f"{i:02}.png", image)
    (note,) = (note for note in data.from_folder(tmp_path, size=16).notes if "dark beside others" in note)
    assert "whose white is 65535: 11, 00.png" in note


def test_colours_of_more_than_8_bits_are_said(pieces, tmp_path):
    """Pillow reads their upper 8 bits; if a file uses fewer, the image is dark."""
    path, _ = pieces
    pixels = np.random.default_rng(0).integers(0, 4096, (16, 16, 3)).astype(">u2")
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    content = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts)
    (path / "cat" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    (note,) = data.from_folder(path, size=16).notes
    assert note.startswith("colour files of more than 8 bits, of which the upper 8 are read") and "1, deep.png" in note


def test_what_is_predicted_says_how_deep_files_were_scaled(tmp_path):
    notes = []
    file = save(tmp_path / "x.png", np.full((16, 16), 200, np.uint16))
    image_files.read_images([file], size=16, channels=1, on_note=notes.append)
    assert len(notes) == 1 and "so that white is taken to be 255" in notes[0]
