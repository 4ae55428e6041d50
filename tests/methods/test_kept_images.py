"""What methods keep of real images: as they are or as JPEG, which ones, and how many bytes they take."""

import io

import jax
import numpy as np
import pytest
from PIL import Image
from support import small_runs

from dgm_jax.errors import ConfigError
from dgm_jax.methods import kept_images
from dgm_jax.methods.gdumb import greedily_balanced
from dgm_jax.runs.session import new_method

SHAPES = [(8, 8, 1), (32, 32, 3)]


def smooth(n, shape):
    """Images of which JPEG keeps something, all different."""
    h, w, c = shape
    y, x, channel = np.mgrid[:h, :w, :c]
    waves = np.arange(1, n + 1)[:, None, None, None] * (x + 2 * y + 5 * channel)
    return np.round(127.5 + 100 * np.sin(waves / 20)).astype(np.uint8)


def streams(images):
    """A whole JPEG stream of each image, as a file would hold it."""
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image.squeeze()).save(stream, format="JPEG", quality=75)
        yield stream.getvalue()


@pytest.mark.parametrize("shape", SHAPES)
def test_jpeg_is_that_of_whole_files_with_their_header_once(shape):
    images, labels = smooth(4, shape), np.array([7, 5, 7, 6], np.int32)
    kept = kept_images.chosen(kept_images.no_images(np.zeros((0, *shape), np.uint8), "jpeg"), [3, 0, 1], images, labels)
    files = list(streams(images[[3, 0, 1]]))
    expected = np.stack([np.asarray(Image.open(io.BytesIO(file))).reshape(shape) for file in files])
    found = kept_images.decoded(kept, shape)
    np.testing.assert_array_equal(found, expected)
    assert 0 < np.abs(found.astype(int) - images[[3, 0, 1]]).mean() < 4  # Lossy, but the same pictures.
    assert kept["labels"].tolist() == [6, 7, 5]
    header, end = len(kept["header"]), 2
    assert all(file[:header] == kept["header"].tobytes() for file in files)
    assert kept["lengths"].tolist() == [len(file) - header - end for file in files]
    assert kept["scans"].nbytes == kept["lengths"].sum()


@pytest.mark.parametrize("memory_format", ["raw", "jpeg"])
def test_a_kept_image_is_never_encoded_again(memory_format):
    shape, labels = SHAPES[1], np.arange(4, dtype=np.int32)
    images = smooth(4, shape)
    kept = kept_images.chosen(
        kept_images.no_images(np.zeros((0, *shape), np.uint8), memory_format), [2, 0], images[:3], labels[:3]
    )
    before = kept_images.decoded(kept, shape)
    kept = kept_images.chosen(kept, [1, 2], images[3:], labels[3:])
    after = kept_images.decoded(kept, shape)
    np.testing.assert_array_equal(after[0], before[1])
    assert kept["labels"].tolist() == [0, 3]
    none = kept_images.chosen(kept, [], images, labels)
    assert kept_images.decoded(none, shape).shape == (0, *shape) and none["labels"].size == 0


@pytest.mark.parametrize("name", ["er", "icarl"])
def test_new_images_are_learnt_as_kept_ones_are(name):
    """Otherwise the traces of JPEG would tell old classes from new ones while both are learnt, but not afterwards."""
    config = small_runs.small(method=name, memory_format="jpeg")
    stream = small_runs.stream(config)
    method = new_method(config, stream, jax.local_devices()[:1])
    stream.begin(0)
    images, labels = stream.train(0)
    (source,) = method.sources(method.new_state(jax.random.key(0)), images, labels)
    as_files = [np.asarray(Image.open(io.BytesIO(file))).reshape(images.shape[1:]) for file in streams(images)]
    np.testing.assert_array_equal(source.images[: len(images)], as_files)
    assert not np.array_equal(images, as_files)


def test_other_tables_are_refused():
    kept = kept_images.no_images(np.zeros((0, *SHAPES[0]), np.uint8), "jpeg")
    kept["header"] = kept["header"][::-1]
    with pytest.raises(ConfigError, match="^memory_format='jpeg': the Pillow .* encodes with other tables than"):
        kept_images.chosen(kept, [0], smooth(1, SHAPES[0]), np.zeros(1, np.int32))


class First:
    """In place of a random generator: images come in their order, and always the first of several is taken."""

    permutation = staticmethod(np.arange)
    integers = staticmethod(lambda n: 0)


def test_the_greedy_sampler_by_hand():
    """Room for four images. Rows below the number of kept images are kept ones, the others new ones."""
    assert greedily_balanced([], [0, 0, 0, 0, 0, 0], 4, First) == [0, 1, 2, 3]
    # The first 1 is of a new class, the second has less than 4 / 2 images before it, the third has not.
    assert greedily_balanced([0, 0, 0, 0], [1, 1, 1], 4, First) == [2, 3, 4, 5]
    # Class 0, the first of the two largest, makes room, then class 1. One image is less than 4 / 3, two are not.
    assert greedily_balanced([0, 0, 1, 1], [2, 2, 2], 4, First) == [1, 3, 4, 5]


def test_the_greedy_sampler_keeps_equally_many_of_each_class_and_any_image():
    labels, kept = np.repeat(np.arange(7), 30), np.zeros(7 * 30, int)
    for seed in range(40):
        random, here = np.random.default_rng(seed), np.zeros(0, int)
        for task in range(7):
            new = np.flatnonzero(labels == task)
            here = np.concatenate([here, new])[greedily_balanced(labels[here], labels[new], 20, random)]
        assert len(set(here.tolist())) == 20 and set(np.bincount(labels[here]).tolist()) == {2, 3}
        kept[here] += 1
    assert kept.sum() == 40 * 20 and np.all(kept.reshape(7, 30).sum(axis=1) >= 80) and kept.max() < 15
