"""A task's training on random networks: what must not move, what padding must not do, what growth must leave alone."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import checks, programs, small_runs
from support.marks import slow_but

from dgm_jax import nn
from dgm_jax.nn import platforms
from dgm_jax.training import task as tasks
from dgm_jax.training.epoch import ReplayedImages, TaskImages
from dgm_jax.training.gates import open_gates
from dgm_jax.training.shapes import physical_widths
from dgm_jax.training.state import init_optimiser
from dgm_jax.training.step import Step

variants = pytest.mark.parametrize("variant", ["dgma", "dgmw"])
EPOCHS = 34  # Of three steps.


def _trainer(variant, size, precision="float32", **changes):
    """`size` is that of the images, or "resnet", or "vectors"."""
    changes = {"epochs": EPOCHS, "precision": precision} | changes
    if size == "vectors":
        config = small_runs.vectors(variant, **changes)
    elif size == "resnet":
        config = small_runs.residual(variant, **changes)
    else:
        config = small_runs.small(variant, image_size=size, **changes)
    return small_runs.trainer(config, channels=64 if size == "vectors" else 1)


def _begin(trainer, seed=0):
    """Task 1 of a random network that earlier tasks have grown and half reserved."""
    rng = np.random.default_rng(seed)
    widths = [first + 2 for first in trainer.networks.first_widths]
    shapes = trainer.networks.generator.kernel_shapes(widths, trainer.config.networks.noise_dim)
    kernels = [rng.normal(0, 0.2, shape).astype(np.float32) for shape in shapes]
    reserved = [
        rng.permutation(np.arange(np.prod(s)) % 2 == 0).reshape(s) for s in trainer.networks.mask_shapes(widths)
    ]
    state, capacity = tasks.begin_task(
        trainer.networks,
        jax.random.key(seed),
        kernels,
        reserved,
        physical=_physical(trainer, widths),
        classes=(1,),
        discriminator=None,
    )
    return widths, kernels, reserved, trainer.stack_runs([state]), trainer.stack_runs([capacity])


def _physical(trainer, widths):
    return physical_widths([trainer.networks.first_widths, widths], headroom=trainer.config.gates.headroom, n_tasks=3)


def _images(trainer, seed=0):
    """Real digits of class 1, and something replayed of class 0."""
    stream = small_runs.stream(trainer.config)
    stream.begin(1)
    pixels, labels = stream.train(1)
    random = np.random.default_rng(seed)
    replayed = random.integers(0, 256, (2, *pixels.shape), np.uint8)
    if stream.scale is not None:
        replayed = random.normal(size=replayed.shape).astype(np.float32)
    return (
        trainer.stack_runs([TaskImages(pixels, labels, np.int32(len(pixels)))]),
        trainer.stack_runs(
            [ReplayedImages(replayed, np.zeros((2, len(pixels)), np.int32), np.array([len(pixels), 0], np.int32))]
        ),
    )


def _corner(array, like):
    return array[tuple(slice(0, n) for n in np.shape(like))]


def _surplus(array, like):
    """The entries of a padded array that lie outside its logical corner."""
    outside = np.ones(array.shape, bool)
    _corner(outside, like)[...] = False
    return array[outside]


@pytest.fixture(
    scope="module",
    params=slow_but(
        [
            *((v, s) for v in ("dgma", "dgmw") for s in (8, 16, "resnet", "vectors")),
            *((v, 16, "bf16", platform) for v in ("dgma", "dgmw") for platform in ("cpu", "cuda", "tpu")),
        ],
        *[("dgma", 8), ("dgmw", 16), ("dgma", "resnet"), ("dgmw", "resnet"), ("dgmw", 16, "bf16", "cuda")],
        ("dgmw", "vectors"),
    ),
    ids=lambda p: "-".join(map(str, p)),
)
def trained(request):
    """(what it began with, the state on the host before, a copy of that, and after a hundred real steps).

    In the forms of a platform: that of the tests, unless another is named.
    """
    with platforms.compiled_for(*request.param[3:] or ["cpu"]):
        return _trained(*request.param[:3])


def _trained(*chosen):
    trainer = _trainer(*chosen)
    widths, kernels, reserved, state, capacity = _begin(trainer)
    data, replay = _images(trainer)
    before = jax.device_get(state)
    copy = jax.tree.map(np.copy, before)
    for epoch in range(EPOCHS):
        state, (means,) = trainer.run_epoch(
            state, data, replay, capacity, [jax.random.key(1)], task=1, epoch=epoch, steps=3, on_steps=lambda n: None
        )
        assert all(np.isfinite(value) for value in means.values()), means
    return trainer, (widths, kernels, reserved), before, copy, jax.device_get(state)


def test_protected_weights_do_not_move_in_100_steps(trained):
    trainer, (_, kernels, reserved), _, _, after = trained
    assert optax.tree_utils.tree_get(after.generator_optimiser, "count") >= 100
    factors = nn.multipliers([jnp.asarray(mask) for mask in reserved], kernels, trainer.networks.generator.ends)
    for old, new, factor in zip(kernels, after.generator.kernels, factors, strict=True):
        new = _corner(new, old)
        protected = np.broadcast_to(np.asarray(factor) == 0, old.shape)
        assert 0.1 < protected.mean() < 0.9
        assert old[protected].tobytes() == new[protected].tobytes()
        assert (
            np.mean(old[~protected] != new[~protected]) > 0.5
        )  # All but those that read the one-hot of other classes.


def test_padding_stays_exactly_as_it_was_in_100_steps(trained):
    trainer, (widths, kernels, reserved), _, _, after = trained
    g = after.generator
    moments = [optax.tree_utils.tree_get(after.generator_optimiser, part) for part in ("mu", "nu")]
    assert list(_physical(trainer, widths)) > widths
    for i, kernel in enumerate(kernels):
        assert not np.any(_surplus(g.kernels[i], kernel))
        assert not any(np.any(_surplus(moment.kernels[i], kernel)) for moment in moments)
    for i, mask in enumerate(reserved):
        assert np.all(_surplus(g.embeddings[i], mask) == -np.inf)
        assert np.all(np.isfinite(_corner(g.embeddings[i], mask)))
        for moment in moments:  # Every gradient was exactly 0.
            assert not np.any(_surplus(moment.embeddings[i], mask))
            assert np.any(_corner(moment.embeddings[i], mask))
    for i, width in enumerate(widths):
        unit = np.zeros(width)
        assert np.all(_surplus(g.norms[i].scale, unit) == 1) and not np.any(_surplus(g.norms[i].shift, unit))
        assert not np.any(_surplus(after.generator_statistics[i].mean, unit))
        for moment in moments:
            for part in ("scale", "shift"):
                assert not np.any(_surplus(getattr(moment.norms[i], part), unit))
    heads = np.zeros((*g.heads.shape[:3], widths[-1], g.heads.shape[4]))
    assert not np.any(_surplus(g.heads, heads)) and not np.any(_surplus(moments[0].heads, heads))


def test_what_the_host_holds_is_not_overwritten(trained):
    *_, before, copy, _ = trained  # The state was donated to the steps after it was copied to the host.
    checks.assert_equal_trees(before, copy)


def test_freezing_cuts_the_padding_off(trained):
    trainer, (widths, kernels, reserved), _, _, after = trained
    frozen_kernels, own = tasks.freeze(trainer.networks, after, widths, classes=(1,))
    assert [k.shape for k in frozen_kernels] == [k.shape for k in kernels]
    assert [m.shape for m in own.masks] == [r.shape for r in reserved]
    assert all(mask.dtype == bool for mask in own.masks)
    k = trainer.networks.generator.output.window
    assert own.heads.shape == (1, k, k, widths[-1], trainer.networks.channels)
    assert [norm.scale.shape for norm in own.norms] == [(width,) for width in widths]


@variants
def test_what_is_drawn_with_is_the_average_but_for_what_is_reserved(variant):
    """The average of a weight that stands still is that weight, bit for bit: old memories do not drift."""
    trainer = _trainer(variant, 8, generator_average=0.9)
    widths, kernels, reserved, state, capacity = _begin(trainer)
    data, replay = _images(trainer)
    for epoch in range(2):
        state, _ = trainer.run_epoch(
            state, data, replay, capacity, [jax.random.key(1)], task=1, epoch=epoch, steps=3, on_steps=lambda n: None
        )
    after = jax.device_get(state)
    frozen_kernels, own = tasks.freeze(trainer.networks, after, widths, classes=(1,))
    blocked = nn.multipliers(reserved, kernels, trainer.networks.generator.ends)
    for old, new, last, multiplier in zip(kernels, frozen_kernels, after.generator.kernels, blocked, strict=True):
        still = np.broadcast_to(np.asarray(multiplier) == 0, old.shape)
        assert still.any() and old[still].tobytes() == new[still].tobytes()
        assert np.all((new != _corner(last, new))[~still & (np.abs(new - old) > 1e-6)])
    for norm, last in zip(own.norms, after.generator.norms, strict=True):
        assert np.any(norm.scale != last.scale[: len(norm.scale)])


def test_the_critic_is_told_the_class_where_a_task_has_several():
    config = small_runs.small("dgma", image_size=8, critic_condition="projection")
    told = {}
    for n in (1, 2):
        trainer = small_runs.trainer(config, max_heads=n)
        told[n] = jax.device_get(_begin(trainer)[3].discriminator)
    assert told[2].projection.shape == (2, len(told[2].critic.kernel))
    chex.assert_trees_all_equal(told[1], dataclasses.replace(told[2], projection=None))


@pytest.mark.parametrize(
    "paced, slope",
    [  # Of 100 at most, in 34 epochs.
        ({}, 0.01 + (100 - 0.01) / 34),
        ({"scale_lead": 2}, 0.01 + (100 - 0.01) / 17),
    ],
)
@variants
def test_a_warm_start_takes_norms_output_layers_and_masks_of_earlier_classes(variant, paced, slope):
    beginning = 4 / slope
    trainer = _trainer(variant, 8, **paced)
    widths, kernels, reserved, *_ = _begin(trainer)
    memory = small_runs.finished(small_runs.small(variant, image_size=8)).memories[-1]
    like = memory.modes_of(1)
    grown = [max(a, b) for a, b in zip(widths, memory.widths, strict=True)]
    rng = np.random.default_rng(0)
    shapes = trainer.networks.generator.kernel_shapes(grown, trainer.config.networks.noise_dim)
    kernels = [rng.normal(0, 0.2, shape).astype(np.float32) for shape in shapes]
    reserved = [np.zeros(shape, bool) for shape in trainer.networks.mask_shapes(grown)]
    state, _ = tasks.begin_task(
        trainer.networks,
        jax.random.key(0),
        kernels,
        reserved,
        physical=grown,
        classes=(2,),
        discriminator=None,
        similar=like,
    )
    (own,) = like
    np.testing.assert_array_equal(_corner(state.generator.heads, own.heads), own.heads)
    for norm, running, old, was in zip(
        state.generator.norms, state.generator_statistics, own.norms, own.statistics, strict=True
    ):
        width = len(old.scale)
        np.testing.assert_array_equal(norm.scale[:width], old.scale)
        np.testing.assert_array_equal(running.var[:width], was.var)
        assert np.all(norm.scale[width:] == 1) and np.all(running.var[width:] == 1)
    for embedding, mask in zip(state.generator.embeddings, own.masks, strict=True):
        corner = _corner(embedding, mask)
        np.testing.assert_allclose(corner[mask], beginning, rtol=1e-6)
        np.testing.assert_allclose(corner[~mask], -beginning, rtol=1e-6)
        grown_since = _surplus(embedding, mask)
        np.testing.assert_allclose(grown_since, -beginning, rtol=1e-6)


@variants
def test_growth_keeps_old_weights_in_place(variant):
    trainer = _trainer(variant, 16)
    _, kernels, reserved, *_ = _begin(trainer)
    newly = [2, 1] if variant == "dgma" else [16 * trainer.config.networks.noise_dim + 1, 1]
    grown, masks = tasks.grow(trainer.networks, jax.random.key(2), kernels, reserved, newly)
    assert grown[0].shape[-1] == kernels[0].shape[-1] + 2
    for old, new, was, mask in zip(kernels, grown, reserved, masks, strict=True):
        assert _corner(new, old).tobytes() == old.tobytes()
        assert np.any(_surplus(new, old)) or new.shape == old.shape
        np.testing.assert_array_equal(_corner(mask, was), was)
        assert not np.any(_surplus(mask, was))
    assert [m.shape for m in masks] == [tuple(s) for s in trainer.networks.mask_shapes([k.shape[-1] for k in grown])]


@pytest.mark.parametrize(
    "variant, newly, gained",
    [
        ("dgma", [2, 0, 3], [2, 0, 3]),
        # Each unit brings 8 * 16, 5 * 9, (5 + 2) * 9 and 5 weights: the shortcut needs most.
        ("dgmw", [0, 46, 64, 13], [0, 2, 3]),
        ("dgmw", [0, 46, 127, 1], [0, 2, 1]),  # Two new inputs bring 90 of these, a unit 63.
    ],
)
def test_both_branches_of_a_block_grow_to_one_width(variant, newly, gained):
    trainer = _trainer(variant, "resnet")
    widths, kernels, reserved, *_ = _begin(trainer)
    assert list(widths) == [5, 5, 5] and trainer.config.networks.noise_dim == 8
    grown, masks = tasks.grow(trainer.networks, jax.random.key(2), kernels, reserved, newly)
    first, hidden, last = (width + more for width, more in zip(widths, gained))
    assert [k.shape for k in grown] == [
        (4, 4, 8, first),
        (3, 3, first, hidden),
        (3, 3, hidden, last),
        (1, 1, first, last),
    ]
    assert [m.shape for m in masks] == [tuple(s) for s in trainer.networks.mask_shapes([first, hidden, last])]
    for old, new in zip([*kernels, *reserved], [*grown, *masks], strict=True):
        np.testing.assert_array_equal(_corner(new, old), old)


def _one_generator_step(config, state, capacity, noise):
    """In float64: the images it judged, its metrics, the new parameters, and the gradients (as Adam's first moment)."""
    step = Step.of(config)
    labels, head = np.ones(8, np.int32), np.zeros(8, np.int32)

    @programs.quick_jit
    def run(state, capacity, noise, scales):
        masks = open_gates(config, state.generator.embeddings, *scales)
        fake, _ = step.generate(state.generator, state.generator_statistics, masks, noise, head)
        return fake, step.generator_step(state, jnp.full_like(fake, 0.3), labels, head, noise, scales, capacity)

    with jax.enable_x64(True):
        fake, (after, metrics) = jax.device_get(run(state, capacity, noise, (jnp.float64(3), jnp.float64(5))))
    assert fake.dtype == np.float64
    return fake, metrics, after.generator, optax.tree_utils.tree_get(after.generator_optimiser, "mu")


@pytest.mark.parametrize(
    "variant, size",
    [("dgma", 8), ("dgmw", 16), ("dgma", "resnet"), ("dgmw", "resnet"), ("dgma", "vectors")],
)
def test_padding_contributes_nothing(variant, size):
    """The same generator step at two paddings: equal where both have entries, exactly 0 where one is padding."""
    results = []
    for headroom in (1, 4):
        trainer = _trainer(variant, size, headroom=headroom)
        widths, *_, state, capacity = _begin(trainer)
        state, capacity = jax.tree.map(
            lambda a: np.asarray(a, np.float64 if a.dtype == np.float32 else a.dtype), (state, capacity)
        )
        rng = np.random.default_rng(3)
        for e, shape in zip(state.generator.embeddings, trainer.networks.mask_shapes(widths)):
            e[tuple(slice(0, n) for n in shape)] = rng.normal(0, 0.5, shape)
        noise = rng.normal(size=(8, trainer.config.networks.noise_dim))
        results.append(_one_generator_step(trainer.config, state, capacity, noise))
    (fake, metrics, tight, tight_gradient), (fake_wide, metrics_wide, wide, wide_gradient) = results
    np.testing.assert_allclose(fake_wide, fake, rtol=1e-9, atol=1e-12)
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_wide[name], value, rtol=1e-9, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(_corner(b, a), a, rtol=1e-9, atol=1e-10), tight, wide)
    for a, b in zip(jax.tree.leaves(tight_gradient), jax.tree.leaves(wide_gradient), strict=True):
        np.testing.assert_allclose(_corner(b, a), a, rtol=1e-9, atol=1e-12)
        assert not np.any(_surplus(b, a))
        assert b.shape != a.shape


@variants
def test_a_mask_that_is_settled_stays(variant):
    """In the last part of a task's epochs masks are binary and only weights learn."""
    trainer = _trainer(variant, 8, epochs=2, mask_share=0.5)
    *_, state, capacity = _begin(trainer)
    data, replay = _images(trainer)
    embeddings = []
    for epoch in range(2):
        state, _ = trainer.run_epoch(
            state, data, replay, capacity, [jax.random.key(1)], task=1, epoch=epoch, steps=3, on_steps=lambda n: None
        )
        embeddings.append(jax.tree.map(np.copy, jax.device_get(state.generator.embeddings)))
    assert np.any(embeddings[0][0] != 0)
    checks.assert_equal_trees(*embeddings)


def test_how_an_epoch_is_cut_into_calls_changes_nothing():
    trainer = _trainer("dgma", 8)
    data, replay = _images(trainer)
    results = []
    for calls in ([(0, 1), (1, 2), (2, 3)], [(0, 3)], [(0, 2), (2, 3)]):
        *_, state, capacity = _begin(trainer)
        trainer._calls = lambda kind, start, steps, calls=calls: iter(calls)
        done = []
        state, (means,) = trainer.run_epoch(
            state, data, replay, capacity, [jax.random.key(1)], task=1, epoch=1, steps=3, on_steps=done.append
        )
        assert done == [stop - start for start, stop in calls]
        results.append((jax.device_get(state), {name: np.float64(value) for name, value in means.items()}))
    for other in results[1:]:
        checks.assert_equal_trees(results[0], other)


@pytest.mark.parametrize("gate_gradient", ["closed", "product"])
def test_a_fresh_optimiser_is_optax_s_own(gate_gradient):
    """It is made on the host, from shapes alone: right for as long as optimisers start at zero."""
    trainer = _trainer("dgma", 8, gate_gradient=gate_gradient)
    *_, state, _ = _begin(trainer)
    optimisers = trainer.step.optimisers
    for optimiser, params in ((optimisers.generator, state.generator), (optimisers.discriminator, state.discriminator)):
        checks.assert_equal_trees(init_optimiser(optimiser, params), jax.device_get(optimiser.init(params)))
