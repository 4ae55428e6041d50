"""Rows of the table at equal bytes: how large a method must be."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dgm_jax import data
from dgm_jax.commands import table_sizes
from dgm_jax.commands.table_rows import COMPARED
from dgm_jax.commands.table_runs import TableRun
from dgm_jax.methods.feature_memory import FeatureLearner, bytes_of_filters
from dgm_jax.methods.kept_images import chosen
from dgm_jax.methods.separate import generator_bytes
from dgm_jax.runs.session import new_method

SIZED = [name for name, method in COMPARED.items() if method.as_large_as]


@pytest.fixture
def digits():
    return data.class_incremental(data.load("digits").resized(16))


@pytest.mark.parametrize("name", [name for name in SIZED if name != "analytic-as-combined"])
def test_a_method_gets_as_many_bytes(name, digits, tmp_path):
    config, n_bytes = TableRun("digits", name, 0, tmp_path).options.settings, 400_000
    option, value = table_sizes.size_option(config, digits, n_bytes)
    config = config.with_changes(**{option[2:].replace("-", "_"): int(value)})
    if option == "--generator-width":
        n = 10 if name == "separate" else 1
        each = generator_bytes(config, int(value), channels=1)
        wider = generator_bytes(config, int(value) + 1, channels=1)
        assert abs(n * each - n_bytes) <= n * (wider - each)
        return
    method = new_method(config, digits, jax.devices()[:1])
    dataset = data.load("digits").resized(16)
    images, labels = dataset.x_train, dataset.y_train.astype(np.int32)
    state = method.new_state(jax.random.key(0))
    full = replace(state, kept=state.kept | chosen(state.kept, range(len(images)), images, labels))
    empty, whole = (method.memory_bytes(own)["total"] for own in (state, full))
    assert empty + int(value) * (whole - empty) / len(images) == pytest.approx(n_bytes, rel=0.01)


def test_images_of_all_classes_of_a_task_say_how_large_they_are_as_jpeg(digits, tmp_path):
    """The images of a task come class by class, and 1 and 8, with which these tasks begin, take the fewest bytes."""
    config = TableRun("digits", "gdumb-jpeg-as-dgmw", 0, tmp_path).options.settings
    dataset = data.load("digits").resized(16)
    fives = data.class_incremental(dataset, classes_per_task=5, class_order=[1, 0, 2, 3, 4, 8, 5, 6, 7, 9])
    sizes = [int(table_sizes.size_option(config, stream, 400_000)[1]) for stream in (digits, fives)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)  # Of each class there are fewer images.


def test_filters_get_as_many_bytes(digits, tmp_path):
    config = TableRun("digits", "analytic-as-combined", 0, tmp_path).options.settings
    option, value = table_sizes.size_option(config, digits, 2_000_000)
    n = int(value)
    learner = FeatureLearner(new_method(config.with_changes(filters=n), digits, jax.devices()[:1]).setting)
    digits.begin(0)
    memory = learner.with_filters(learner.new(), jax.random.key(0), digits.train(0)[0])
    assert option == "--filters" and sum(memory.bytes().values()) == bytes_of_filters(n, 1, 10) <= 2_000_000
    assert bytes_of_filters(n + 1, 1, 10) > 2_000_000
