"""Writing TFDS folders, from arrays and from tfrecord files."""

import importlib.util
import re
import shutil

import numpy as np
import pytest

from dgm_jax import data
from dgm_jax.data import prepare

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


def _same(a, b):
    for key in _KEYS:
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key), err_msg=key)


def test_grey_images_come_back_in_order(digits, tmp_path):
    few = digits.first_per_class(5)
    folder = prepare.write_array_record(few, tmp_path, "mnist", "3.0.1")
    assert folder == tmp_path / "mnist" / "3.0.1"
    assert [entry.name for entry in folder.parent.iterdir()] == ["3.0.1"], "nothing temporary is left"
    _same(data.load("mnist", tmp_path), few)


def test_colour_images_and_names_come_back(data_dir, tmp_path):
    svhn = data.load("svhn", data_dir).first_per_class(3)
    named = data.from_arrays(*(getattr(svhn, key) for key in _KEYS), class_names={0: "zero"})
    prepare.write_array_record(named, tmp_path, "svhn_cropped", "1.0.0")
    again = data.load("svhn", tmp_path)
    _same(again, svhn)
    assert again.class_names[0] == "zero" and again.class_names[9] == "9"


def test_nothing_is_overwritten(digits, tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(data.DataError, match=re.escape(f"{tmp_path}/mnist/3.0.1 exists and is not overwritten")):
        prepare.write_array_record(digits, tmp_path, "mnist", "3.0.1")


def test_a_failure_leaves_nothing(digits, tmp_path, monkeypatch):
    def fail(image):
        raise OSError("disk full")

    monkeypatch.setattr(prepare, "_png", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare.write_array_record(digits, tmp_path, "mnist", "3.0.1")
    assert list((tmp_path / "mnist").iterdir()) == []


def test_names_that_cannot_be(digits, tmp_path):
    with pytest.raises(data.DataError, match="tfds_name='../x': expected lower-case letters, digits and _"):
        prepare.write_array_record(digits, tmp_path, "../x", "1.0.0")
    with pytest.raises(data.DataError, match="tfds_name='a/b/c': expected lower-case letters, digits and _"):
        prepare.write_array_record(digits, tmp_path, "a/b/c", "1.0.0")
    with pytest.raises(data.DataError, match="version='1': expected three numbers, e.g. 1.0.0"):
        prepare.write_array_record(digits, tmp_path, "mnist", "1")
    negative = data.from_arrays(digits.x_train, digits.y_train - 3, digits.x_test, digits.y_test - 3)
    with pytest.raises(data.DataError, match="label -3: TFDS class labels are >= 0; number the classes from 0"):
        prepare.write_array_record(negative, tmp_path, "mnist", "1.0.0")


def test_prepare_refuses_what_it_cannot_make(tmp_path):
    with pytest.raises(data.DataError, match="'digits' comes with this package and needs no files; prepare makes"):
        prepare.prepare("digits", tmp_path)
    with pytest.raises(
        data.DataError, match=r"TensorFlow Datasets has no nist \(Dataset nist not found.\); prepare makes"
    ):
        prepare.prepare("nist", tmp_path)
    with pytest.raises(data.DataError, match=r"has no emnist/digit \(Failed to construct dataset \"emnist\""):
        prepare.prepare("emnist/digit", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_prepare_leaves_alone_what_is_there(digits, tmp_path):
    folder = prepare.write_array_record(digits.first_per_class(1), tmp_path, "mnist", "3.0.1")
    with pytest.raises(data.DataError, match=re.escape(f"{folder} exists already and is complete; nothing to prepare")):
        prepare.prepare("mnist", tmp_path)
    (folder / "features.json").unlink()
    with pytest.raises(data.DataError, match="has no features.json, so the data set is incomplete"):
        prepare.prepare("mnist", tmp_path)


@pytest.mark.skipif(_HAS_TENSORFLOW, reason="TensorFlow is installed")
def test_prepare_asks_for_tensorflow(tfrecord_dir, tmp_path):
    needs = "needs TensorFlow; run `python -m pip install tensorflow-cpu importlib_resources`."
    for name in ("svhn", "cifar100", "emnist", "beans"):
        with pytest.raises(data.DataError, match=re.escape(f"downloading {name} {needs}")):
            prepare.prepare(name, tmp_path)
    with pytest.raises(data.DataError, match=f"reading the tfrecord files of .*svhn_cropped/3.1.0 {needs}"):
        prepare.prepare("svhn", tfrecord_dir)


@pytest.mark.skipif(not _HAS_TENSORFLOW, reason="TensorFlow, which reads tfrecord files, is not installed")
def test_prepare_rewrites_tfrecord(tfrecord_dir, data_dir, tmp_path):
    folder = tmp_path / "svhn_cropped" / "3.1.0"
    shutil.copytree(tfrecord_dir / "svhn_cropped" / "3.1.0", folder)
    written = prepare.prepare("svhn", tmp_path)
    assert written == folder.with_name("3.1.0-array_record")
    assert any(folder.glob("*.tfrecord-*")), "the original stays"
    _same(data.load("svhn", tmp_path), data.load("svhn", data_dir))
