"""Folders of images: real digits, photographs and CIFAR-10, written as files and read back."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from support.pictures import save

from dgm_jax import data
from dgm_jax.data import folders, tfds


def _fails(path, message, **options):
    with pytest.raises(data.DataError) as error:
        data.from_folder(path, **({"size": 16} | options))
    assert str(error.value) == message


# ---- layouts ----


@pytest.mark.parametrize("second", ["val", "validation", "test"])
def test_cifar10_as_class_folders_comes_back(second, data_dir, tmp_path):
    folder = tfds.find_version("cifar10", data_dir)
    builder = tfds.import_tfds().builder_from_directory(str(folder))
    images, labels = tfds._read_split(builder, "test[:200]", None, folder, None)
    kept = {0: "plane", 5: "dog", 9: "a lorry"}
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label in kept:
            part = "train" if i < 150 else second
            save(tmp_path / part / kept[label] / f"{i:03}.png", image)
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
            save(tmp_path / "all" / part / name / "x.png", chosen[name][i])
    dataset = data.from_folder(tmp_path / "all", size=16)
    np.testing.assert_array_equal(dataset.x_test, [chosen["cat"][2], chosen["dog"][2]])


def test_the_last_fifth_by_name_are_test_images(digits, tmp_path):
    counts = {"a": 2, "b": 9, "c": 10, "d": 14}
    rows = iter(digits.x_train[..., 0])
    written = {name: [next(rows) for _ in range(n)] for name, n in counts.items()}
    for name, images in written.items():
        for i in reversed(range(len(images))):  # Folders list files as they like, not by name.
            save(tmp_path / name / f"{i:02}.png", images[i])
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


# ---- grey among colour, unreadable ----


def test_grey_images_among_colour_ones(pieces, photo):
    path, _ = pieces
    grey = np.asarray(Image.fromarray(photo[:16, :16]).convert("L"))
    save(path / "cat" / "1.png", grey)
    save(path / "dog" / "4.png", grey)
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
            save(tmp_path / name / f"{i}.png", digits.x_train[i, ..., 0])
    (tmp_path / "a" / "0.png").write_bytes(b"")
    for grey in ("convert", "refuse"):
        dataset = data.from_folder(tmp_path, size=8, grey=grey, unreadable="skip")
        assert dataset.notes == ("files skipped because they cannot be read: 1, a/0.png (empty)",)
        np.testing.assert_array_equal(dataset.x_train, digits.x_train[[1, 2, 3, 0, 1, 2, 3]])


def _damage(path, photo):
    """Damages four files of `pieces`; returns what is said of them."""
    (path / "cat" / "0.png").write_bytes(b"")
    (path / "cat" / "1.png").write_text("<html>not found</html>")
    whole = save(path / "dog" / "1.jpg", photo).read_bytes()
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
    save(path / "cat" / "0.tif", Image.fromarray(np.float32(photo[:16, :16, 0])))
    save(path / "cat" / "1.tif", Image.fromarray(np.int32(photo[:16, :16, 0]) * 70_000))
    with pytest.raises(data.DataError, match=re.escape("2 of 12 files")) as error:
        data.from_folder(path, size=16)
    assert "cat/0.tif (floating-point values, expected 8 or 16 bits), cat/1.tif (values " in str(error.value)


# ---- the first training images of each class ----


def test_only_the_training_files_that_are_kept_are_decoded(pieces, monkeypatch):
    path, _ = pieces
    whole, decoded = data.from_folder(path, size=8), []
    load = PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda self: decoded.append(self.filename) or load(self))
    few = data.from_folder(path, size=8, train_per_class=2)
    assert {path.name for path in map(Path, decoded)} == {"0.png", "1.png", "4.png"}  # The last one is for tests.
    expected = whole.first_per_class(2)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(few, part), getattr(expected, part), err_msg=part)


def test_files_that_are_not_kept_decide_about_colour_and_white_as_before(photo, tmp_path):
    """Of four files of a class the last one is for tests; the third is in colour, or deep."""
    for i, name in enumerate(("0.png", "1.png", "3.png")):
        save(tmp_path / "a" / name, photo[16 * i : 16 * i + 16, :16, 0])
        save(tmp_path / "b" / name, photo[16 * i : 16 * i + 16, :16, 1])
    save(tmp_path / "a" / "2.png", photo[:16, 16:32])
    colour = data.from_folder(tmp_path, size=8, train_per_class=1)
    assert colour.x_train.shape == (2, 8, 8, 3)
    (tmp_path / "a" / "2.png").unlink()
    for name, most in (("0.png", 4000), ("2.png", 60000)):
        Image.fromarray(np.linspace(0, most, 256).reshape(16, 16).astype(np.uint16)).save(tmp_path / "a" / name)
    deep, whole = data.from_folder(tmp_path, size=8, train_per_class=1), data.from_folder(tmp_path, size=8)
    assert deep.notes == whole.notes
    np.testing.assert_array_equal(deep.x_train, whole.first_per_class(1).x_train)


def test_the_next_files_replace_those_that_cannot_be_read(pieces):
    path, _ = pieces
    for name in ("0.png", "1.png"):  # One of them looks like an image until it is decoded.
        content = (path / "cat" / name).read_bytes()
        (path / "cat" / name).write_bytes(content[: len(content) // 2] if name == "0.png" else b"text")
    few = data.from_folder(path, size=8, train_per_class=2, unreadable="skip")
    whole = data.from_folder(path, size=8, unreadable="skip")
    assert few.y_train.tolist() == [0, 0, 1, 1] and few.notes == whole.notes
    np.testing.assert_array_equal(few.x_train, whole.first_per_class(2).x_train)
    _fails(path, "train_per_class=0: expected at least 1.", train_per_class=0)


# ---- folders that cannot be read, told before any image is ----


@pytest.fixture
def unread(monkeypatch):
    def read(file, *_):
        raise AssertionError(f"{file} was read")

    monkeypatch.setattr(folders, "read_files", read)


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
            save(tmp_path / "parts" / part / name / "1.png", chosen["cat"][0])
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


# ---- names of classes and of parts ----


def test_class_folders_of_one_name_in_two_forms_of_unicode_are_refused(photo, tmp_path):
    for name in ("cafe\u0301", "caf\u00e9", "tea"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", photo[:16, :16])
    with pytest.raises(data.DataError, match="two class folders named caf\u00e9, written in two forms of Unicode"):
        data.from_folder(tmp_path, size=16)
    shutil.rmtree(tmp_path / "caf\u00e9")
    dataset = data.from_folder(tmp_path, size=16, classes=["tea", "caf\u00e9"])
    assert dataset.class_names == {0: "tea", 1: "caf\u00e9"}


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
    save(path / junk / "x.png", chosen["cat"][0])
    save(path / "cat" / junk / "x.png", chosen["cat"][0])
    assert set(data.from_folder(path, size=16).class_names.values()) == {"cat", "dog"}


def test_the_layout_of_tiny_imagenet(pieces, tmp_path):
    path, chosen = pieces
    tiny, lines = tmp_path / "tiny", []
    for name, images in chosen.items():
        shutil.copytree(path / name, tiny / "train" / name / "images")
        (tiny / "train" / name / f"{name}_boxes.txt").write_text("0.png\t0\t0\t9\t9\n")
        for i, image in enumerate(images[:3]):
            save(tiny / "val" / "images" / f"val_{name}{i}.png", image)
            lines.append(f"val_{name}{i}.png\t{name}\t0\t0\t9\t9\n")
    with pytest.raises(data.DataError, match=r"holds images/ but no val_annotations.txt, which names the class"):
        data.from_folder(tiny, size=16)
    (tiny / "val" / "val_annotations.txt").write_text("".join(lines))
    dataset = data.from_folder(tiny, size=16)
    np.testing.assert_array_equal(dataset.x_test, np.concatenate([images[:3] for images in chosen.values()]))
    assert len(dataset.x_train) == 10 and list(dataset.y_test) == [0, 0, 0, 1, 1, 1]


def test_parts_that_lie_deeper(pieces, tmp_path):
    """As in an archive that was packed with its folder, and beside an empty part."""
    for part in ("seg_train", "seg_test"):
        shutil.copytree(pieces[0], tmp_path / "data" / part / part)
    (tmp_path / "data" / "valid").mkdir()
    assert len(data.from_folder(tmp_path / "data", size=16).x_train) == 10
    named = data.from_folder(tmp_path / "data", size=16, parts=("seg_train/seg_train", "seg_test/seg_test"))
    assert len(named.x_test) == 10
