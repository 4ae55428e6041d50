"""What classifiers learn from: how much is drawn, whom the last one is surest of, and what it said of them."""

import helpers
import jax
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401

from dgm_jax.methods import consolidation, replay
from dgm_jax.training.classifier import TEMPERATURE

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def memory():
    return helpers.finished(helpers.small("dgma")).memories[-1]


def brightness(images):
    """A judge of three classes, to whom an image is the surer a 1 the brighter it is."""
    light = images.reshape(len(images), -1).mean(axis=1) / 25
    return np.stack([np.zeros_like(light), light, np.full_like(light, np.finfo(np.float32).min)], axis=1)


def test_the_surest_are_kept_in_the_order_in_which_they_were_drawn(memory):
    drawn = memory.images(1, 20, KEY)
    kept = replay.surest(memory, 1, 5, KEY, share=0.25, judge=brightness)
    brightest = np.sort(np.argsort(-drawn.reshape(20, -1).astype(float).mean(axis=1), kind="stable")[:5])
    np.testing.assert_array_equal(kept, drawn[brightest])
    darker = memory.images(0, 20, KEY)
    kept = replay.surest(memory, 0, 5, KEY, share=0.25, judge=brightness)
    darkest = np.sort(np.argsort(darker.reshape(20, -1).astype(float).mean(axis=1), kind="stable")[:5])
    np.testing.assert_array_equal(kept, darker[darkest])


@pytest.mark.parametrize("share, judge", [(1.0, brightness), (0.25, None)])
def test_all_are_kept_where_nothing_is_asked_or_nobody_knows(memory, share, judge):
    kept = replay.surest(memory, 1, 5, KEY, share=share, judge=judge)
    np.testing.assert_array_equal(kept, memory.images(1, 5, KEY))


def _draw(memory, **changes):
    config = helpers.small("dgma", **changes)
    stream = helpers.stream(config)
    stream.begin(2)
    real = stream.train(2)
    return consolidation.draw(memory, config, KEY, n_classes=4, real=real, newest=(2,), judge=_of_four)


def _of_four(images):
    lowest = np.full((len(images), 1), np.finfo(np.float32).min)
    return np.concatenate([brightness(images), lowest], axis=1)


def test_targets_are_what_the_last_classifier_said_of_old_classes(memory):
    drawn = _draw(memory, distillation_weight=1.0)
    each = helpers.SMALL.consolidation_samples
    assert drawn.targets.shape == (4 * each, 4) and drawn.count == 3 * each
    odds = np.exp(brightness(drawn.images[: 2 * each])[:, :2] / TEMPERATURE)
    np.testing.assert_allclose(drawn.targets[: 2 * each, :2], odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)
    assert not drawn.targets[: 2 * each, 2:].any()
    assert not drawn.targets[2 * each :].any()  # Of the newest class nobody has said anything.
    assert _draw(memory).targets is None


def test_old_classes_are_chosen_from_and_the_newest_is_not(memory):
    few, all_of = _draw(memory, replay_confidence=0.5), _draw(memory)
    each = helpers.SMALL.consolidation_samples
    for index in (0, 1):
        own = few.images[index * each : (index + 1) * each]
        expected = replay.surest(memory, index, each, jax.random.fold_in(KEY, index), share=0.5, judge=_of_four)
        np.testing.assert_array_equal(own, expected)
    np.testing.assert_array_equal(few.images[2 * each :], all_of.images[2 * each :])
    assert few.count == all_of.count
    np.testing.assert_array_equal(few.labels, all_of.labels)


@pytest.mark.parametrize(
    "changes, each",
    [
        ({"epochs": 9, "replay_steps": None}, 24),  # 9 * 3 * 3 * 8 / 3 = 216 picks a class: as many as the task has.
        ({"epochs": 1, "replay_steps": 1}, 8),  # 1 * 3 * 1 * 8 / 3
        ({"epochs": 9, "replay_steps": 1, "replay": "fresh"}, 8),  # Drawn anew in each of the 9.
    ],
)
def test_no_more_is_replayed_than_will_be_picked(changes, each):
    config = helpers.small("dgma", image_size=8, **changes)
    asked, drawn = [], []

    class Counted:
        def images(self, index, n, key):
            asked.append((index, n, key))
            return np.full((n, 8, 8, 1), index, np.uint8)

    replayed = replay.draw(Counted(), config, helpers.stream(config), 2, KEY, judge=None, moved=drawn.append)
    assert asked == [(index, each, jax.random.fold_in(KEY, index)) for index in (0, 1)]  # A key of its own each.
    assert replayed.counts.tolist() == [each, each]
    for own, index in zip(replayed.images, (0, 1)):
        assert np.all(own[:each] == index) and not own[each:].any()
    assert replayed.labels[:, :each].tolist() == [[0] * each, [1] * each]
    assert drawn == [1, 1]
