"""The residual pair: against the same networks spelt out with XLA's own operations, closed gates, growth, gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support import checks, programs, small_runs

from dgm_jax import Memory, nn
from dgm_jax.memory.task import TaskMemory
from dgm_jax.models import dcgan, resnet
from dgm_jax.training.losses import gradient_penalty
from dgm_jax.types import GeneratorParams, Norm, Statistics

NOISE = 6
CASES = [(8, (4, 3, 5), 1, 1), (16, (3, 5, 2, 4, 3), 3, 2)]  # Size, widths, channels, heads.
LARGE = (64, (3, 2, 4, 3, 2, 4, 3, 2, 3), 3, 1)
cases = pytest.mark.parametrize("size, widths, channels, n_heads", CASES)
large_ones_too = pytest.mark.parametrize("size, widths, channels, n_heads", [*CASES, LARGE])
variants = pytest.mark.parametrize("variant", ["dgma", "dgmw"])


def _random_generator(variant, size, widths, channels, n_heads):
    rng = np.random.default_rng(size)
    generator = resnet.generator(size)
    params = GeneratorParams(
        kernels=[rng.normal(0, 0.5, s).astype(np.float32) for s in generator.kernel_shapes(widths, NOISE)],
        norms=[
            # Few units are dead, or nothing of so narrow a network would be left.
            Norm(scale=rng.normal(size=w).astype(np.float32), shift=rng.uniform(0.2, 2, w).astype(np.float32))
            for w in widths
        ],
        heads=rng.normal(size=(n_heads, 3, 3, widths[-1], channels)).astype(np.float32),
    )
    statistics = [
        Statistics(mean=rng.normal(size=w).astype(np.float32), var=rng.uniform(0.5, 2, w).astype(np.float32))
        for w in widths
    ]
    masks = [rng.random(shape) < 0.6 for shape in generator.mask_shapes(variant, widths, NOISE)]
    for mask in masks:
        mask[(0,) * mask.ndim] = True
    noise = rng.normal(size=(5, NOISE)).astype(np.float32)
    return params, statistics, masks, noise, rng.integers(0, n_heads, 5), rng


# ---- spelt out ----


@pytest.fixture(autouse=True)
def spelt_out_as_one_would():
    with jax.numpy_rank_promotion("allow"):
        yield


def _conv(x, kernel, stride=1):
    layout = ("NHWC", "HWIO", "NHWC")
    border = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(border, border)] * 2, dimension_numbers=layout)


def _norm(x, own, running, train):
    axes = tuple(range(x.ndim - 1))
    mean, var = (jnp.mean(x, axes), jnp.var(x, axes)) if train else (running.mean, running.var)
    return (x - mean) / jnp.sqrt(var + 1e-5) * own.scale + own.shift


def _spelt_out(params, statistics, masks, noise, head, variant, train):
    """DGMw masks the kernels of each block: first, second, shortcut. DGMa masks what a layer emits."""
    kernels = [k * m for k, m in zip(params.kernels, masks)] if variant == "dgmw" else params.kernels
    gates = [1] * len(statistics) if variant == "dgmw" else masks

    def layer(i, x):
        return jax.nn.relu(_norm(x, params.norms[i], statistics[i], train)) * gates[i]

    x = layer(0, jnp.einsum("bi,hwio->bhwo", noise, kernels[0]))
    for block in range(len(statistics) // 2):
        first, second, shortcut = kernels[1 + 3 * block : 4 + 3 * block]
        up = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        hidden = layer(2 * block + 1, _conv(up, first))
        x = layer(2 * block + 2, _conv(hidden, second) + _conv(up, shortcut))
    return jnp.tanh(jnp.concatenate([_conv(x[i : i + 1], params.heads[h]) for i, h in enumerate(head)]))


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@variants
@cases
def test_it_generates_as_spelt_out(variant, size, widths, channels, n_heads, train):
    params, statistics, masks, noise, head, _ = _random_generator(variant, size, widths, channels, n_heads)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, statistics, noise))
        gates = [jnp.asarray(m, jnp.float64) for m in masks]

        def total(generate):
            def weighted(params):
                images = generate(params)
                return jnp.sum(images * jnp.cos(jnp.arange(images.size)).reshape(images.shape)), images

            return jax.value_and_grad(weighted, has_aux=True)(wide[0])

        @programs.quick_jit
        def both():
            ours = total(lambda p: resnet.generator(size).generate(p, wide[1], gates, wide[2], head, train=train)[0])
            theirs = total(lambda p: _spelt_out(p, wide[1], gates, wide[2], head, variant, train))
            return ours, theirs

        ((_, images), gradients), ((_, expected), expected_gradients) = jax.device_get(both())
    assert images.shape == (5, size, size, channels) and images.dtype == np.float64
    np.testing.assert_allclose(images, expected, rtol=1e-9, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), gradients, expected_gradients)


@variants
@cases
def test_what_a_closed_gate_hides_has_no_effect(variant, size, widths, channels, n_heads):
    params, statistics, masks, noise, head, rng = _random_generator(variant, size, widths, channels, n_heads)
    generator = resnet.generator(size)

    @programs.quick_jit
    def draw(params, statistics):
        gates = [jnp.asarray(mask) for mask in masks]

        def total(params):
            images, _ = generator.generate(params, statistics, gates, noise, head, train=False)
            return jnp.sum(images * jnp.cos(jnp.arange(images.size)).reshape(images.shape)), images

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, images), gradients = draw(params, statistics)
    changed, other = jax.tree.map(np.copy, (params, statistics))
    for i, (source, target) in enumerate(generator.ends):
        if variant == "dgmw":
            hidden = ~masks[i]
        else:
            below = np.zeros(NOISE, bool) if source == nn.INPUT else ~masks[source]
            hidden = np.broadcast_to(below[:, None] | ~masks[target], changed.kernels[i].shape)
        changed.kernels[i][hidden] += rng.normal(0, 100, hidden.sum())
        assert np.any(hidden) and not np.any(gradients.kernels[i][hidden])
    if variant == "dgma":
        for i, mask in enumerate(masks):
            for part in jax.tree.leaves((changed.norms[i], other[i])):
                part[~mask] += 100
            assert not any(np.any(part[~mask]) for part in jax.tree.leaves(gradients.norms[i]))
        changed.heads[..., ~masks[-1], :] += 100
    (_, same), _ = draw(changed, other)
    assert np.any(images != 0)
    np.testing.assert_array_equal(images, same)


@large_ones_too
def test_closed_units_emit_exactly_nothing(size, widths, channels, n_heads):
    """Whatever the shortcut brings."""
    params, statistics, masks, noise, head, _ = _random_generator("dgma", size, widths, channels, n_heads)
    masks[-1] = np.zeros_like(masks[-1])
    generate = programs.quick_jit(resnet.generator(size).generate, static_argnames="train")
    for train in (True, False):
        images, _ = generate(params, statistics, masks, noise, head, train=train)
        assert not np.any(images)  # The tanh of an output layer that saw nothing but 0.


# ---- growth ----


@variants
@large_ones_too
def test_growth_and_new_weights_change_no_old_image(variant, size, widths, channels, n_heads):
    """A random task's images, bit for bit, after the network has grown and everything that is free has changed."""
    params, statistics, masks, _, _, rng = _random_generator(variant, size, widths, channels, n_heads)
    generator = resnet.generator(size)
    classes = tuple(range(n_heads))
    task = TaskMemory(classes, tuple(widths), masks, params.norms, statistics, params.heads, n_conditioned=n_heads)
    names = tuple(map(str, classes))
    memory = Memory(
        params.kernels, masks, (task,), NOISE, labels=classes, names=names, image_size=size, network="resnet"
    )
    before = small_runs.draw_all(memory)
    grown = [w + int(more) for w, more in zip(widths, rng.integers(0, 4, len(widths)))]
    free = nn.multipliers([jnp.asarray(m) for m in masks], params.kernels, generator.ends)
    kernels = []
    for kernel, factor, shape in zip(params.kernels, free, generator.kernel_shapes(grown, NOISE), strict=True):
        wide = rng.normal(size=shape).astype(np.float32)
        moved = np.asarray(factor) * rng.normal(size=kernel.shape).astype(np.float32)
        kernels.append(nn.expand(kernel + moved, wide))
    assert any(k.shape != old.shape for k, old in zip(kernels, params.kernels))
    checks.assert_equal_trees(small_runs.draw_all(dataclasses.replace(memory, kernels=kernels)), before)

    # And they are the images of the whole network, masked.
    for index in classes:
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(index)))(jnp.arange(small_runs.Watch.N))
        drawn = jax.vmap(lambda key: jax.random.normal(key, (1, NOISE - n_heads))[0])(keys)
        noise = jnp.concatenate([jnp.tile(jnp.eye(n_heads)[index], (small_runs.Watch.N, 1)), drawn], axis=1)
        head = np.full(small_runs.Watch.N, index)
        expected = _spelt_out(params, statistics, masks, noise, head, variant, train=False)
        np.testing.assert_allclose(before[index], expected, atol=4e-5)  # Rounding, through up to nine layers.


# ---- the discriminator ----


def _random_discriminator(size, channels):
    params, statistics = resnet.init_discriminator(
        jax.random.key(0), width=2, image_size=size, channels=channels, n_classes=4
    )
    rng = np.random.default_rng(size)
    params = jax.tree.map(lambda a: a + rng.normal(0, 0.1, a.shape), params)
    return params, jax.tree.map(lambda a: a + rng.uniform(0, 0.5, a.shape), statistics), rng


def _judged(params, statistics, images, train):
    """Spelt out."""
    remaining = list(statistics)

    def norm(layer, x):
        return _norm(x, layer["norm"], remaining.pop(0), train)

    x = jax.nn.relu(norm(params.trunk["stem"], _conv(images, params.trunk["stem"]["kernel"])))
    for number, block in enumerate(params.trunk["blocks"]):
        stride = 2 if number in (2, 4, 6) else 1
        main = jax.nn.relu(norm(block["first"], _conv(x, block["first"]["kernel"], stride)))
        main = norm(block["second"], _conv(main, block["second"]["kernel"]))
        if stride == 2:
            x = norm(block["shortcut"], x[:, ::2, ::2] @ block["shortcut"]["kernel"][0, 0])
        x = jax.nn.relu(main + x)
    features = jax.nn.relu(norm(params.trunk["features"], x.mean((1, 2)) @ params.trunk["features"]["kernel"]))
    return tuple(features @ head.kernel + head.bias for head in (params.critic, params.classifier))


@pytest.mark.parametrize("size, channels", [(8, 1), (16, 3)])
def test_it_judges_as_spelt_out(size, channels):
    """Values and gradients, the penalty's gradient of a gradient among them, in float64."""
    params, statistics, rng = _random_discriminator(size, channels)
    images, weights = rng.normal(size=(6, size, size, channels)), rng.normal(size=(6, 4))
    with jax.enable_x64(True):

        def loss(judge):
            def terms(params):
                (critic, logits), (still_critic, still_logits) = (
                    judge(params, images, True),
                    judge(params, images, False),
                )
                penalty, _ = gradient_penalty(lambda x: (jnp.sum(judge(params, x, True)[0]), None), images)
                return penalty + jnp.sum(logits * weights) + jnp.sum(jnp.tanh(still_logits * weights)), (
                    critic,
                    still_critic,
                    logits,
                )

            return jax.value_and_grad(terms, has_aux=True)(params)

        def ours(params, images, train):
            output, _ = resnet.discriminate(params, statistics, images, train=train)
            return output.critic[:, None], output.logits

        run = programs.quick_jit(lambda: (loss(ours), loss(lambda p, x, train: _judged(p, statistics, x, train))))
        actual, expected = jax.device_get(run())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), actual, expected)


@pytest.mark.parametrize("size, stages", [(8, 2), (32, 4), (64, 5)])
def test_initial_networks(size, stages):
    params, statistics = resnet.init_discriminator(
        jax.random.key(0), width=64, image_size=size, channels=3, n_classes=50
    )
    convolutions = 1 + sum(len(block) for block in params.trunk["blocks"])
    assert len(params.trunk["blocks"]) == 2 * stages and len(statistics) == convolutions + 1
    if size == 32:  # ResNet-18: 17 convolutions and 3 shortcuts, 11.2 million weights; 128 features.
        assert convolutions == 20
        kernels = [leaf for leaf in jax.tree.leaves(params.trunk["blocks"]) if leaf.ndim == 4]
        assert 11.1e6 < sum(k.size for k in kernels) + params.trunk["stem"]["kernel"].size < 11.3e6
        assert params.trunk["features"]["kernel"].shape == (512, 128)
        assert resnet.generator_widths(64, 32) == (64,) * 7
        shapes = resnet.generator(32).kernel_shapes((64,) * 7, 128)
        assert shapes == [(4, 4, 128, 64), *[(3, 3, 64, 64), (3, 3, 64, 64), (1, 1, 64, 64)] * 3]
    images = jax.ShapeDtypeStruct((3, size, size, 3), np.float32)
    output, after = jax.eval_shape(lambda x: resnet.discriminate(params, statistics, x, train=True), images)
    assert output.critic.shape == (3,) and output.logits.shape == (3, 50) and output.features.shape == (3, 128)
    assert jax.tree.structure(after) == jax.tree.structure(statistics)
    for layer in (params.trunk["stem"], params.trunk["blocks"][0]["first"], params.trunk["features"]):
        assert np.std(layer["kernel"]) == pytest.approx(np.sqrt(2 / layer["kernel"][..., 0].size), rel=0.1)


def test_counted_arithmetic_is_that_of_the_program():
    """XLA's own count of a forward pass, whose products dominate."""
    size, widths = 16, (16,) * 5
    generator = resnet.generator(size)
    kernels = generator.init_kernels(jax.random.key(0), widths, 32)
    params = GeneratorParams(kernels, *generator.init_task(jax.random.key(1), widths, 3, 1))
    statistics = generator.init_statistics(widths)
    judge, judged = resnet.init_discriminator(jax.random.key(0), width=16, image_size=size, channels=3, n_classes=4)

    def flops(function, *arguments):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    noise, head, images = jnp.zeros((1, 32)), jnp.zeros(1, jnp.int32), jnp.zeros((1, size, size, 3))
    drawn = flops(lambda z: generator.generate(params, statistics, [None] * 7, z, head, train=False)[0], noise)
    assert drawn == pytest.approx(generator.flops(widths, 32, 3), rel=0.1)
    told = flops(lambda x: resnet.discriminate(judge, judged, x, train=False)[0], images)
    assert told == pytest.approx(resnet.discriminator_flops(16, size, 3), rel=0.1)


def test_the_arithmetic_of_the_discriminator_by_hand():
    """The stem, then two blocks a stage: 8x8 maps of 3 channels, then 4x4 maps of 6 behind a shortcut."""
    stem = 8**2 * 9 * 2 * 3
    first = 2 * (8**2 * (9 * 3 * 3 + 9 * 3 * 3))
    second = 4**2 * (9 * 3 * 6 + 9 * 6 * 6 + 3 * 6) + 4**2 * (9 * 6 * 6 + 9 * 6 * 6)
    assert resnet.discriminator_flops(3, 8, 2) == 2 * (stem + first + second)


def test_the_sparsity_term_counts_units_of_one_pair_and_weights_of_the_other():
    assert dcgan.generator(16).size((5, 3), NOISE) == 5 + 3
    generator = resnet.generator(8)
    expected = sum(int(np.prod(shape)) for shape in generator.kernel_shapes((4, 3, 5), NOISE))
    assert generator.size((4, 3, 5), NOISE) == expected > 4 + 3 + 5
