"""Digits, TFDS folders (whole, damaged, in another format) and npz files."""

import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dgm_jax import data
from dgm_jax.data import prepare, tfds


def test_importing_is_light():
    code = "import sys, dgm_jax.data; print({'tensorflow_datasets', 'tensorflow', 'sklearn', 'PIL'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "set()\n"


def test_digits_are_split_the_same_every_time(digits):
    assert digits.x_train.shape == (1437, 8, 8, 1) and digits.x_test.shape == (360, 8, 8, 1)
    assert digits.x_train.dtype == np.uint8 and digits.x_train.max() == 255
    assert np.bincount(digits.y_test).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert digits.y_test[:10].tolist() == [1, 4, 8, 6, 5, 9, 9, 1, 3, 2]
    contents = {
        "x_train": "c74011e1ef81bfc8e50c8dbcd1fd529c9a66033660a82396541db5147180f282",
        "y_train": "834db2c141908ff9747f757822a6199785a571fddaede42bff3790f611dc4e77",
        "x_test": "de85aee14a9506dda8a479d72743a291a765f6b10b22e6656d483ccf239ae31a",
        "y_test": "723b354289d5bac3a0b9b879aa5c84bb66f8501f3d3042116f87aa5a7d98b1bc",
    }
    for name, expected in contents.items():
        assert hashlib.sha256(getattr(digits, name).tobytes()).hexdigest() == expected, name


def test_a_data_set_prints_its_sizes(digits):
    assert repr(digits) == "Dataset('digits', 1437 training and 360 test images [8, 8, 1], 10 classes)"


def test_digits_are_those_of_scikit_learn(digits):
    """Images, labels, split and order, as `dgm_jax/data/digits.txt` says."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    from sklearn.model_selection import train_test_split

    found = datasets.load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    rows = train_test_split(np.arange(len(images)), test_size=0.2, random_state=0, stratify=found.target)
    for part, chosen in zip(("train", "test"), map(np.sort, rows)):
        np.testing.assert_array_equal(getattr(digits, f"x_{part}"), images[chosen])
        np.testing.assert_array_equal(getattr(digits, f"y_{part}"), found.target[chosen])


def test_unknown_names_are_refused():
    with pytest.raises(
        data.DataError, match="unknown data set 'MNIST'; expected one of digits, mnist, fashion, emnist"
    ):
        data.load("MNIST")
    with pytest.raises(data.DataError, match="unknown data set '../mnist'; expected one of"):
        data.load("../mnist")


def test_svhn_is_read(data_dir):
    svhn = data.load("svhn", data_dir)
    assert svhn.x_train.shape == (864, 32, 32, 3) and svhn.x_test.shape == (218, 32, 32, 3)
    assert np.bincount(svhn.y_train).tolist() == [50, 183, 113, 102, 92, 86, 59, 55, 68, 56]


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_rows_are_read_in_stored_order(data_dir, name, shape):
    folder = tfds.find_version(name, data_dir)
    tfds.check_folder(name, folder)
    builder = tfds.import_tfds().builder_from_directory(str(folder))
    # Slices, because decoding all of MNIST takes longer than all other tests.
    images, labels = tfds._read_split(builder, "train[:5000]", None, folder, None)
    assert images.shape == (5000, *shape) and images.dtype == np.uint8
    if name == "mnist":
        assert labels[:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6], "as in the official data set"
    one = builder.as_data_source(split="train")[4321]
    np.testing.assert_array_equal(images[4321], one["image"])
    assert labels[4321] == one["label"]


def test_cifar10_gets_its_names_where_the_folder_lacks_them(digits, tmp_path):
    prepare.write_array_record(digits.first_per_class(1), tmp_path, "cifar10", "3.0.2")
    names = data.load("cifar10", tmp_path).class_names
    assert names[0] == "airplane" and names[9] == "truck"


def test_chosen_digits(digits):
    chosen = data.load("digits", classes=["7", "2"])
    assert chosen.class_names == {0: "7", 1: "2"} and data.class_names("digits")[2] == "2"
    rows = np.isin(digits.y_train, [7, 2])
    np.testing.assert_array_equal(chosen.x_train, digits.x_train[rows])
    np.testing.assert_array_equal(chosen.y_train, np.where(digits.y_train[rows] == 7, 0, 1))
    with pytest.raises(data.DataError, match="classes of digits: ten is not among the 10 available classes"):
        data.load("digits", classes=["ten"])


# ---- ImageNet at 32x32: its test images are called validation, and some classes are chosen ----

_WNIDS = ("n02119789", "n02100735", "n01440764", "n02096294")  # Not sorted, as in TFDS.


@pytest.fixture(scope="module")
def imagenet(photo, tmp_path_factory):
    """A data_dir with 12 + 8 pieces of a photograph as ImageNet, in two training shards, and the arrays."""
    tiles = photo[:128, :160].reshape(4, 32, 5, 32, 3).swapaxes(1, 2).reshape(20, 32, 32, 3)
    labels = np.array([3, 0, 1, 2] * 5)
    names = dict(enumerate(_WNIDS))
    dataset = data.from_arrays(tiles[:12], labels[:12], tiles[12:], labels[12:], name="imagenet", class_names=names)
    root = tmp_path_factory.mktemp("imagenet")
    download = tfds.import_tfds().download
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "DownloadConfig", functools.partial(download.DownloadConfig, num_shards=2))
        folder = prepare.write_array_record(dataset, root, "imagenet_resized/32x32", "0.1.0", test_split="validation")
    assert folder == root / "imagenet_resized" / "32x32" / "0.1.0"
    assert len(list(folder.glob("imagenet_resized-train.array_record-*-of-00002"))) == 2
    return root, dataset


@pytest.fixture
def imagenet_copy(imagenet, tmp_path):
    """The same, writable, and its version folder."""
    shutil.copytree(imagenet[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, tmp_path / "imagenet_resized" / "32x32" / "0.1.0"


@pytest.mark.parametrize("rows_at_once", [4096, 5])
def test_imagenet_comes_back(rows_at_once, imagenet, monkeypatch):
    monkeypatch.setattr(tfds, "_ROWS_AT_ONCE", rows_at_once)
    root, dataset = imagenet
    again = data.load("imagenet32", root)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(again, part), getattr(dataset, part), err_msg=part)
    assert again.class_names == dataset.class_names
    assert data.class_names("imagenet32", root) == tuple(sorted(_WNIDS))


def test_of_imagenet_only_chosen_classes_are_decoded(imagenet, monkeypatch):
    root, dataset = imagenet
    feature = tfds.import_tfds().features.Image
    decode, decoded = feature.decode_example_np, []
    monkeypatch.setattr(feature, "decode_example_np", lambda self, png: decoded.append(png) or decode(self, png))
    chosen = data.load("imagenet32", root, classes=["n01440764", "n02119789"])  # Stored as 2 and 0.
    assert len(decoded) == 10
    assert chosen.class_names == {0: "n01440764", 1: "n02119789"}
    for part in ("train", "test"):
        x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
        rows = np.isin(y, [0, 2])
        np.testing.assert_array_equal(getattr(chosen, f"x_{part}"), x[rows])
        np.testing.assert_array_equal(getattr(chosen, f"y_{part}"), np.where(y[rows] == 2, 0, 1))
    with pytest.raises(data.DataError, match="classes of imagenet32: n01440765 is not among the 4 available classes"):
        data.load("imagenet32", root, classes=["n01440765"])


@pytest.mark.parametrize("classes", [None, ["n01440764", "n02119789"]])
@pytest.mark.parametrize("n", [1, 2, 5])  # There are three training images of each class.
def test_only_the_training_images_that_are_kept_are_decoded(n, classes, imagenet, monkeypatch):
    monkeypatch.setattr(tfds, "_ROWS_AT_ONCE", 5)
    root, _ = imagenet
    whole = data.load("imagenet32", root, classes=classes)
    feature = tfds.import_tfds().features.Image
    decode, decoded = feature.decode_example_np, []
    monkeypatch.setattr(feature, "decode_example_np", lambda self, png: decoded.append(png) or decode(self, png))
    few = data.load("imagenet32", root, classes=classes, train_per_class=n)
    assert len(decoded) == len(few.x_train) + len(few.x_test)
    expected = whole.first_per_class(n)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(few, part), getattr(expected, part), err_msg=part)


def test_reading_ends_where_all_kept_images_are_found(data_dir):
    """The images after those, most of MNIST, are not even read."""
    folder = tfds.find_version("mnist", data_dir)
    builder = tfds.open_builder(folder)
    asked = []

    class Source:
        def __init__(self, source):
            self.source = source

        def __len__(self):
            return len(self.source)

        def __getitems__(self, rows):
            asked.extend(rows)
            return self.source.__getitems__(rows)

    class Builder:
        info = builder.info

        def as_data_source(self, **options):
            return Source(builder.as_data_source(**options))

    images, labels = tfds._read_split(Builder(), "train", 2, folder, None)
    assert np.bincount(labels).tolist() == [2] * 10 and len(images) == 20 and len(asked) == 4096


def test_no_training_image_is_refused(imagenet):
    for name in ("digits", "imagenet32"):
        with pytest.raises(data.DataError, match="=0.*: expected at least 1"):
            data.load(name, imagenet[0], train_per_class=0)


def test_imagenet_without_names_has_numbers(imagenet_copy):
    root, folder = imagenet_copy
    (folder / "label.labels.txt").unlink()
    features = folder / "features.json"
    features.write_text(features.read_text().replace('"numClasses": "4"', '"numClasses": "12"'))
    assert data.class_names("imagenet32", root) == tuple(map(str, range(12))), "as numbers, not as words"
    assert data.load("imagenet32", root, classes=["3", "0"]).class_names == {0: "3", 1: "0"}
    message = f"{folder} has no train images of 10, 11; choose other classes."
    with pytest.raises(data.DataError, match=re.escape(message)):
        data.load("imagenet32", root, classes=["3", "10", "11"])


def test_imagenet_folders_that_cannot_be_read(imagenet_copy):
    root, folder = imagenet_copy

    def fails(message, data_dir=root, name="imagenet32"):
        with pytest.raises(data.DataError, match=re.escape(message)):
            data.class_names(name, data_dir)

    info = folder / "dataset_info.json"
    whole = info.read_text()
    info.write_text(whole.replace('"validation"', '"validate"'))
    fails(f"{folder} has no test or validation images (splits: train, validate)")
    info.write_text(whole.replace("array_record", "tfrecord"))
    fails(f"then `python -m dgm_jax prepare imagenet32 --data-dir {root}`")
    fails("has no imagenet_resized/32x32/<version>/ (it holds: 32x32)", root / "imagenet_resized")
    fails("(imagenet_resized/ holds: 32x32)", name="imagenet_resized")


# ---- folders that cannot be read ----


@pytest.fixture
def svhn_copy(data_dir, tmp_path):
    """A data_dir with a writable copy of svhn, and its version folder."""
    source = tfds.find_version("svhn", data_dir)
    folder = tmp_path / "svhn_cropped" / source.name
    folder.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name)
    return tmp_path, folder


def _fails(data_dir, message):
    with pytest.raises(data.DataError, match=re.escape(message)):
        data.load("svhn", data_dir)


def test_missing_folders_say_what_to_do(tmp_path):
    how = (
        "give --data-dir DIR holding svhn_cropped/<version>/, "
        "or make one with `python -m dgm_jax prepare svhn --data-dir DIR`."
    )
    _fails(None, f"svhn is read from disk and no data_dir was given; {how}")
    _fails(tmp_path / "nowhere", f"data_dir='{tmp_path}/nowhere' is not a folder; {how}")
    (tmp_path / "mnist").mkdir()
    _fails(tmp_path, f"data_dir='{tmp_path}' has no svhn_cropped/<version>/ (it holds: mnist); {how}")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_half_there(svhn_copy, file):
    data_dir, folder = svhn_copy
    (folder / file).write_text("{")
    _fails(data_dir, f"{folder}/{file} cannot be read (")
    (folder / file).unlink()
    _fails(data_dir, f"{folder} has no {file}, so the data set is incomplete; copy {folder} again, or remove it and")


def test_missing_shard(svhn_copy):
    data_dir, folder = svhn_copy
    next(folder.glob("*-train.*")).unlink()
    _fails(data_dir, f"{folder} has 0 train shards (none), dataset_info.json counts 1; copy {folder} again")


def test_record_count_mismatch(svhn_copy):
    data_dir, folder = svhn_copy
    shard = next(folder.glob("*-train.*"))
    shutil.copyfile(next(folder.glob("*-test.*")), shard)
    _fails(data_dir, f"{shard} has 218 records, dataset_info.json counts 864; copy {folder} again")


def test_missing_split(svhn_copy):
    data_dir, folder = svhn_copy
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = info["splits"][:1]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    _fails(data_dir, f"{folder} has no test or validation images (splits: train)")


@pytest.mark.parametrize("size", [0, 800_000, -100])
def test_truncated_shard(svhn_copy, size):
    data_dir, folder = svhn_copy
    shard = next(folder.glob("*-train.*"))
    shard.write_bytes(shard.read_bytes()[:size])
    _fails(data_dir, f"{shard} is truncated or damaged (")


def test_flipped_byte(svhn_copy):
    data_dir, folder = svhn_copy
    shard = next(folder.glob("*-train.*"))
    content = bytearray(shard.read_bytes())
    content[700_000] ^= 255
    shard.write_bytes(content)
    _fails(data_dir, f"{folder}: the train images 0..863 are damaged (")


def test_images_that_differ_from_features_json(svhn_copy):
    data_dir, folder = svhn_copy
    file = folder / "features.json"
    file.write_text(file.read_text().replace('"32"', '"28"', 1))
    _fails(data_dir, f"{folder}: ")
    file.write_text(file.read_text().replace("uint8", "uint16"))
    expected = "(h, w, 1) or (h, w, 3) of uint8, all of one size (or give `size`)."
    _fails(data_dir, f"{folder} has images of shape (28, 32, 3) and type uint16; expected {expected}")


def test_tfrecord_needs_rewriting(tfrecord_dir):
    folder = tfrecord_dir / "svhn_cropped" / "3.1.0"
    _fails(
        tfrecord_dir,
        f"{folder} is in tfrecord format, and reading tfrecord needs TensorFlow; rewrite it once: "
        "`python -m pip install tensorflow-cpu importlib_resources`, then "
        f"`python -m dgm_jax prepare svhn --data-dir {tfrecord_dir}`; "
        "or give another --data-dir that holds array_record files.",
    )


def test_newest_version_is_a_number_and_a_rewritten_one_wins(tmp_path):
    for version in ("9.0.0", "10.0.0", "10.0.0-array_record", "11.0.0.incomplete", "fake"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
    assert [v.name for v in tfds.list_versions("mnist", tmp_path)] == ["9.0.0", "10.0.0", "10.0.0-array_record"]
    assert tfds.find_version("mnist", tmp_path).name == "10.0.0-array_record"


# ---- npz ----


def test_npz_round_trip(digits, tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: getattr(digits, key) for key in ("x_train", "y_train", "x_test", "y_test")})
    dataset = data.from_npz(path)
    assert dataset.name == "mine"
    np.testing.assert_array_equal(dataset.x_train, digits.x_train)


def test_npz_errors(digits, tmp_path):
    def fails(path, message):
        with pytest.raises(data.DataError, match=re.escape(message)):
            data.from_npz(path)

    path = tmp_path / "a.npz"
    fails(path, f"{path}: no such file; expected an .npz file with the arrays x_train, y_train, x_test, y_test.")
    path.write_text("hello")
    fails(path, f"{path} is not an npz file (or is cut short); write it with np.savez(path, x_train=...")
    np.savez(path, x_train=digits.x_train, y_train=digits.y_train)
    fails(path, f"{path} has no x_test, y_test (it has x_train, y_train); write it with")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    fails(path, f"{path} is not an npz file (or is cut short)")
    ragged = np.array([np.zeros((2, 2)), np.zeros((3, 3))], dtype=object)
    np.savez(path, x_train=ragged, y_train=[0, 0], x_test=ragged, y_test=[0, 0])
    fails(path, f"{path} holds pickled Python objects, which are not read because a pickle can run code")
    np.savez(path, x_train=digits.x_train / 255, y_train=digits.y_train, x_test=digits.x_test, y_test=digits.y_test)
    fails(path, "a: x_train is float64; expected uint8 in 0..255")
    np.savez(path, x_train=digits.x_train, y_train=digits.y_train, x_test=digits.x_test, y_test=digits.y_test)
    content = bytearray(path.read_bytes())
    content[5000] ^= 255
    path.write_bytes(content)
    fails(path, f"{path} is damaged (")
