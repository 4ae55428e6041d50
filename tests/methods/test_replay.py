"""What classifiers learn from: which images are drawn, and how many."""

import contextlib

import jax
import numpy as np
import pytest
from support import small_runs

from dgm_jax.methods.method import Watch
from dgm_jax.methods.replay import images_of_all_classes, replayed_images
from dgm_jax.runs.session import new_method

KEY = jax.random.key(5)


def _setting(config, **options):
    return new_method(config, small_runs.stream(config, **options), jax.local_devices()[:1]).setting


def test_the_classifier_learns_from_images_of_all_classes_seen():
    config = small_runs.small("dgma")
    memory = small_runs.finished(config).memories[-1]
    each = config.consolidation.consolidation_samples
    drawn = images_of_all_classes(memory, _setting(config, labels=(0, 1, 2, 3)), KEY)
    assert drawn.images.shape == (4 * each, 16, 16, 1) and drawn.count == 3 * each
    np.testing.assert_array_equal(drawn.labels, np.repeat(np.arange(4), each))
    for index in range(3):
        own = drawn.images[index * each : (index + 1) * each]
        np.testing.assert_array_equal(own, memory.images(index, each, jax.random.fold_in(KEY, index)))
    assert not drawn.images[3 * each :].any()


@pytest.mark.parametrize(
    "changes, each",
    [
        ({"epochs": 9, "replay_steps": None}, 24),  # 9 * 3 * 3 * 8 / 3 = 216 picks a class: as many as the task has.
        ({"epochs": 1, "replay_steps": 1}, 8),  # 1 * 3 * 1 * 8 / 3
        ({"epochs": 9, "replay_steps": 1, "replay": "fresh"}, 8),  # Drawn anew in each of the 9.
    ],
)
def test_no_more_is_replayed_than_will_be_picked(changes, each):
    config = small_runs.small("dgma", image_size=8, **changes)
    asked, setting = [], _setting(config)

    class Counted:
        def images(self, index, n, key, *, mode=None):
            asked.append((index, n, key))
            return np.full((n, 8, 8, 1), index, np.uint8)

    (replayed,) = replayed_images([Counted()], setting, 2, [KEY], Watch())
    assert asked == [(index, each, jax.random.fold_in(KEY, index)) for index in (0, 1)]  # Each class has a key.
    assert replayed.counts.tolist() == [each, each]
    for own, index in zip(replayed.images, (0, 1)):
        assert np.all(own[:each] == index) and not own[each:].any()
    assert replayed.labels[:, :each].tolist() == [[0] * each, [1] * each]


class _Numbered:
    """Takes the memory's place: image i of a class has the value 20 * class + i in every pixel."""

    n_classes = 3

    def images(self, index, n, key, *, mode=None):
        return np.broadcast_to((20 * index + np.arange(n, dtype=np.uint8))[:, None, None, None], (n, 8, 8, 1))


def test_each_class_has_its_own_images_in_its_own_rows():
    config = small_runs.small("dgma", image_size=8, consolidation_samples=5)
    drawn = images_of_all_classes(_Numbered(), _setting(config, labels=(0, 1, 2, 3)), KEY)
    assert drawn.images[:, 3, 4, 0].tolist() == [*range(5), *range(20, 25), *range(40, 45), *[0] * 5]
    assert drawn.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert drawn.count == 15


def test_the_classes_of_a_task_are_replayed_one_after_the_other():
    config = small_runs.small("dgma", image_size=8, epochs=9, replay_steps=None)
    setting = _setting(config, labels=(0, 1, 2, 3), classes_per_task=(2, 1, 1))
    calls = []

    class Counting(Watch):
        @contextlib.contextmanager
        def phase(self, name, total):
            calls.append((name, total))
            yield calls.append

    (replayed,) = replayed_images([_Numbered()], setting, 2, [KEY], Counting())
    each = setting.images_per_class(2)
    assert each == 24 and replayed.images.shape == (2, 48, 8, 8, 1)  # Room for a task of two classes.
    assert replayed.counts.tolist() == [2 * each, each]
    values = replayed.images[:, :, 0, 0, 0]
    assert values[0].tolist() == [*range(each), *range(20, 20 + each)]
    assert values[1].tolist() == [*range(40, 40 + each), *[0] * each]
    assert replayed.labels.tolist() == [[0] * each + [1] * each, [2] * each + [0] * each]
    assert calls == [("replay", 3), 1, 1, 1]
