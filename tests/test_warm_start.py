"""A warm start: which earlier task a new one begins as, and that it begins as that one indeed."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiled_once  # noqa: F401

from dgm_jax import nn
from dgm_jax.config import PRESETS
from dgm_jax.runs import run
from dgm_jax.training import warm_start
from dgm_jax.training.state import Clock
from dgm_jax.training.trainer import Trainer

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
    assert warm_start.likest(np.array(taken_for), LABELS, (4, 5), TASKS) == expected


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_asks_its_last_classifier(asked, tmp_path, monkeypatch):
    begun = []

    def begin(self, *args, like=(), **options):
        begun.append([own.classes for own in like])
        return original(self, *args, like=like, **options)

    original = Trainer.begin
    monkeypatch.setattr(Trainer, "begin", begin)
    monkeypatch.setattr(run, "likest", lambda taken_for, labels, classes, tasks: [tasks[0][0] for _ in classes])
    helpers.fit(helpers.small("dgmw", image_size=8, warm_start=asked), tmp_path)
    assert begun == ([[], [(0,)], [(0,)]] if asked else [[], [], []])


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
def test_a_task_begins_by_drawing_what_it_begins_as(variant):
    config = helpers.small(variant, image_size=8, warm_start=True, scale_lead=1)
    memory = helpers.finished(helpers.small(variant, image_size=8)).memories[-1]
    earlier = memory.class_alone(1)
    trainer = Trainer(config, jax.local_devices()[:1], channels=1, n_classes=len(helpers.LABELS), max_heads=1)
    state, _ = trainer.begin(
        *(jax.random.key(0), memory.kernels, memory.reserved),
        physical=memory.widths,
        classes=(2,),
        discriminator=None,
        like=[earlier],
    )
    step = trainer.step
    scales = step.scales(Clock(task=2, epoch=0, mask_epochs=trainer.mask_epochs, steps=3), jnp.int32(0))
    begun = step.masks(state.generator["embeddings"], *scales)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(32, config.networks.noise_dim)), jnp.float32)

    def drawn(masks):
        args = (state.generator, state.generator_statistics, masks, noise, jnp.zeros(32, int))
        return np.asarray(step.generator.generate(*args, train=False)[0])

    exact = drawn([nn.expand(mask, np.zeros(g.shape)) for mask, g in zip(earlier.masks, begun, strict=True)])
    half_open = drawn([jnp.full(g.shape, 0.5) for g in begun])
    assert np.std(exact) > 0.01
    assert np.abs(drawn(begun) - exact).mean() < 0.2 * np.abs(half_open - exact).mean()


BEST = [(name, variant) for name in PRESETS if name.startswith("best-") for variant in ("dgma", "dgmw")]


@pytest.mark.parametrize("epochs", [10, 30, 101])
@pytest.mark.parametrize("preset, variant", BEST)
def test_gates_begin_nearly_open_or_closed_at_every_budget(preset, variant, epochs):
    """In the first epoch whose slope can turn a gate."""
    config = PRESETS[preset][variant].with_changes(epochs=epochs)
    trainer = Trainer(config, jax.local_devices()[:1], channels=1, n_classes=10, max_heads=1)
    opened = np.arange(6) % 2 == 0
    clock = Clock(task=1, epoch=1 - config.gates.scale_lead, mask_epochs=trainer.mask_epochs, steps=10)
    begun = warm_start._embeddings(opened, trainer._first_slope)
    (gates,) = trainer.step.masks([begun], *trainer.step.scales(clock, jnp.int32(0)))
    np.testing.assert_allclose(np.where(opened, 1 - gates, gates), jax.nn.sigmoid(-4.0), rtol=1e-3)
