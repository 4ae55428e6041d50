"""Parts of the method that can be taken away, to see what they do."""

import json

import jax
import numpy as np
import pytest
from support import checks, small_runs
from support.marks import slow_but

from dgm_jax import load_memory

variants = pytest.mark.parametrize("variant", slow_but(["dgma", "dgmw"], "dgmw"))


def _run(variant, **changes):
    return small_runs.finished(small_runs.small(variant, image_size=8, epochs=2, **changes))


def _masks(memory):
    return [jax.tree.leaves(task.masks) for task in memory.tasks]


@variants
def test_without_expansion_the_generator_keeps_its_widths(variant):
    watch = _run(variant, expansion=False)
    widths = [memory.widths for memory in watch.memories]
    assert len(set(widths)) == 1
    assert len({memory.widths for memory in _run(variant).memories}) > 1
    for label, images in watch.drawn[0].items():  # And forgets nothing.
        np.testing.assert_array_equal(watch.drawn[-1][label], images)


@variants
def test_without_re_use_tasks_share_no_gate(variant):
    memory = load_memory(_run(variant, reuse=False).workdir)
    for layer in zip(*_masks(memory)):
        used = [mask[tuple(slice(0, n) for n in layer[0].shape)] for mask in layer]
        assert np.all(np.sum(used, axis=0) <= 1)
        assert all(np.any(mask) for mask in layer)


@variants
def test_without_masks_the_generator_keeps_its_widths_and_forgets(variant):
    watch = _run(variant, masks="none")
    assert len({memory.widths for memory in watch.memories}) == 1
    for memory in watch.memories:
        assert all(np.all(mask) for task in memory.tasks for mask in task.masks)
        assert not any(np.any(reserved) for reserved in memory.reserved)
    old, new = watch.memories[0].kernels[0], watch.memories[-1].kernels[0]
    assert np.mean(old != new) > 0.5
    for label, images in watch.drawn[0].items():
        assert np.abs(watch.drawn[-1][label] - images).max() > 0.01
    summary = json.loads((watch.workdir / "summary.json").read_text())
    assert 0 <= summary["A_3"]["consolidated"]["macro"] <= 1


@variants
def test_random_masks_stay_as_they_were_drawn(variant):
    config = small_runs.small(variant, image_size=8, epochs=2, masks="random")
    first, other = (
        _masks(load_memory(small_runs.finished(config.with_changes(**changes)).workdir))
        for changes in ({}, {"generator_learning_rate": 1e-4})
    )
    checks.assert_equal_trees(first, other)  # Whatever is learnt.
    shares = [np.mean(mask) for layers in first for mask in layers if mask.size > 100]
    assert all(0.3 < share < 0.7 for share in shares)
