"""Folders of images: real digits, photographs and CIFAR-10, written as files and read back."""

import errno
import os
import re
import shutil
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from dgm_jax import data
from dgm_jax.data import folders, tfds

_ORIENTATION = 0x0112


def _save(path, image, **options):
    """Writes an array, or a picture, in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path


@pytest.fixture
def pieces(photo, tmp_path):
    """A folder of two classes, each five 16x16 pieces of a photograph, and the arrays."""
    tiles = photo[:160, :160].reshape(10, 16, 10, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
    chosen = {"cat": tiles[:5], "dog": tiles[50:55]}
    for name, images in chosen.items():
        for i, image in enumerate(images):
            _save(tmp_path / "pieces" / name / f"{i}.png", image)
    return tmp_path / "pieces", chosen


def _fails(path, message, **options):
    with pytest.raises(data.DataError) as error:
        data.from_folder(path, **({"size": 16} | options))
    assert str(error.value) == message


# ---- layouts ----


@pytest.mark.parametrize("second", ["val", "validation", "test"])
def test_cifar10_as_class_folders_comes_back(second, data_dir, tmp_path):
    folder = tfds.find_version("cifar10", data_dir)
    builder = tfds.import_tfds().builder_from_directory(str(folder))
    images, labels = tfds._read_split(builder, "test[:200]", folder, None)
    kept = {0: "plane", 5: "dog", 9: "a lorry"}
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label in kept:
            part = "train" if i < 150 else second
            _save(tmp_path / part / kept[label] / f"{i:03}.png", image)
    dataset = data.from_folder(tmp_path, size=32, name="some")
    assert dataset.class_names == {0: "a lorry", 1: "dog", 2: "plane"}
    for part, x, y in (
        (np.arange(200) < 150, dataset.x_train, dataset.y_train),
        (np.arange(200) >= 150, dataset.x_test, dataset.y_test),
    ):
        rows = [np.flatnonzero(part & (labels == label)) for label in (9, 5, 0)]
        np.testing.assert_array_equal(x, images[np.concatenate(rows)])
        assert y.tolist() == np.repeat([0, 1, 2], [len(r) for r in rows]).tolist()
    assert (dataset.name, dataset.notes, dataset.stored_shape) == ("some", (), None)


def test_the_first_of_the_test_folders_is_read(pieces, tmp_path):
    path, chosen = pieces
    for i, part in enumerate(["train", "test", "val"]):
        for name in chosen:
            _save(tmp_path / "all" / part / name / "x.png", chosen[name][i])
    dataset = data.from_folder(tmp_path / "all", size=16)
    np.testing.assert_array_equal(dataset.x_test, [chosen["cat"][2], chosen["dog"][2]])


def test_the_last_fifth_by_name_are_test_images(digits, tmp_path):
    counts = {"a": 2, "b": 9, "c": 10, "d": 14}
    rows = iter(digits.x_train[..., 0])
    written = {name: [next(rows) for _ in range(n)] for name, n in counts.items()}
    for name, images in written.items():
        for i in reversed(range(len(images))):  # Folders list files as they like, not by name.
            _save(tmp_path / name / f"{i:02}.png", images[i])
    dataset = data.from_folder(tmp_path, size=8)
    assert np.bincount(dataset.y_test).tolist() == [1, 1, 2, 2]
    assert np.bincount(dataset.y_train).tolist() == [1, 8, 8, 12]
    assert dataset.x_train.shape == (29, 8, 8, 1), "grey, as all are"
    np.testing.assert_array_equal(
        dataset.x_test[..., 0], [*written["a"][1:], *written["b"][8:], *written["c"][8:], *written["d"][12:]]
    )
    np.testing.assert_array_equal(
        dataset.x_train[..., 0], [*written["a"][:1], *written["b"][:8], *written["c"][:8], *written["d"][:12]]
    )
    assert dataset.name == tmp_path.name


def test_chosen_classes_are_labelled_in_their_order(pieces):
    path, chosen = pieces
    dataset = data.from_folder(path, size=16, classes=["dog", "cat"])
    assert dataset.class_names == {0: "dog", 1: "cat"}
    np.testing.assert_array_equal(dataset.x_test, [chosen["dog"][4], chosen["cat"][4]])
    only = data.from_folder(path, size=16, classes=["dog"])
    np.testing.assert_array_equal(only.x_train, chosen["dog"][:4])
    assert data.folder_classes(path) == ("cat", "dog")


def test_classes_may_be_called_train_and_test(pieces):
    path, _ = pieces
    (path / "cat").rename(path / "train")
    (path / "train" / ".thumbnails").mkdir()
    assert data.folder_classes(path) == ("dog", "train")
    _fails(
        path / "dog",
        f"{path}/dog has no class folders (it holds 0.png, 1.png, 2.png, 3.png, 4.png); "
        "expected PATH/train/<class>/* and PATH/val/<class>/*, or PATH/<class>/*.",
    )


def test_what_is_no_image_is_left_out(pieces):
    path, _ = pieces
    before = data.from_folder(path, size=16)
    (path / ".git").mkdir()
    (path / "README").write_text("about")
    (path / "cat" / ".DS_Store").write_text("hidden")
    (path / "cat" / "labels.TXT").write_text("no image")
    (path / "dog" / "boxes.xml").write_text("no image")
    after = data.from_folder(path, size=16)
    np.testing.assert_array_equal(after.x_train, before.x_train)
    assert before.notes == () and after.notes == ("files left out because their suffix is not that of an image: 2",)


# ---- what becomes of an image ----


def _read_one(file, size):
    return folders._read(file, size, 65535)[0]


def test_the_central_square_is_scaled_and_averaged(photo, tmp_path):
    file = _save(tmp_path / "wide.png", photo)
    square = Image.fromarray(np.ascontiguousarray(photo[:, 106:533]))  # (640 - 427) // 2 = 106
    expected = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(_read_one(file, 32), expected)
    tall = _save(tmp_path / "tall.png", photo.swapaxes(0, 1))
    assert np.abs(_read_one(tall, 32).astype(int) - expected.swapaxes(0, 1)).max() <= 1
    board = np.uint8(255 * (np.indices((64, 64)).sum(axis=0) % 2))
    assert np.abs(_read_one(_save(tmp_path / "board.png", board), 8).astype(int) - 127).max() <= 1, "no aliasing"


def test_large_jpegs_are_decoded_small_and_look_the_same(photo, tmp_path, monkeypatch):
    file = _save(tmp_path / "large.jpg", photo, quality=95)
    sizes = []
    turn = folders._grey_or_rgb
    monkeypatch.setattr(folders, "_grey_or_rgb", lambda image, white: sizes.append(image.size) or turn(image, white))
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
        file = _save(tmp_path / f"turned.{suffix}", np.ascontiguousarray(lying), exif=exif, lossless=True)
        upright = _read_one(_save(tmp_path / "upright.png", photo), 48)
        assert np.abs(_read_one(file, 48).astype(int) - upright).max() <= 1


def test_broken_exif_is_no_fault_of_the_image(photo, tmp_path):
    """And no line for each image; Pillow warns, and warnings are errors here."""
    for name in ("a", "b"):
        for i in range(2):
            _save(
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
        file = _save(tmp_path / "x.png", expected).rename(tmp_path / name)
    else:
        file = _save(tmp_path / name, saved, **options)
    np.testing.assert_array_equal(_read_one(file, 32), expected)


def test_of_an_animation_the_first_image_counts(photo, tmp_path):
    frames = [Image.fromarray(photo[i : i + 32, :32]) for i in (0, 100, 200)]
    for suffix in ("png", "webp"):
        file = _save(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(_read_one(file, 32), photo[:32, :32])


def test_files_are_read_in_threads_and_keep_their_order(pieces, monkeypatch):
    path, chosen = pieces
    waiting = threading.Event()
    read = folders._read

    def slow(file, size, white):
        if file.name == "0.png":  # The first waits for the last.
            assert waiting.wait(timeout=30)
        if file.name == "4.png":
            waiting.set()
        return read(file, size, white)

    monkeypatch.setattr(folders, "_read", slow)
    dataset = data.from_folder(path, size=16)
    np.testing.assert_array_equal(dataset.x_train, np.concatenate([chosen["cat"][:4], chosen["dog"][:4]]))


# ---- grey among colour, unreadable ----


def test_grey_images_among_colour_ones(pieces, photo):
    path, _ = pieces
    grey = np.asarray(Image.fromarray(photo[:16, :16]).convert("L"))
    _save(path / "cat" / "1.png", grey)
    _save(path / "dog" / "4.png", grey)
    dataset = data.from_folder(path, size=16)
    assert dataset.notes == ("grey images converted to colour: 2, cat/1.png, dog/4.png",)
    for image in (dataset.x_train[1], dataset.x_test[1]):
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))
    _fails(
        path,
        f"2 of 10 images in {path} are grey, the others are in colour: cat/1.png, dog/4.png; "
        "remove them, or convert them (--grey convert).",
        grey="refuse",
    )


def test_if_all_are_grey_they_stay_grey(digits, tmp_path):
    for name in ("a", "b"):
        for i in range(5):
            _save(tmp_path / name / f"{i}.png", digits.x_train[i, ..., 0])
    (tmp_path / "a" / "0.png").write_bytes(b"")
    for grey in ("convert", "refuse"):
        dataset = data.from_folder(tmp_path, size=8, grey=grey, unreadable="skip")
        assert dataset.notes == ("files skipped because they cannot be read: 1, a/0.png (empty)",)
        np.testing.assert_array_equal(dataset.x_train, digits.x_train[[1, 2, 3, 0, 1, 2, 3]])


def _damage(path, photo):
    """Damages four files of `pieces`; returns what is said of them."""
    (path / "cat" / "0.png").write_bytes(b"")
    (path / "cat" / "1.png").write_text("<html>not found</html>")
    whole = _save(path / "dog" / "1.jpg", photo).read_bytes()
    (path / "dog" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (path / "dog" / "2.png").unlink()
    (path / "dog" / "2.png").symlink_to("nowhere.png")
    return (
        "cat/0.png (empty), cat/1.png (not an image, or in a format that is not read), "
        "dog/1.jpg (image file is truncated"
    )


def test_all_unreadable_files_are_told_at_once(pieces, photo):
    path, _ = pieces
    faulty = _damage(path, photo)
    with pytest.raises(data.DataError) as error:
        data.from_folder(path, size=16)
    message = str(error.value)
    assert message.startswith(f"4 of 11 files in {path} cannot be read as images: {faulty}")
    assert message.endswith("dog/2.png (not a file); repair or remove them, or skip them (--unreadable skip).")


def test_unreadable_files_are_skipped_and_told(pieces, photo):
    path, chosen = pieces
    faulty = _damage(path, photo)
    dataset = data.from_folder(path, size=16, unreadable="skip")
    (note,) = dataset.notes
    assert note.startswith(f"files skipped because they cannot be read: 4, {faulty}")
    np.testing.assert_array_equal(dataset.x_train, np.concatenate([chosen["cat"][2:4], chosen["dog"][[0, 1, 3]]]))
    np.testing.assert_array_equal(dataset.x_test, [chosen["cat"][4], chosen["dog"][4]])


def test_a_class_of_which_nothing_is_left(pieces):
    path, _ = pieces
    (path / "dog" / "4.png").write_bytes(b"")
    message = f"{path}: none of the test images of dog can be read; skipped: dog/4.png (empty)."
    _fails(path, message, unreadable="skip")


def test_of_many_unreadable_files_a_few_are_named(pieces):
    path, _ = pieces
    for file in path.glob("*/*.png"):
        file.write_bytes(b"")
    named = ", ".join(f"{file} (empty)" for file in ("cat/0.png", "cat/1.png", "cat/2.png", "cat/3.png", "dog/0.png"))
    _fails(
        path,
        f"10 of 10 files in {path} cannot be read as images: {named}, ... (10); "
        "repair or remove them, or skip them (--unreadable skip).",
    )


def test_pixels_whose_white_is_unknown_are_not_read(pieces, photo):
    path, _ = pieces
    _save(path / "cat" / "0.tif", Image.fromarray(np.float32(photo[:16, :16, 0])))
    _save(path / "cat" / "1.tif", Image.fromarray(np.int32(photo[:16, :16, 0]) * 70_000))
    with pytest.raises(data.DataError, match=re.escape("2 of 12 files")) as error:
        data.from_folder(path, size=16)
    assert "cat/0.tif (floating-point values, expected 8 or 16 bits), cat/1.tif (values " in str(error.value)


# ---- folders that cannot be read, told before any image is ----


@pytest.fixture
def unread(monkeypatch):
    def read(file, size):
        raise AssertionError(f"{file} was read")

    monkeypatch.setattr(folders, "_read_all", read)


def test_folders_that_hold_no_classes(tmp_path, unread):
    layouts = "PATH/train/<class>/* and PATH/val/<class>/*, or PATH/<class>/*"
    _fails(tmp_path / "none", f"{tmp_path}/none does not exist; expected a folder: {layouts}.")
    (tmp_path / "file").write_text("x")
    _fails(tmp_path / "file", f"{tmp_path}/file is a file; expected a folder: {layouts}.")
    (tmp_path / "empty").mkdir()
    _fails(tmp_path / "empty", f"{tmp_path}/empty has no class folders (it is empty); expected {layouts}.")
    (tmp_path / "half" / "train" / "cat").mkdir(parents=True)
    _fails(
        tmp_path / "half",
        f"{tmp_path}/half has train/, but none of val/, validation/, valid/, test/, testing/, eval/, evaluation/, "
        "seg_test/ beside it; name both folders (--parts TRAIN,TEST).",
    )
    (tmp_path / "half" / "val").mkdir()
    (tmp_path / "half" / "train" / "cat" / "1.png").write_text("x")
    (tmp_path / "half" / "val" / "1.png").write_text("x")
    _fails(tmp_path / "half", f"{tmp_path}/half/val has no class folders (it holds 1.png); expected {layouts}.")


def test_classes_that_are_not_there(pieces, unread):
    path, _ = pieces
    _fails(path, f"classes of {path} names no class; expected at least one of cat, dog.", classes=[])
    _fails(path, f"classes of {path} names dog more than once; name each class once.", classes=["dog", "cat", "dog"])
    there = "not among the 2 available classes (cat, dog)"
    _fails(path, f"classes of {path}: dgo is {there}; dgo is close to dog.", classes=["cat", "dgo"])
    _fails(path, f"classes of {path}: emu, fly are {there}.", classes=["emu", "fly"])


def test_classes_of_one_part_only(pieces, tmp_path):
    path, chosen = pieces
    for part, names in (("train", "abcde"), ("val", "abcdxyz")):
        for name in names:
            _save(tmp_path / "parts" / part / name / "1.png", chosen["cat"][0])
    parts = tmp_path / "parts"
    advice = "add images, or choose classes that both have (--classes)."
    _fails(parts, f"{parts}: classes in train/ but not in val/: e; in val/ but not in train/: x, y, z; {advice}")
    _fails(parts, f"{parts}: classes in train/ but not in val/: e; {advice}", classes=["e", "a"])
    assert data.from_folder(parts, size=16, classes=["b", "a"]).class_names == {0: "b", 1: "a"}


def test_classes_without_images(pieces, unread):
    path, _ = pieces
    (path / "eel").mkdir()
    _fails(path, f"{path}/eel has no images (it is empty); add some, or remove the class.")
    (path / "eel" / "list.txt").write_text("x")
    _fails(path, f"{path}/eel has no images (it holds list.txt); add some, or remove the class.")
    (path / "eel" / "1.png").write_text("x")
    _fails(
        path,
        f"{path}: these classes have only 1 image: eel; expected at least 2, because the last fifth of the images "
        "of a class, at least one, are its test images.",
    )
    (path / "eel" / "images").mkdir()
    _fails(path, f"{path}/eel holds folders (images); expected the images of a class, not folders.")


def test_options_that_cannot_be(pieces, unread):
    path, _ = pieces
    _fails(path, "size=0: expected at least 1 pixel.", size=0)
    _fails(path, "grey='keep': expected one of convert, refuse.", grey="keep")
    _fails(path, "unreadable='convert': expected one of refuse, skip.", unreadable="convert")


# ---- values of more than 8 bits, formats, names ----


@pytest.mark.parametrize("suffix, dtype", [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)])
@pytest.mark.parametrize("largest, white", [(255, 255), (200, 255), (4095, 4095), (3000, 4095), (65535, 65535)])
def test_files_of_more_than_8_bits_are_scaled_by_what_is_there(suffix, dtype, largest, white, tmp_path):
    values = np.linspace(0, largest, 12 * 256).round().reshape(12, 16, 16)
    for i, image in enumerate(values):
        _save(tmp_path / "ab"[i % 2] / f"{i:02}.{suffix}", image.astype(dtype))
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


def test_class_folders_of_one_name_in_two_forms_of_unicode_are_refused(photo, tmp_path):
    for name in ("cafe\u0301", "caf\u00e9", "tea"):
        for i in range(3):
            _save(tmp_path / name / f"{i}.png", photo[:16, :16])
    with pytest.raises(data.DataError, match="two class folders named caf\u00e9, written in two forms of Unicode"):
        data.from_folder(tmp_path, size=16)
    shutil.rmtree(tmp_path / "caf\u00e9")
    dataset = data.from_folder(tmp_path, size=16, classes=["tea", "caf\u00e9"])
    assert dataset.class_names == {0: "tea", 1: "caf\u00e9"}


def test_running_out_of_files_or_memory_is_no_fault_of_an_image(pieces, monkeypatch):
    """Not even where unreadable files are to be skipped."""
    for error in (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), MemoryError("no memory")):
        monkeypatch.setattr(Image, "open", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            data.from_folder(pieces[0], size=16, unreadable="skip")


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "valid"),
        ("train", "eval"),
        ("Train", "Test"),
        ("training", "testing"),
        ("TRAIN", "VAL"),
        ("seg_train", "seg_test"),
    ],
)
def test_usual_names_of_parts_are_known(parts, pieces, tmp_path):
    for part in parts:
        shutil.copytree(pieces[0], tmp_path / "data" / part)
    dataset = data.from_folder(tmp_path / "data", size=16)
    assert (len(dataset.x_train), len(dataset.x_test)) == (10, 10) and not dataset.notes


def test_a_part_that_is_not_used_is_said_and_may_be_chosen(pieces, tmp_path):
    for part in ("train", "val", "test"):
        shutil.copytree(pieces[0], tmp_path / "data" / part)
    (tmp_path / "data" / "test" / "cat" / "0.png").unlink()
    note = "images are read from train/ and {}; not used: {} (--parts TRAIN,TEST chooses)"
    dataset = data.from_folder(tmp_path / "data", size=16)
    assert dataset.notes == (note.format("val/", "test/"),) and len(dataset.x_test) == 10
    chosen = data.from_folder(tmp_path / "data", size=16, parts=data.parse_parts("train, test"))
    assert chosen.notes == (note.format("test/", "val/"),) and len(chosen.x_test) == 9
    with pytest.raises(data.DataError, match="has no folder holdout; it has test, train, val"):
        data.from_folder(tmp_path / "data", size=16, parts=("train", "holdout"))
    with pytest.raises(data.DataError, match="expected the folders of training and of test images"):
        data.parse_parts("train")


@pytest.mark.parametrize("junk", ["__MACOSX", "@eaDir", "lost+found"])
def test_folders_of_systems_are_passed_over(junk, pieces):
    path, chosen = pieces
    _save(path / junk / "x.png", chosen["cat"][0])
    _save(path / "cat" / junk / "x.png", chosen["cat"][0])
    assert set(data.from_folder(path, size=16).class_names.values()) == {"cat", "dog"}


def test_the_layout_of_tiny_imagenet(pieces, tmp_path):
    path, chosen = pieces
    tiny, lines = tmp_path / "tiny", []
    for name, images in chosen.items():
        shutil.copytree(path / name, tiny / "train" / name / "images")
        (tiny / "train" / name / f"{name}_boxes.txt").write_text("0.png\t0\t0\t9\t9\n")
        for i, image in enumerate(images[:3]):
            _save(tiny / "val" / "images" / f"val_{name}{i}.png", image)
            lines.append(f"val_{name}{i}.png\t{name}\t0\t0\t9\t9\n")
    with pytest.raises(data.DataError, match=r"holds images/ but no val_annotations.txt, which names the class"):
        data.from_folder(tiny, size=16)
    (tiny / "val" / "val_annotations.txt").write_text("".join(lines))
    dataset = data.from_folder(tiny, size=16)
    np.testing.assert_array_equal(dataset.x_test, np.concatenate([images[:3] for images in chosen.values()]))
    assert len(dataset.x_train) == 10 and list(dataset.y_test) == [0, 0, 0, 1, 1, 1]


def test_files_of_unequal_depth_are_said(tmp_path):
    """One file of 16 bits makes those of 8 bits beside it dark."""
    rng = np.random.default_rng(0)
    for i in range(12):
        image = rng.integers(0, 65536 if i == 3 else 256, (16, 16)).astype(np.uint16)
        _save(tmp_path / "ab"[i % 2] / f"{i:02}.png", image)
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
    file = _save(tmp_path / "x.png", np.full((16, 16), 200, np.uint16))
    folders.read_images([file], size=16, channels=1, on_note=notes.append)
    assert len(notes) == 1 and "so that white is taken to be 255" in notes[0]


def test_parts_that_lie_deeper(pieces, tmp_path):
    """As in an archive that was packed with its folder, and beside an empty part."""
    for part in ("seg_train", "seg_test"):
        shutil.copytree(pieces[0], tmp_path / "data" / part / part)
    (tmp_path / "data" / "valid").mkdir()
    assert len(data.from_folder(tmp_path / "data", size=16).x_train) == 10
    named = data.from_folder(tmp_path / "data", size=16, parts=("seg_train/seg_train", "seg_test/seg_test"))
    assert len(named.x_test) == 10
