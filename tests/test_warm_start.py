"""Which earlier task a new one begins as: that which the last classifier takes its images for."""

from types import SimpleNamespace

import helpers
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401

from dgm_jax.run import Run


@pytest.fixture(scope="module")
def memory():
    """Of two tasks, with classes 0 and 1, 2 and 3."""
    config = helpers.small("dgmw", image_size=8, headroom=2)
    return helpers.finished(config, labels=helpers.SIX, classes_per_task=2).memories[-1].as_of(2)


def _begun(memory, taken_for, warm_start=True):
    """What each of classes 4 and 5 begins as, where `taken_for` has what their first images are taken for."""
    config = helpers.small("dgmw", image_size=8, warm_start=warm_start)
    stream = helpers.stream(config, labels=helpers.SIX, classes_per_task=2)
    stream.begin(2)
    _, labels = stream.train(2)
    said = np.zeros((len(labels), 4))
    for index, votes in taken_for.items():
        rows = np.flatnonzero(labels == index)
        for row, vote in zip(rows, np.resize(votes, len(rows)), strict=True):
            said[row, vote] = 1
    run = SimpleNamespace(config=config, stream=stream, memory=memory, _last_judge=lambda task: lambda images: said)
    return [own.classes for own in Run._most_alike(run, 2)]


@pytest.mark.parametrize(
    "taken_for, expected",
    [
        ({4: [0], 5: [1]}, [(0,), (1,)]),
        ({4: [3], 5: [3]}, [(3,), (3,)]),
        ({4: [3], 5: [0, 0, 2]}, [(3,), (2,)]),  # Most images of both together look like classes 2 and 3.
        ({4: [3, 0, 0], 5: [1, 0, 0]}, [(0,), (0,)]),
    ],
)
def test_all_begin_as_classes_of_the_task_that_most_images_look_like(memory, taken_for, expected):
    assert _begun(memory, taken_for) == expected


def test_without_it_nothing_is_begun_as(memory):
    assert _begun(memory, {4: [3], 5: [3]}, warm_start=False) == []
