"""A warm start: which earlier task a new one begins as, and that it begins as that one indeed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import presets, small_runs
from support.marks import slow_but

from dgm_jax import nn
from dgm_jax.methods import dgm
from dgm_jax.training import task as tasks
from dgm_jax.training import warm_start
from dgm_jax.training.gates import open_gates, slopes
from dgm_jax.training.state import Clock

LABELS = np.array([4, 5, 4, 4, 5, 5])
TASKS = ((0, 1), (2, 3))


@pytest.mark.parametrize(
    "taken_for, expected",
    [
        ([0, 1, 0, 0, 1, 1], [0, 1]),
        ([3, 3, 3, 3, 3, 3], [3, 3]),
        ([3, 0, 3, 3, 0, 2], [3, 2]),  # Most images of both together look like classes 2 and 3.
        ([3, 1, 0, 0, 0, 0], [0, 0]),
    ],
)
def test_all_begin_as_classes_of_the_task_that_most_images_look_like(taken_for, expected):
    assert warm_start.most_similar_classes(np.array(taken_for), LABELS, (4, 5), TASKS) == expected


@pytest.mark.parametrize("asked", slow_but([True, False], True))
def test_a_run_asks_its_last_classifier(asked, tmp_path, monkeypatch):
    begun = []

    def begin(*args, similar=(), **options):
        begun.append([own.classes for own in similar])
        return original(*args, similar=similar, **options)

    original = tasks.begin_task
    monkeypatch.setattr(tasks, "begin_task", begin)
    most_similar = lambda predicted, labels, classes, earlier: [earlier[0][0] for _ in classes]  # noqa: E731
    monkeypatch.setattr(dgm, "most_similar_classes", most_similar)
    small_runs.fit(small_runs.small("dgmw", image_size=8, warm_start=asked), tmp_path)
    assert begun == ([[], [(0,)], [(0,)]] if asked else [[], [], []])


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
def test_a_task_begins_by_drawing_what_it_begins_as(variant):
    config = small_runs.small(variant, image_size=8, warm_start=True, scale_lead=1)
    memory = small_runs.finished(small_runs.small(variant, image_size=8)).memories[-1]
    (earlier,) = memory.modes_of(1)
    trainer = small_runs.trainer(config)
    state, _ = tasks.begin_task(
        trainer.networks,
        jax.random.key(0),
        memory.kernels,
        memory.reserved,
        physical=memory.widths,
        classes=(2,),
        discriminator=None,
        similar=[earlier],
    )
    step = trainer.step
    clock = Clock(task=2, epoch=0, mask_epochs=trainer.networks.mask_epochs, steps=3)
    begun = open_gates(config, state.generator.embeddings, *slopes(config, clock, jnp.int32(0)))
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(32, config.networks.noise_dim)), jnp.float32)

    def drawn(masks):
        args = (state.generator, state.generator_statistics, masks, noise, jnp.zeros(32, int))
        return np.asarray(step.generator.generate(*args, train=False)[0])

    exact = drawn([nn.expand(mask, np.zeros(g.shape)) for mask, g in zip(earlier.masks, begun, strict=True)])
    half_open = drawn([jnp.full(g.shape, 0.5) for g in begun])
    assert np.std(exact) > 0.01
    assert np.abs(drawn(begun) - exact).mean() < 0.2 * np.abs(half_open - exact).mean()


BEST = [(f"best-{name}", variant) for name in presets.SHOWN for variant in ("dgma", "dgmw")]


@pytest.mark.parametrize("epochs", [10, 30, 101])
@pytest.mark.parametrize("preset, variant", BEST)
def test_gates_begin_nearly_open_or_closed_at_every_budget(preset, variant, epochs):
    """In the first epoch whose slope can turn a gate."""
    config = presets.config(preset, variant).with_changes(epochs=epochs)
    trainer = small_runs.trainer(config, n_classes=10)
    opened = np.arange(6) % 2 == 0
    clock = Clock(task=1, epoch=1 - config.gates.scale_lead, mask_epochs=trainer.networks.mask_epochs, steps=10)
    begun = warm_start._embeddings(opened, tasks.first_slope(trainer.networks))
    (gates,) = open_gates(config, [begun], *slopes(config, clock, jnp.int32(0)))
    np.testing.assert_allclose(np.where(opened, 1 - gates, gates), jax.nn.sigmoid(-4.0), rtol=1e-3)
