"""Training the open units alone: as training all of them, and everything else stays where it was."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from support import checks, programs, small_runs
from support.checks import assert_same_results
from support.stopping import Stop

from dgm_jax import nn
from dgm_jax.training import trainer as training
from dgm_jax.training.epoch import ReplayedImages, TaskImages
from dgm_jax.training.gates import open_gates
from dgm_jax.training.step import Step
from dgm_jax.training.subnetwork import find_open_units
from dgm_jax.training.task import begin_task
from dgm_jax.training.trainer import TaskTraining

WIDTHS = {8: (9,), 16: (12, 7), "resnet": (9, 12, 7)}  # By the images' size, or of the residual pair.
OPEN = {8: (4,), 16: (5, 3), "resnet": (4, 5, 3)}  # Units of each layer.
SETTLED = (np.float64(100), np.float64(0))  # (s, S_i)
sizes = pytest.mark.parametrize("size", [8, 16, "resnet"])


def _trainer(size, **changes):
    changes |= {"epochs": 4, "mask_share": 0.25}
    config = (
        small_runs.residual(**changes) if size == "resnet" else small_runs.small("dgma", image_size=size, **changes)
    )
    return small_runs.trainer(config)


def _begin(trainer, size, dtype=np.float32):
    """Task 1 of a random network whose gates have been decided, and half of whose units are reserved; on the host."""
    rng = np.random.default_rng(len(WIDTHS[size]))
    widths = WIDTHS[size]
    shapes = trainer.networks.generator.kernel_shapes(widths, trainer.config.networks.noise_dim)
    state, capacity = begin_task(
        trainer.networks,
        jax.random.key(0),
        [rng.normal(0, 0.2, shape).astype(np.float32) for shape in shapes],
        [rng.random(width) < 0.5 for width in widths],
        physical=[width + 2 for width in widths],
        classes=(1,),
        discriminator=None,
    )
    for embedding, width, n in zip(state.generator.embeddings, widths, OPEN[size]):
        embedding[:width] = rng.permutation(np.where(np.arange(width) < n, 1, -1)) * rng.uniform(0.5, 1, width)
    state, capacity = jax.tree.map(
        lambda a: np.asarray(a, dtype if a.dtype == np.float32 else a.dtype), (state, capacity)
    )
    # As if it had been trained: norms, statistics and moments of all kinds.
    norms = jax.tree.map(lambda a: a + rng.uniform(-0.2, 0.2, a.shape).astype(dtype), state.generator.norms)
    moments = jax.tree.map(
        lambda a: rng.uniform(0, 0.01, a.shape).astype(dtype) if a.ndim else np.int32(7), state.generator_optimiser
    )
    statistics = jax.tree.map(lambda a: a + rng.uniform(0, 0.2, a.shape).astype(dtype), state.generator_statistics)
    state = dataclasses.replace(
        state,
        generator=dataclasses.replace(state.generator, norms=norms),
        generator_statistics=statistics,
        generator_optimiser=moments,
    )
    return state, capacity


def _cut(trainer, state, capacity, size):
    shape = tuple(n + 1 for n in OPEN[size])
    (units,) = find_open_units([state], [(99,) * len(shape), shape], trainer.networks.generator)
    return units, *units.cut(state, capacity)


@sizes
def test_a_step_is_the_same_in_float64(size):
    trainer = _trainer(size)
    state, capacity = _begin(trainer, size, np.float64)
    units, narrow, narrow_capacity = _cut(trainer, state, capacity, size)
    assert [len(e) for e in narrow.generator.embeddings] == [n + 1 for n in OPEN[size]]
    step = Step.of(trainer.config)
    noise = np.random.default_rng(3).normal(size=(8, trainer.config.networks.noise_dim))
    labels, head = np.ones(8, np.int32), np.zeros(8, np.int32)

    @programs.quick_jit
    def run(state, capacity):
        masks = open_gates(trainer.config, state.generator.embeddings, *SETTLED)
        fake, _ = step.generate(state.generator, state.generator_statistics, masks, noise, head)
        return fake, step.generator_step(state, np.full(fake.shape, 0.3), labels, head, noise, SETTLED, capacity)

    with jax.enable_x64(True):
        fake, (after, metrics) = jax.device_get(run(state, capacity))
        fake_narrow, (narrow, narrow_metrics) = jax.device_get(run(narrow, narrow_capacity))
    assert fake.dtype == np.float64
    np.testing.assert_allclose(fake_narrow, fake, rtol=1e-10, atol=1e-12)
    for name in set(metrics) - {"generator_update_norm"}:  # In the wide one momentum still moves closed units.
        np.testing.assert_allclose(narrow_metrics[name], metrics[name], rtol=1e-9, err_msg=name)
    # The open units of both, and all that is not a unit's.
    (_, expected, _), put = _cut(trainer, after, capacity, size), units.put_back(narrow, state)
    _, actual, _ = _cut(trainer, put, capacity, size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-11), expected, actual)
    assert optax.tree_utils.tree_get(put.generator_optimiser, "count") == 8


@sizes
def test_what_is_closed_stays_where_it_was_bit_for_bit(size):
    trainer = _trainer(size)
    state, capacity = _begin(trainer, size)
    units, narrow, _ = _cut(trainer, state, capacity, size)
    checks.assert_equal_trees(units.put_back(narrow, state), state)
    changed = jax.tree.map(lambda a: a + 1, narrow)
    back = units.put_back(changed, state)
    opened = {nn.INPUT: np.ones(trainer.config.networks.noise_dim, bool)}
    for i, own in enumerate(units.units):
        opened[i] = is_open = np.isin(np.arange(WIDTHS[size][i] + 2), own)
        for name in ("scale", "shift"):
            now, then = (getattr(s.generator.norms[i], name) for s in (back, state))
            np.testing.assert_array_equal(now, np.where(is_open, then + 1, then))
        now, then = (s.generator_statistics[i].var for s in (back, state))
        np.testing.assert_array_equal(now, np.where(is_open, then + 1, then))
    for kernel, before, (source, target) in zip(
        back.generator.kernels, state.generator.kernels, trainer.networks.generator.ends, strict=True
    ):
        both = opened[source][:, None] & opened[target]
        np.testing.assert_array_equal(kernel[:, :, both], before[:, :, both] + 1)
        np.testing.assert_array_equal(kernel[:, :, ~both], before[:, :, ~both])
    heads, before = back.generator.heads, state.generator.heads
    np.testing.assert_array_equal(heads, np.where(opened[len(units.units) - 1][:, None], before + 1, before))
    np.testing.assert_array_equal(narrow.generator.embeddings[0][-1], -np.inf)  # Padding.


@sizes
def test_it_moves_to_the_smallest_shape_that_has_room_for_all_runs(size):
    trainer = _trainer(size)
    state, capacity = _begin(trainer, size)
    needed, present = OPEN[size], tuple(width + 2 for width in WIDTHS[size])
    roomy = tuple(n + 1 for n in needed)
    tight = tuple(n - 1 for n in needed)
    find = lambda *states, shapes: find_open_units(states, shapes, trainer.networks.generator)  # noqa: E731
    assert find(state, shapes=[present]) is None
    assert find(state, shapes=[tight]) is None
    assert find(state, shapes=[roomy, needed, tight])[0].physical == needed
    assert find(state, shapes=[tuple(2 * n for n in present)]) is None
    wider = jax.tree.map(np.copy, state)
    wider.generator.embeddings[0][:] = 1  # All open.
    assert find(state, wider, shapes=[roomy]) is None
    wider.generator.embeddings[0][: -roomy[0]] = -1
    assert [units.physical for units in find(state, wider, shapes=[roomy, needed])] == [roomy, roomy]


@pytest.mark.parametrize("changes", [{}, {"generator_average": 0.5}], ids=["last", "averaged"])
def test_a_task_goes_on_in_its_open_units(changes):
    """Trained from the same state with and without narrower arrays: equal to rounding."""
    ends, means = [], []
    for shapes in ([], [(6, 4)]):
        trainer = _trainer(16, **changes)
        state, capacity = _begin(trainer, 16)
        stream = small_runs.stream(trainer.config)
        stream.begin(1)
        pixels, labels = stream.train(1)
        replayed = np.random.default_rng(0).integers(0, 256, (2, *pixels.shape), np.uint8)
        counts = np.array([len(pixels), 0], np.int32)
        task = TaskTraining(
            trainer,
            [(state, capacity, TaskImages(pixels, labels, np.int32(len(pixels))))],
            [jax.random.key(1)],
            task=1,
            steps=3,
        )
        replay = trainer.stack_runs([ReplayedImages(replayed, np.zeros((2, len(pixels)), np.int32), counts)])
        trained = trainer._compiled
        for epoch in (1, 2):  # Masks settle in epoch 0.
            means.append(task.run_epoch(replay, epoch, shapes, lambda n: None))
        assert {widths for _, widths in trained} == ({(6, 4)} if shapes else {(14, 9)})
        (end,) = task.states()
        ends.append(jax.device_get(end))
    whole, narrow = ends
    (_, expected, _), (_, actual, _) = (_cut(trainer, end, capacity, 16) for end in ends)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-4), expected, actual)
    for (plain,), (cut,) in zip(means[:2], means[2:]):
        for name in set(plain) - {"generator_update_norm"}:
            assert cut[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"generator_average": 0.5}], ids=["last", "averaged"])
def test_interrupted_while_open_units_are_trained_is_uninterrupted(changes, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(training, "find_open_units", lambda *a: found.append(find_open_units(*a)) or found[-1])
    config = small_runs.small("dgma", image_size=8, generator_width=8, headroom=1, epochs=4, mask_share=0.5, **changes)
    folders = []
    for name, stop in (("whole", None), ("stopped", Stop("epoch end", 2, 2))):
        folders.append(tmp_path / name)
        if stop:
            with pytest.raises(KeyboardInterrupt):
                small_runs.fit(config, folders[-1], stop)
        small_runs.fit(config, folders[-1])
    assert found[2] is not None and found[-1] is not None  # Else nothing was shown.
    assert_same_results(*folders)
