"""Validation, the first images of every class, resizing."""

import re

import numpy as np
import pytest
from PIL import Image

from dgm_jax.data import DataError, from_arrays, from_npz, load


def _arrays(n=4, size=4, channels=1):
    x = np.arange(n * size * size * channels, dtype=np.uint8).reshape(n, size, size, channels)
    return {"x_train": x, "y_train": np.array([7, -2] * (n // 2)), "x_test": x[:2], "y_test": np.array([7, -2])}


def test_good_arrays_are_taken_as_they_are():
    arrays = _arrays(channels=3)
    dataset = from_arrays(**arrays, class_names={7: "seven"})
    assert dataset.x_train is arrays["x_train"]
    assert dataset.y_train.dtype == dataset.y_test.dtype == np.int64
    assert dataset.labels == (-2, 7)
    assert dataset.class_names == {-2: "-2", 7: "seven"}


def test_grey_images_get_a_channel_and_small_integers_become_uint8():
    arrays = _arrays()
    arrays["x_train"] = arrays["x_train"][..., 0].astype(np.int32)
    dataset = from_arrays(**arrays)
    assert dataset.x_train.shape == (4, 4, 4, 1) and dataset.x_train.dtype == np.uint8
    np.testing.assert_array_equal(dataset.x_train, _arrays()["x_train"])


def _with_nan(x):
    x = x.astype(np.float32)
    x[1, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("x_train", lambda x: x[0, 0], "d: x_train has shape (4, 1); expected [n, h, w, c] or [n, h, w]."),
        ("x_test", lambda x: np.repeat(x, 4, -1), "d: x_test has 4 channels (shape (2, 4, 4, 4)); expected 1"),
        ("x_train", lambda x: x[:0], "d: x_train has shape (0, 4, 4, 1): no images"),
        ("x_train", lambda x: x / 255, "d: x_train is float64; expected uint8 in 0..255: rescale to 0..255, then"),
        ("x_train", _with_nan, "d: x_train is float32 and contains NaN; expected uint8 in 0..255"),
        ("x_train", lambda x: x - 63.5, "d: x_train is float64 with values -63.5..-0.5, out of range; expected uint8"),
        (
            "x_train",
            lambda x: x.reshape(4, 16),
            "d: x_train has shape (4, 16); expected [n, h, w, c] or [n, h, w]. If ",
        ),
        ("x_train", lambda x: x.reshape(4, 16), "each row is an image: x.reshape(-1, 4, 4)."),
        ("x_train", lambda x: x.reshape(4, 1, 4, 4), "The channels come first here: x.transpose(0, 2, 3, 1)."),
        (
            "y_train",
            lambda y: np.eye(2, dtype=int)[[0, 1, 0, 1]],
            "one-hot; expected (4,): y.argmax(axis=1).",
        ),
        (
            "y_train",
            lambda y: y.astype(str),
            "text, e.g. '7'; expected integer labels: names, y = np.unique(y,",
        ),
        ("y_train", lambda y: y.astype(np.uint64) | 2**63, "which is too large; expected labels below 2**63: renumber"),
        ("x_train", lambda x: x.astype(int) * 5, "d: x_train is int64 with values 0..315; expected uint8 in 0..255"),
        ("x_train", lambda x: x[:, :2], "d: x_train holds images of shape (2, 4, 1), x_test of (4, 4, 1)"),
        ("y_train", lambda y: y[:3], "d: y_train has shape (3,); expected (4,), one integer label per image."),
        ("y_test", lambda y: y.astype(float), "d: y_test is float64; expected integer labels: number the classes"),
        ("y_test", lambda y: y * np.nan, "d: y_test is float64 and contains NaN; expected integer labels"),
        ("y_test", lambda y: y + [1, 0], "d: class 8 is in y_test but not in y_train"),
        ("y_train", lambda y: y + [0, 0, 0, 9], "d: class 7 is in y_train but not in y_test"),
    ],
)
def test_bad_arrays_are_refused(key, change, message):
    arrays = _arrays()
    if key == "y_train" and "not in y_test" in message:
        arrays["y_test"] = np.array([-2, -2])
    else:
        arrays[key] = change(arrays[key])
    with pytest.raises(DataError, match=re.escape(message)):
        from_arrays(**arrays, name="d")


def test_first_per_class_keeps_the_stored_order(digits):
    few = digits.first_per_class(3)
    assert np.bincount(few.y_train).tolist() == [3] * 10
    rows = sorted(row for label in range(10) for row in np.flatnonzero(digits.y_train == label)[:3])
    np.testing.assert_array_equal(few.x_train, digits.x_train[rows])
    assert few.x_test is digits.x_test
    assert len(digits.first_per_class(10**6).x_train) == len(digits.x_train)
    with pytest.raises(ValueError, match="n=0 training images per class: expected at least 1"):
        digits.first_per_class(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_resized_averages_when_it_shrinks(digits, channels):
    image = np.repeat(digits.x_train[:1], channels, -1)
    dataset = from_arrays(image, [0], image, [0])
    small = dataset.resized(4).x_train
    assert small.shape == (1, 4, 4, channels)
    picture = Image.fromarray(digits.x_train[0, ..., 0]).resize((4, 4), Image.Resampling.BILINEAR)
    for channel in range(channels):
        np.testing.assert_array_equal(small[0, ..., channel], np.asarray(picture))
    assert abs(small.mean() - image.mean()) < 5


def test_resized_does_nothing_for_the_same_size(digits):
    assert digits.resized(8) is digits
    assert digits.resized(16).x_test.shape == (360, 16, 16, 1)
    with pytest.raises(ValueError, match="size=0: expected at least 1 pixel"):
        digits.resized(0)


def test_settings_are_chosen_on_training_images(digits):
    chosen = digits.for_choosing(0.25)
    assert "judged on training images held out" in chosen.name
    for label in digits.labels:
        own = digits.x_train[digits.y_train == label]
        train, test = chosen.x_train[chosen.y_train == label], chosen.x_test[chosen.y_test == label]
        assert len(test) == round(0.25 * len(own))
        np.testing.assert_array_equal(np.concatenate([train, test]), own)  # Not one of the test images.


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_out_of_range_is_refused(digits, share):
    with pytest.raises(DataError, match=f"share={share}: expected a share in"):
        digits.for_choosing(share)


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="of the 2 training images of class -2 leaves it without training or test"):
        from_arrays(**_arrays()).for_choosing(0.1)


def test_some_classes_keep_their_images_in_order() -> None:
    digits = load("digits")
    some = digits.of_classes([7, 3])
    assert some.labels == (3, 7) and some.class_names == {3: "3", 7: "7"}
    for images, labels, own, kept in (
        (digits.x_train, digits.y_train, some.x_train, some.y_train),
        (digits.x_test, digits.y_test, some.x_test, some.y_test),
    ):
        rows = [i for i, label in enumerate(labels) if label in (3, 7)]
        np.testing.assert_array_equal(own, images[rows])
        np.testing.assert_array_equal(kept, labels[rows])
    with pytest.raises(DataError, match="there is no class 10, 12; the classes are 0, 1, 2, 3, 4, ..."):
        digits.of_classes([1, 12, 10])


# ---- what white is ----


def _scaled(largest, dtype=np.uint8, part=("x_train", "x_test")):
    """Real digits, 0..255, and some parts of them as if white were `largest`."""
    digits = load("digits")
    arrays = {name: getattr(digits, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    return arrays | {name: np.round(arrays[name] * (largest / 255)).astype(dtype) for name in part}


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16])
@pytest.mark.parametrize("low, high", [(0, 1), (0, 2), (0, 15), (0, 16), (0, 31), (128, 129), (240, 255)])
@pytest.mark.parametrize("parts", [("x_train", "x_test"), ("x_train",), ("x_test",)])
def test_integers_that_were_not_scaled_are_refused_with_the_remedy(low, high, dtype, parts):
    """In either part, wherever they lie; and the remedy is accepted."""
    arrays = _scaled(high - low, dtype, parts)
    for part in parts:
        arrays[part] = arrays[part] + np.array(low, dtype)
    text = f"d: the values of {parts[0]} lie in {low}..{high}; expected 0..255, from black to white. If {low} is black "
    text += f"and {high} white here, rescale: np.clip("
    with pytest.raises(DataError, match=f"^{re.escape(text)}") as error:
        from_arrays(**arrays, name="d")
    line = str(error.value).partition("rescale: ")[2].removesuffix(".")
    for part in parts:
        arrays[part] = eval(line, {"np": np, "x": arrays[part]})
    assert from_arrays(**arrays).notes == ()


def test_a_few_odd_pixels_change_nothing():
    arrays = _scaled(1)
    arrays["x_train"][0, 0, 0] = 255
    with pytest.raises(DataError, match="the values of x_train lie in 0..1"):
        from_arrays(**arrays)


def test_dark_images_get_a_note_and_black_ones_too():
    for largest in (100, 40):
        assert from_arrays(**_scaled(largest)).notes == (
            f"the largest value of all images is {largest}, where white is 255",
        )
    assert from_arrays(**_scaled(0)).notes and not from_arrays(**_scaled(255)).notes


def test_only_of_booleans_it_is_certain_what_white_is():
    arrays = _scaled(1)
    for part in ("x_train", "x_test"):
        arrays[part] = arrays[part].astype(bool)
    dataset = from_arrays(**arrays)
    np.testing.assert_array_equal(dataset.x_train, arrays["x_train"].astype(np.uint8) * 255)


def test_labels_may_be_a_column():
    arrays = _arrays()
    arrays |= {name: arrays[name][:, None] for name in ("y_train", "y_test")}
    np.testing.assert_array_equal(from_arrays(**arrays).y_train, [7, -2, 7, -2])


def test_names_are_the_same_however_unicode_writes_them():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    arrays = _arrays()
    assert from_arrays(**arrays, class_names={7: decomposed}).class_names[7] == composed
    with pytest.raises(DataError, match="class_names has the name 'caf\u00e9' for 2 classes"):
        from_arrays(**arrays, class_names={7: decomposed, -2: composed})


def test_names_may_be_a_list_and_are_checked_in_files(tmp_path):
    arrays = _arrays() | {"y_train": np.array([0, 1, 1, 0]), "y_test": np.array([0, 1])}
    assert from_arrays(**arrays, class_names=["a", "b"]).class_names == {0: "a", 1: "b"}
    for labels, names in ((arrays["y_train"] - 1, ["a", "b"]), (arrays["y_train"], ["a"]), (arrays["y_train"], [1, 2])):
        np.savez(tmp_path / "x.npz", **(arrays | {"y_train": labels, "class_names": names}))
        with pytest.raises(DataError, match="class_names is .* expected texts, one for each of the labels 0, 1, ..."):
            from_npz(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "shape, line",
    [
        ((2, 3072), "x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)."),
        ((2, 784), "x.reshape(-1, 28, 28)."),
        ((2, 1024, 3), "x.reshape(-1, 32, 32, 3)."),
        ((32, 32, 3, 20), "The images come last here: x.transpose(3, 0, 1, 2)."),
        ((2, 8, 8, 4), "Leave out transparency: x[..., :3]."),
    ],
)
def test_other_layouts_are_refused_with_the_line_that_mends_them(shape, line):
    arrays = _arrays() | {"x_train": np.zeros(shape, np.uint8)}
    with pytest.raises(DataError, match=f"{re.escape(line)}$"):
        from_arrays(**arrays)


def test_text_labels_of_any_kind_get_the_line():
    for labels in (np.array(["a", "b", "a", "b"]), np.array(["a", "b", "a", "b"], object)):
        with pytest.raises(DataError, match="is text, e.g. 'a'; expected integer labels: names, y = np.unique"):
            from_arrays(**(_arrays() | {"y_train": labels}))
