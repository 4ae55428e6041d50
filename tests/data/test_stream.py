"""Tasks, the protocol, held-out images, what the command line parses."""

import gc
import re
import weakref
import zlib

import numpy as np
import pytest

from dgm_jax.data import (
    DataError,
    FutureTaskError,
    PastTaskError,
    class_incremental,
    from_arrays,
    parse_class_order,
    parse_classes_per_task,
)
from dgm_jax.data.stream import Past, describe


def _toy():
    """Labels 5, -1, 9 with 6, 4 and 2 training images; every pixel of an image holds its row number."""
    y = np.array([5, -1, 5, 9, -1, 5, 5, -1, 9, 5, -1, 5])
    x = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None, None], (12, 2, 3, 1))
    return from_arrays(x, y, x[:4], y[:4], class_names={5: "five"})


def test_attributes():
    stream = class_incremental(_toy(), classes_per_task=(2, 1), class_order=(9, 5, -1))
    assert (stream.n_tasks, stream.n_classes) == (2, 3)
    assert stream.tasks == ((0, 1), (2,))
    assert stream.classes == (9, 5, -1)
    assert stream.class_names == ("9", "five", "-1")
    assert stream.image_shape == (2, 3, 1)
    assert stream.current is None
    assert stream.protocol == "strict"
    assert [stream.train_counts(task) for task in range(2)] == [(2, 6), (4,)]


def test_images_and_indices_are_those_of_the_classes(digits):
    order = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
    stream = class_incremental(digits, classes_per_task=2, class_order=order)
    for task in range(5):
        stream.begin(task)
        images, indices = stream.train(task)
        assert images.dtype == np.uint8 and indices.dtype == np.int32
        for index in stream.tasks[task]:
            np.testing.assert_array_equal(images[indices == index], digits.x_train[digits.y_train == order[index]])
        assert np.bincount(indices)[list(stream.tasks[task])].tolist() == list(stream.train_counts(task))
        images, indices = stream.test(task)
        assert set(indices.tolist()) == set(range(2 * task + 2))
        labels = np.array(stream.classes)[indices]
        np.testing.assert_array_equal(images[labels == 1], digits.x_test[digits.y_test == 1])
        assert stream.validation(task)[0].shape == (0, 8, 8, 1)
    assert len(images) == len(digits.x_test)


@pytest.mark.parametrize("protocol", ["strict", "paper"])
@pytest.mark.parametrize("what", ["train", "validation"])
def test_only_the_current_task_can_be_read(protocol, what):
    stream = class_incremental(_toy(), held_out=0.5, protocol=protocol)
    read = getattr(stream, what)
    name = {"train": "training", "validation": "validation"}[what]
    with pytest.raises(FutureTaskError, match=f"{name} images of task 0 were requested, but no task has begun; call"):
        read(0)
    stream.begin(1)
    read(1)
    with pytest.raises(PastTaskError, match=f"{name} images of task 0 were requested during task 1; the protocol"):
        read(0)
    with pytest.raises(FutureTaskError, match=f"{name} images of task 2 were requested, but the current task is 1"):
        read(2)
    with pytest.raises(ValueError, match=r"task=-1: the stream has 3 tasks; expected 0\.\.2"):
        read(-1)


def test_test_images_can_be_read_of_every_task_begun():
    stream = class_incremental(_toy())
    with pytest.raises(FutureTaskError, match="test images of task 0 were requested, but no task has begun"):
        stream.test(0)
    stream.begin(1)
    assert set(stream.test(0)[1].tolist()) == {0}
    assert set(stream.test(1)[1].tolist()) == {0, 1}
    with pytest.raises(FutureTaskError, match="test images of task 2 were requested, but the current task is 1"):
        stream.test(2)


def test_a_stream_only_moves_forward():
    stream = class_incremental(_toy())
    stream.begin(1)
    stream.begin(1)
    assert stream.current == 1
    with pytest.raises(PastTaskError, match="task 0 is finished and task 1 has begun; a stream cannot go back"):
        stream.begin(0)
    with pytest.raises(ValueError, match="task=3: the stream has 3 tasks"):
        stream.begin(3)
    assert stream.current == 1


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_beginning_a_task_frees_the_images_of_earlier_ones(protocol):
    stream = class_incremental(_toy(), held_out=0.5, protocol=protocol)
    stream.begin(0)
    train, validation = weakref.ref(stream.train(0)[0]), weakref.ref(stream.validation(0)[0])
    assert train() is not None
    stream.begin(2)
    gc.collect()
    assert train() is None
    assert (validation() is None) == (protocol == "strict")
    assert stream.train_counts(0) == (2,)


def test_what_is_handed_out_cannot_be_changed():
    stream = class_incremental(_toy())
    stream.begin(0)
    with pytest.raises(ValueError, match="read-only"):
        stream.train(0)[0][:] = 0


# ---- held-out images ----


def test_held_out_images_are_the_rest_of_every_class(digits):
    stream = class_incremental(digits, classes_per_task=5, held_out=0.2)
    for task in range(2):
        stream.begin(task)
        (images, indices), (held, held_indices) = stream.train(task), stream.validation(task)
        for index in stream.tasks[task]:
            n = int((digits.y_train == index).sum())
            assert int((held_indices == index).sum()) == round(0.2 * n)
            together = np.concatenate([images[indices == index], held[held_indices == index]])
            original = digits.x_train[digits.y_train == index]
            np.testing.assert_array_equal(_sorted(together), _sorted(original))


def _sorted(images):
    return sorted(image.tobytes() for image in images)


def test_the_paper_protocol_validates_on_all_tasks_so_far():
    strict, paper = (class_incremental(_toy(), held_out=0.5, protocol=p) for p in ("strict", "paper"))
    for stream in (strict, paper):
        stream.begin(0)
        stream.begin(1)
    assert set(strict.validation(1)[1].tolist()) == {1}
    assert set(paper.validation(1)[1].tolist()) == {0, 1}


def test_held_out_images_depend_on_the_seed_and_not_on_the_order(digits):
    def held(seed, order):
        stream = class_incremental(digits, class_order=order, held_out=0.1, seed=seed)
        stream.begin(order.index(4))
        return stream.validation(order.index(4))[0].tobytes()

    ascending = tuple(range(10))
    assert held(0, ascending) == held(0, ascending[::-1])
    assert held(0, ascending) != held(1, ascending)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"held_out": 0.2}, "held_out=0.2 of the 2 training images of class 9 gives 0 for validation and 2 for"),
        ({"held_out": 0.9}, "held_out=0.9 of the 4 training images of class -1 gives 4 for validation and 0 for"),
        ({"held_out": 1.0}, "held_out=1.0: expected a share in [0, 1), e.g. 0.1."),
        ({"held_out": float("nan")}, "held_out=nan: expected a share"),
        ({"protocol": "loose"}, "protocol='loose': expected one of strict, paper."),
        ({"classes_per_task": 2}, "3 classes do not split into tasks of 2; give e.g. 2,1."),
        ({"classes_per_task": 4}, "3 classes do not split into tasks of 4; give e.g. 3."),
        ({"classes_per_task": 0}, "classes_per_task=0: expected at least 1."),
        ({"classes_per_task": (1, 1)}, "classes_per_task=1,1 sums to 2; expected numbers >= 1 that sum to 3, the"),
        ({"classes_per_task": (3, 0)}, "classes_per_task=3,0 sums to 3; expected numbers >= 1"),
        ({"class_order": (5, 9, 2)}, "class_order names class 2; the data set has -1,5,9."),
        ({"class_order": (5, 9, 5, -1)}, "class_order names class 5 2 times; a class belongs to one task only."),
        ({"class_order": (5, 9)}, "class_order lacks class -1; expected all of -1,5,9, each once."),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        class_incremental(_toy(), **arguments)


def test_ten_classes_in_tasks_of_three(digits):
    with pytest.raises(ValueError, match="10 classes do not split into tasks of 3; give e.g. 3,3,3,1"):
        class_incremental(digits, classes_per_task=3)
    assert class_incremental(digits, classes_per_task=(3, 3, 3, 1)).tasks[3] == (9,)


# ---- the command line ----


def test_parse_class_order():
    labels = (5, -1, 9)
    assert parse_class_order("natural", labels) == (-1, 5, 9)
    assert parse_class_order("9,-1, 5", labels) == (9, -1, 5)
    random = parse_class_order("random:3", range(10))
    assert sorted(random) == list(range(10)) and random != tuple(range(10))
    assert random == parse_class_order("random:3", reversed(range(10))) != parse_class_order("random:4", range(10))
    assert parse_class_order("seed", range(10), seed=3) == random


@pytest.mark.parametrize("text", ["", "random", "random:", "random:-1", "random:x", "1,,2", "all"])
def test_parse_class_order_refuses(text):
    with pytest.raises(ValueError, match=re.escape(f"class order {text!r}: expected natural, random:SEED (e.g. ran")):
        parse_class_order(text, (1, 2))


def test_parse_class_order_checks_the_labels():
    with pytest.raises(ValueError, match="class_order lacks class 2; expected all of 1,2, each once"):
        parse_class_order("1", (1, 2))


NAMES = {0: "0", 1: "1", 2: "10", 3: "11", 4: "2"}  # Labels of folders 0, 1, 10, 11, 2, sorted as text.


def test_the_order_of_published_results_is_that_of_numpy_s_old_generator():
    np.random.seed(1993)  # noqa: NPY002
    expected = np.random.permutation(100)  # noqa: NPY002
    assert parse_class_order("legacy:1993", range(100)) == tuple(expected)
    assert parse_class_order("legacy:1993", range(100))[:6] == (68, 56, 78, 8, 23, 84)
    with pytest.raises(ValueError, match="expected a seed below 2"):
        parse_class_order(f"legacy:{2**32}", range(3))


@pytest.mark.parametrize("text", ["dog, cat,ape", "[dog, cat, ape]", "['dog', 'cat', \"ape\"]", "2,1,0", "[2, 1, 0]"])
def test_an_order_by_name_or_as_a_list(text):
    assert parse_class_order(text, (0, 1, 2), {0: "ape", 1: "cat", 2: "dog"}) == (2, 1, 0)


def test_an_order_from_a_file(tmp_path):
    file = tmp_path / "order.txt"
    file.write_text("2  # first\n0\n\n11\n10\n1\n")
    assert parse_class_order(f"@{file}", tuple(NAMES), NAMES) == (4, 0, 3, 2, 1)
    file.write_text("2\n0\n11\n10\n")
    with pytest.raises(ValueError, match="class_order lacks class 1"):
        parse_class_order(f"@{file}", tuple(NAMES), NAMES)
    file.write_text("\ufeff2\n0\n11\n10\n1\n", encoding="utf-8")  # As some editors begin a file.
    assert parse_class_order(f"@{file}", tuple(NAMES), NAMES) == (4, 0, 3, 2, 1)
    file.write_text("C#  # a language\n# nothing\nC\n")
    assert parse_class_order(f"@{file}", (0, 1), {0: "C", 1: "C#"}) == (1, 0)
    file.write_text("2\n3\n")
    with pytest.raises(ValueError, match="3 is not among the 5 available classes"):
        parse_class_order(f"@{file}", tuple(NAMES), NAMES)


@pytest.mark.parametrize("text", ["2,0,1,3,4", "[2, 0, 1, 3, 4]"])
def test_numbers_that_could_mean_two_things_are_refused(text):
    message = (
        f"class order {text!r}: 2 is the name of a class, and label 2 is the class named '10'; give the names in a "
    )
    message += "file, one a line (--class-order @FILE)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_class_order(text, tuple(NAMES), NAMES)
    same = {label: str(label) for label in range(5)}
    assert parse_class_order(text, tuple(same), same) == (2, 0, 1, 3, 4)


def test_names_with_leading_zeros_are_names():
    names = {0: "00", 1: "01", 2: "010", 3: "02"}
    assert parse_class_order("00,01,02,010", tuple(names), names) == (0, 1, 3, 2)
    assert parse_class_order("007,008", (0, 1), {0: "007", 1: "008"}) == (0, 1)
    with pytest.raises(ValueError, match="class_order names class 7; the data set has 0,1"):
        parse_class_order("7,8", (0, 1), {0: "007", 1: "008"})


def test_an_unknown_name_is_said():
    with pytest.raises(ValueError, match="there is no class cow"):
        parse_class_order("cow,cat", (0, 1), {0: "cat", 1: "dog"})


def test_parse_classes_per_task():
    assert parse_classes_per_task("2") == 2
    assert parse_classes_per_task("3,3,4") == (3, 3, 4)


@pytest.mark.parametrize("text", ["", "0", "3,0", "3,", "two", "-1"])
def test_parse_classes_per_task_refuses(text):
    expected = f"classes per task {text!r}: expected a number >= 1 (e.g. 2), or one per task"
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_classes_per_task(text)


# ---- numbers, and a stream that continues another ----


def test_the_classes_seen_and_the_test_images_are_counted():
    stream = class_incremental(_toy(), classes_per_task=(2, 1))
    assert [stream.n_seen(task) for task in (-1, 0, 1)] == [0, 2, 3]
    assert stream.test_count == 4


def test_the_images_of_a_class_come_in_stored_order_with_and_without_held_out_ones(digits):
    """The pixels of `_toy` are row numbers; classes come in order, one after the other."""
    stream = class_incremental(_toy(), classes_per_task=3)
    stream.begin(0)
    images, indices = stream.train(0)
    assert images[:, 0, 0, 0].tolist() == [1, 4, 7, 10, 0, 2, 5, 6, 9, 11, 3, 8]
    assert indices.tolist() == [0] * 4 + [1] * 6 + [2] * 2
    half = class_incremental(_toy(), classes_per_task=3, held_out=0.5)
    half.begin(0)
    for (images, indices), counts in ((half.train(0), [2, 3, 1]), (half.validation(0), [2, 3, 1])):
        assert np.bincount(indices).tolist() == counts
        for index in range(3):
            rows = images[indices == index][:, 0, 0, 0].tolist()
            assert rows == sorted(rows)
    assert half.train_counts(0) == (2, 3, 1)
    whole = class_incremental(digits, held_out=0.5)
    whole.begin(3)
    for images, _ in (whole.train(3), whole.validation(3)):
        places = [np.flatnonzero((digits.x_train == image).all(axis=(1, 2, 3)))[0] for image in images]
        assert places == sorted(places)


def test_the_stored_shape_is_that_before_images_were_resized(digits):
    assert class_incremental(digits).stored_shape == (8, 8, 1)
    resized = class_incremental(digits.resized(16))
    assert (resized.image_shape, resized.stored_shape) == ((16, 16, 1), (8, 8, 1))


def _past(**changes):
    own = {"name": "old", "tasks": ((70, 90), (30,)), "class_names": ("a", "b", "c"), "fingerprint": "abc"}
    return Past(**(own | {"train_counts": ((5, 6), (4,))} | changes))


def test_a_stream_goes_on_after_an_earlier_one():
    def own(**options):
        return class_incremental(_toy(), classes_per_task=(2, 1), class_order=(9, 5, -1), **options)

    stream = own(held_out=0.5, protocol="paper").after(_past())
    assert (stream.name, stream.part_name, stream.n_past, stream.current) == ("old", "arrays", 2, None)
    assert stream.tasks == ((0, 1), (2,), (3, 4), (5,))
    assert stream.classes == (70, 90, 30, 9, 5, -1)
    assert stream.class_names == ("a", "b", "c", "9", "five", "-1")
    assert [stream.train_counts(task) for task in range(4)] == [(5, 6), (4,), (1, 3), (2,)]
    assert [stream.n_seen(task) for task in range(-1, 4)] == [0, 2, 3, 5, 6]
    assert stream.fingerprint == f"abc+{own(held_out=0.5, protocol='paper').fingerprint}"
    with pytest.raises(DataError, match="task 1 belongs to an earlier stream, .* begins with task 2. Resume with"):
        stream.begin(1)
    plain = own(held_out=0.5, protocol="paper")
    for task in range(2):
        plain.begin(task)
        stream.begin(2 + task)
        for what in ("train", "validation", "test"):  # The earlier classes have no images, not even for tests.
            (images, indices), (expected, before) = getattr(stream, what)(2 + task), getattr(plain, what)(task)
            np.testing.assert_array_equal(images, expected)
            np.testing.assert_array_equal(indices, before + 3)
            assert indices.dtype == np.int32 and images.dtype == np.uint8
    assert stream.test_count == 4


@pytest.mark.parametrize("shared", [9, 5, -1])
def test_labels_that_both_streams_have_are_given_anew_above_the_earlier_ones(shared):
    stream = class_incremental(_toy(), class_order=(9, 5, -1)).after(_past(tasks=((70, 90), (shared,))))
    assert stream.classes == (70, 90, shared, 93, 92, 91)  # In the order of the labels, not in that of arrival.
    assert stream.class_names[3:] == ("9", "five", "-1")


def test_a_stream_that_cannot_go_on():
    with pytest.raises(DataError, match="class five was learnt before; a class belongs to one task only"):
        class_incremental(_toy()).after(_past(class_names=("a", "five", "c")))
    begun = class_incremental(_toy())
    begun.begin(0)
    with pytest.raises(DataError, match="task 0 of the stream has begun; make a new stream"):
        begun.after(_past())


def test_what_differs_between_streams_is_described():
    stream = class_incremental(_toy(), classes_per_task=(2, 1), class_order=(9, 5, -1))
    described = describe(stream)
    assert described == {
        "dataset": stream.name,
        "fingerprint": stream.fingerprint,
        "tasks": [[9, 5], [-1]],
        "image_shape": [2, 3, 1],
        "train_counts": [[2, 6], [4]],
    }
    others = [
        class_incremental(_toy(), classes_per_task=(2, 1), class_order=(5, 9, -1)),
        class_incremental(_toy(), classes_per_task=(1, 2), class_order=(9, 5, -1)),
        class_incremental(_toy(), classes_per_task=(2, 1), class_order=(9, 5, -1), held_out=0.5),
        class_incremental(_toy(), classes_per_task=(2, 1), class_order=(9, 5, -1), held_out=0.5, seed=1),
    ]
    assert len({str(describe(other)) for other in [stream, *others]}) == 5


def test_the_fingerprint_is_a_checksum_of_all_images_and_indices():
    """Runs keep it to compare it with that of later versions: it must stay as it is."""
    stream = class_incremental(_toy(), classes_per_task=3, held_out=0.5)
    stream.begin(0)
    parts = [getattr(stream, what)(0) for what in ("train", "validation", "test")]
    content = b"".join(images.tobytes() + indices.tobytes() for images, indices in parts)
    assert stream.fingerprint == f"{zlib.crc32(content):08x}"
