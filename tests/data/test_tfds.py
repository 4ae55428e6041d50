"""Any data set of TFDS: images of any size, several features, and those that have no single image and label."""

import re

import numpy as np
import pytest

from dgm_jax import data
from dgm_jax.commands import learn, parsing
from dgm_jax.commands.experiments import find
from dgm_jax.config import best
from dgm_jax.data import prepare, tfds

NAMES = ("zero", "one", "two")


@pytest.fixture(scope="module")
def wide(digits):
    """Digits 0, 1 and 2 in colour, some with columns added at both sides, and the same without these columns."""
    few = digits.of_classes([0, 1, 2]).first_per_class(4)

    def images(grey):
        colour = np.stack([grey[..., 0], 255 - grey[..., 0], grey[..., 0] // 2], axis=-1)
        return [np.pad(x, ((0, 0), (i % 3, i % 3), (0, 0)), constant_values=200) for i, x in enumerate(colour)], colour

    (train, x_train), (test, x_test) = images(few.x_train), images(few.x_test)
    return {"train": zip(train, few.y_train), "validation": zip(test, few.y_test)}, few, x_train, x_test


def write(data_dir, rows, *, supervised=("image", "label"), leave_out=(), shape=(None, None, 3)):
    """A folder of TFDS whose examples have two images, two labels and a text."""
    library = tfds.import_tfds()
    kinds = library.features
    features = {
        "image": kinds.Image(shape=shape),
        "label": kinds.ClassLabel(names=NAMES),
        "parity": kinds.ClassLabel(names=["even", "odd"]),
        "mask": kinds.Image(shape=(8, 8, 1)),
        "text": kinds.Text(),
    }
    features = {name: feature for name, feature in features.items() if name not in leave_out}

    class Builder(library.core.GeneratorBasedBuilder, skip_registration=True):
        name = "odd_digits"
        VERSION = library.core.Version("1.0.0")
        url_infos = None

        def _info(self):
            return library.core.DatasetInfo(
                builder=self,
                features=kinds.FeaturesDict(features),
                supervised_keys=supervised,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(of_split) for split, of_split in rows.items()}

        def _generate_examples(self, of_split):
            for i, (image, label) in enumerate(of_split):
                mask = b"no image: nothing may decode it"
                example = {"label": int(label), "parity": int(label) % 2, "mask": mask, "text": "x"}
                example["image"] = prepare._png(image)
                yield i, {name: example[name] for name in features}

    target = data_dir / "odd_digits" / "1.0.0"
    return prepare._build(library, target, lambda folder: Builder(data_dir=folder, file_format="array_record"))


def test_images_of_different_sizes_and_the_label_that_is_to_be_learnt(wide, tmp_path):
    rows, few, x_train, x_test = wide
    folder = write(tmp_path, {split: list(of_split) for split, of_split in rows.items()})
    found = data.load("odd_digits", tmp_path, size=8)
    np.testing.assert_array_equal(found.x_train, x_train, err_msg="the central square of each")
    np.testing.assert_array_equal(found.x_test, x_test, err_msg="of the split validation, as there is no test")
    np.testing.assert_array_equal(found.y_train, few.y_train)
    assert found.class_names == dict(enumerate(NAMES)) and found.name == "odd_digits"
    smaller = data.load("odd_digits", tmp_path, size=4, train_per_class=1)
    assert smaller.x_train.shape == (3, 4, 4, 3) and smaller.x_test.shape == (len(x_test), 4, 4, 3)
    with pytest.raises(data.DataError, match=re.escape(f"{folder} has images of shape (None, None, 3)")):
        data.load("odd_digits", tmp_path)


def test_a_grey_file_among_colour_ones(digits, tmp_path):
    rows = [(image, label % 3) for image, label in zip(digits.x_train[:6], range(6))]
    write(tmp_path, {"train": rows, "test": rows})
    found = data.load("odd_digits", tmp_path, size=8)
    np.testing.assert_array_equal(found.x_train, np.repeat(digits.x_train[:6], 3, axis=-1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"supervised": None}, "has the images image, mask and the class labels label, parity (features: image, label"),
        ({"supervised": ("mask", "text")}, "has the images image, mask and the class labels label, parity"),
        (
            {"supervised": None, "leave_out": ("label", "parity")},
            "has the images image, mask and the class labels none",
        ),
        (
            {"leave_out": ("image", "mask"), "supervised": None},
            "has the images none and the class labels label, parity (features: label, parity, text)",
        ),
    ],
)
def test_no_single_image_and_label(digits, tmp_path, options, expected):
    rows = [(digits.x_train[0], 0)]
    folder = write(tmp_path, {"train": rows, "test": rows}, shape=(8, 8, 1), **options)
    with pytest.raises(data.DataError, match=re.escape(f"{folder} {expected}")) as error:
        data.load("odd_digits", tmp_path, size=8)
    assert str(error.value).endswith("expected one image and one label for each example.")


def test_the_only_image_and_the_only_label(digits, tmp_path):
    rows = [(digits.x_train[i], i % 3) for i in range(6)]
    write(tmp_path, {"train": rows, "test": rows}, shape=(8, 8, 1), supervised=None, leave_out=("mask", "parity"))
    np.testing.assert_array_equal(data.load("odd_digits", tmp_path).x_train, digits.x_train[:6])


def test_test_images_without_labels(digits, tmp_path):
    rows = [(digits.x_train[i], i % 3) for i in range(6)]
    write(tmp_path, {"train": rows, "test": [(digits.x_train[0], -1)]}, shape=(8, 8, 1))
    with pytest.raises(data.DataError, match="has test images without a label"):
        data.load("odd_digits", tmp_path)


def test_a_data_set_without_test_images(digits, tmp_path):
    """The last fifth of the images of each class are taken, in stored order, which is said."""
    rows = [(digits.x_train[i], i % 3) for i in range(33)]
    write(tmp_path, {"train": rows}, shape=(8, 8, 1))
    found = data.load("odd_digits", tmp_path)
    held = np.arange(33) >= 27  # Two of eleven of each class.
    np.testing.assert_array_equal(found.x_train, digits.x_train[:33][~held])
    np.testing.assert_array_equal(found.x_test, digits.x_train[:33][held])
    assert found.y_test.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.notes == ("odd_digits has no test images; the last fifth of those of each class are taken as such",)
    few = data.load("odd_digits", tmp_path, train_per_class=2, classes=("two", "one"))
    np.testing.assert_array_equal(few.x_train, digits.x_train[:33][[1, 2, 4, 5]])
    assert few.y_train.tolist() == [1, 0, 1, 0] and len(few.y_test) == 4


def test_a_run_on_any_data_set_gets_the_best_settings_for_its_images(digits, tmp_path, capsys):
    few = digits.first_per_class(9)
    prepare.write_array_record(few, tmp_path, "some/digits", "1.0.0")
    words = ["--name", "some/digits", "--data-dir", str(tmp_path), "--variant", "dgmw"]
    options = parsing.parse(find("tfds"), words)
    assert options.settings == best("dgmw", side=8, channels=1, per_class=9, classes=10)
    (stream,) = learn.make_streams("tfds", options, [0])
    assert (stream.name, stream.image_shape, stream.stored_shape) == ("some/digits", (16, 16, 1), (8, 8, 1))
    stream.begin(0)
    np.testing.assert_array_equal(stream.train(0)[0], few.of_classes([0]).resized(16).x_train)
    assert learn.run("tfds", [*words[:1], "some", *words[2:]]) == 2
    assert "has no some/<version>/ (some/ holds: digits)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "classes", "known_as"),
    [
        ("mnist", 10, "mnist"),
        ("fashion_mnist", 10, "fashion"),
        ("cifar10", 10, "cifar10"),
        ("svhn_cropped", 10, "svhn"),
        ("imagenet_resized/32x32", 50, "imagenet32"),
    ],
)
def test_real_data_sets_by_their_names_in_tfds(data_dir, name, classes, known_as):
    if not (data_dir / name).is_dir():
        pytest.skip(f"{data_dir} has no {name}")
    assert tfds.whole_folder(name, data_dir) == tfds.whole_folder(known_as, data_dir)
    found = data.class_names(name, data_dir)
    assert len(found) == classes
    if name == "svhn_cropped":  # The others have too many images for a test.
        one, other = data.load(name, data_dir, size=32), data.load(known_as, data_dir)
        np.testing.assert_array_equal(one.x_test, other.x_test)
        np.testing.assert_array_equal(one.y_train, other.y_train)
        assert one.shown == other.shown
