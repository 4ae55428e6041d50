"""The pair for vectors: against the same networks spelt out in NumPy, closed gates, and growth."""

import jax
import numpy as np
import pytest
from support import programs

from dgm_jax.models import mlp, pair
from dgm_jax.types import GeneratorParams, Norm, Statistics

NOISE, WIDTHS, D = 6, (5, 4), 7
variants = pytest.mark.parametrize("variant", ["dgma", "dgmw"])
GENERATOR = pair("mlp").generator(1)


def _random_generator(variant, n_heads=3):
    rng = np.random.default_rng(len(variant))
    params = GeneratorParams(
        kernels=[rng.normal(size=s) for s in GENERATOR.kernel_shapes(WIDTHS, NOISE)],
        norms=[Norm(scale=rng.normal(size=w), shift=rng.uniform(0.2, 2, w)) for w in WIDTHS],
        heads=rng.normal(size=(n_heads, 1, 1, WIDTHS[-1], D)),
    )
    statistics = [Statistics(mean=rng.normal(size=w), var=rng.uniform(0.5, 2, w)) for w in WIDTHS]
    masks = [rng.random(shape) < 0.6 for shape in GENERATOR.mask_shapes(variant, WIDTHS, NOISE)]
    return params, statistics, masks, rng.normal(size=(9, NOISE)), rng.integers(0, n_heads, 9)


def _spelt_out(params, statistics, masks, noise, head, variant, train):
    x = noise
    for kernel, norm, running, mask in zip(params.kernels, params.norms, statistics, masks, strict=True):
        x = x @ (kernel * mask if variant == "dgmw" else kernel)[0, 0]
        mean, var = (x.mean(axis=0), x.var(axis=0)) if train else (running.mean, running.var)
        x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * norm.scale + norm.shift, 0)
        x = x * mask if variant == "dgma" else x
    return np.stack([row @ params.heads[h, 0, 0] for row, h in zip(x, head)])


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@variants
def test_it_generates_as_spelt_out(variant, train, float64):
    params, statistics, masks, noise, head = given = _random_generator(variant)
    run = programs.quick_jit(lambda p, s, m, z, h: GENERATOR.generate(p, s, m, z, h, train=train)[0])
    vectors = np.asarray(run(params, statistics, [mask.astype(float) for mask in masks], noise, head))
    assert vectors.shape == (9, 1, 1, D)
    expected = _spelt_out(*given, variant, train)
    np.testing.assert_allclose(vectors[:, 0, 0], expected, rtol=1e-9, atol=1e-12)
    assert np.abs(expected).max() > 1  # Nothing bounds them.


@variants
def test_what_a_closed_gate_hides_has_no_effect(variant, float64):
    params, statistics, masks, noise, head = _random_generator(variant)
    run = programs.quick_jit(lambda p: GENERATOR.generate(p, statistics, masks, noise, head, train=False)[0])
    before, kernels = np.asarray(run(params)), [np.copy(kernel) for kernel in params.kernels]
    if variant == "dgmw":
        for kernel, mask in zip(kernels, masks, strict=True):
            kernel[~mask] = np.nan
    else:
        kernels[0][..., ~masks[0]] = kernels[1][..., ~masks[1]] = np.nan  # What feeds a closed unit.
        kernels[1][:, :, ~masks[0]] = 99  # What reads it.
    after = np.asarray(run(GeneratorParams(kernels, params.norms, params.heads)))
    assert after.tobytes() == before.tobytes() and sum((~mask).sum() for mask in masks) > 3


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
def test_it_discriminates_as_spelt_out(train, float64):
    rng = np.random.default_rng(1)
    params, statistics = mlp.init_discriminator(jax.random.key(0), width=8, image_size=1, channels=D, n_classes=3)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    statistics = [Statistics(mean=rng.normal(size=8), var=rng.uniform(0.5, 2, 8)) for _ in statistics]
    vectors = rng.normal(size=(10, 1, 1, D))
    output, updated = mlp.discriminate(params, statistics, vectors, train=train)
    first, second = params.trunk["trunk"]
    x = vectors[:, 0, 0] @ first["kernel"]
    x = np.where(x > 0, x, 0.2 * x) @ second["kernel"]
    (running,) = statistics
    mean, var = (x.mean(axis=0), x.var(axis=0)) if train else (running.mean, running.var)
    x = (x - mean) / np.sqrt(var + 1e-5) * second["norm"].scale + second["norm"].shift
    x = np.where(x > 0, x, 0.2 * x)
    np.testing.assert_allclose(output.features, x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(output.logits, x @ params.classifier.kernel + params.classifier.bias, rtol=1e-9)
    np.testing.assert_allclose(output.critic, (x @ params.critic.kernel + params.critic.bias)[:, 0], rtol=1e-9)
    assert (np.any(updated[0].mean != running.mean)) == train


@pytest.mark.parametrize("width", [16, 400])
def test_fresh_output_layers_bring_as_much_at_any_width(width):
    _, heads = GENERATOR.init_task(jax.random.key(0), (width, width), 50, 2)
    assert heads.shape == (2, 1, 1, width, 50)
    np.testing.assert_allclose(np.abs(heads).max(), 2 / np.sqrt(width), rtol=0.02)


def test_sizes():
    assert mlp.generator_widths(12, 1) == (12, 12)
    assert GENERATOR.kernel_shapes((5, 4), NOISE) == [(1, 1, 6, 5), (1, 1, 5, 4)]
    assert GENERATOR.flops((5, 4), NOISE, D) == 2 * (6 * 5 + 5 * 4 + 4 * D)
    assert mlp.discriminator_flops(8, 1, D) == 2 * (D * 8 + 8 * 8)
