"""Both networks: parity with the golden files, shapes, closed gates, and what growth leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import checks, golden, golden_names, programs

from dgm_jax import nn
from dgm_jax.memory import memory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.models import dcgan
from dgm_jax.training.losses import cross_entropy, gradient_penalty
from dgm_jax.types import GeneratorParams, Norm, Statistics

DISCRIMINATORS = ["discriminator_gray", "discriminator_colour"]
GENERATORS = ["generator_dgma", "generator_dgmw", "generator_dgma_colour", "generator_dgmw_colour"]

# ---- the discriminator ----


@programs.quick_jit
def _judge(params, statistics, batch):
    """Everything that the file of a discriminator holds, in one program."""
    labels, alpha = batch["labels"], batch["alpha"][:, None, None, None]

    def run(params, images):
        return dcgan.discriminate(params, statistics, images, train=True)

    (output, after), pull = jax.vjp(run, params, batch["x"])
    still = jax.tree.map(jnp.zeros_like, after)
    loss, pull_loss = jax.vjp(lambda logits: cross_entropy(logits, labels), output.logits)
    nothing = jax.tree.map(jnp.zeros_like, output)
    grad_loss, _ = pull((nothing._replace(logits=pull_loss(jnp.ones_like(loss))[0]), still))
    grad_outputs, grad_x = pull((nothing._replace(critic=batch["r_critic"], logits=batch["r_logits"]), still))

    def critic_sum(params, images):
        output, updated = run(params, images)
        return jnp.sum(output.critic), updated

    x_hat = alpha * batch["real"] + (1 - alpha) * batch["fake"]

    def terms(params):
        real, fake = (jnp.mean(run(params, batch[name])[0].critic) for name in ("real", "fake"))
        penalty, (norms, _) = gradient_penalty(functools.partial(critic_sum, params), x_hat)
        return (fake - real, penalty), (real, fake, norms)

    (difference, penalty), pull_terms, (real, fake, norms) = jax.vjp(terms, params, has_aux=True)
    one, zero = jnp.ones_like(penalty), jnp.zeros_like(penalty)
    return {
        "output": output,
        "after": after,
        "cross_entropy": loss,
        "grad_cross_entropy": grad_loss,
        "grad_outputs": grad_outputs,
        "grad_x": grad_x,
        "evaluation": dcgan.discriminate(params, statistics, batch["x"], train=False)[0],
        "x_hat": x_hat,
        "grad_x_hat": jax.grad(lambda x: critic_sum(params, x)[0])(x_hat),
        "grad_norms": norms,
        "gradient_penalty": penalty,
        "grad_gradient_penalty": pull_terms((zero, one))[0],
        "critic_real": real,
        "critic_fake": fake,
        "critic_loss": difference + batch["lambda_gp"] * penalty,
        "grad_critic_loss": pull_terms((one, batch["lambda_gp"]))[0],
    }


@functools.cache
def _judged(name, dtype):
    file = golden.load(name)
    with jax.enable_x64(dtype == "float64"):
        floats = ("x", "real", "fake", "alpha", "r_critic", "r_logits", "lambda_gp")
        batch = {key: jnp.asarray(file[key], dtype) for key in floats} | {"labels": jnp.asarray(file["labels"])}
        params = golden_names.discriminator(file["params"], dtype)
        statistics = golden_names.discriminator_statistics(file["running_before"], dtype)
        return file, jax.device_get(_judge(params, statistics, batch))


@pytest.mark.parametrize("dtype", programs.DTYPES)
@pytest.mark.parametrize("name", DISCRIMINATORS)
class TestGoldenDiscriminator:
    def test_outputs_and_running_statistics(self, name, dtype):
        file, result = _judged(name, dtype)
        golden.assert_close(result["output"].critic, file["critic"], dtype)
        golden.assert_close(result["output"].logits, file["logits"], dtype)
        after = golden_names.discriminator_statistics_names(result["after"])
        golden_names.assert_named(after, file["running_after"], dtype)
        golden.assert_close(result["evaluation"].critic, file["critic_eval"], dtype)
        golden.assert_close(result["evaluation"].logits, file["logits_eval"], dtype)

    def test_gradients(self, name, dtype):
        file, result = _judged(name, dtype)
        golden.assert_close(result["cross_entropy"], file["cross_entropy"], dtype)
        golden.assert_close(result["grad_x"], file["grad_x"], dtype, gradient=True)
        for key in ("grad_cross_entropy", "grad_outputs"):
            golden_names.assert_named(golden_names.discriminator_names(result[key]), file[key], dtype, gradient=True)
        assert not np.any(result["grad_cross_entropy"].critic.kernel)

    def test_gradient_penalty(self, name, dtype):
        file, result = _judged(name, dtype)
        golden.assert_close(result["x_hat"], file["x_hat"], dtype)
        golden.assert_close(result["grad_x_hat"], file["grad_x_hat"], dtype, gradient=True)
        golden.assert_close(result["grad_norms"], file["grad_norms"], dtype)
        golden.assert_close(result["gradient_penalty"], file["gradient_penalty"], dtype)
        gradients = golden_names.discriminator_names(result["grad_gradient_penalty"])
        golden_names.assert_named(gradients, file["grad_gradient_penalty"], dtype, gradient=True)
        for exact in ("critic_b", "class_w", "class_b"):
            assert not np.any(gradients[exact]), exact

    def test_critic_loss(self, name, dtype):
        file, result = _judged(name, dtype)
        for key in ("critic_real", "critic_fake", "critic_loss"):
            golden.assert_close(result[key], file[key], dtype, err_msg=key)
        gradients = golden_names.discriminator_names(result["grad_critic_loss"])
        golden_names.assert_named(gradients, file["grad_critic_loss"], dtype, gradient=True)


# ---- the generator ----


@programs.quick_jit
def _draw(params, statistics, binary, batch):
    """Everything that the file of a generator holds, but what concerns growth."""

    def run(params, z):
        masks = [nn.gate(e, batch["s"]) for e in params.embeddings]
        images, after = golden_names.chain(statistics).generate(
            params, statistics, masks, z, batch["head_index"], train=True
        )
        return images, (masks, after)

    images, pull, (masks, after) = jax.vjp(run, params, batch["z"], has_aux=True)
    gradients, grad_z = pull(batch["r"])
    evaluation, _ = golden_names.chain(statistics).generate(
        params, statistics, binary, batch["z"], batch["head_index"], train=False
    )
    return {
        "images": images,
        "masks": masks,
        "after": after,
        "grad": gradients,
        "grad_z": grad_z,
        "images_eval": evaluation,
    }


@functools.cache
def _drawn(name, dtype):
    file = golden.load(name)
    with jax.enable_x64(dtype == "float64"):
        batch = {key: jnp.asarray(file[key], dtype) for key in ("z", "s", "r")}
        batch["head_index"] = jnp.asarray(file["head_index"])
        params = golden_names.generator(file["params"], dtype)
        statistics = golden_names.generator_statistics(file["running_before"], dtype)
        binary = [nn.binarise(e) for e in params.embeddings]
        return file, jax.device_get(_draw(params, statistics, binary, batch))


@pytest.mark.parametrize("dtype", programs.DTYPES)
@pytest.mark.parametrize("name", GENERATORS)
class TestGoldenGenerator:
    def test_images_and_running_statistics(self, name, dtype):
        file, result = _drawn(name, dtype)
        golden.assert_close(result["images"], file["images"], dtype)
        golden.assert_close(result["images_eval"], file["images_eval"], dtype)
        for i, mask in enumerate(result["masks"], start=1):
            golden.assert_close(mask, file[f"mask{i}"], dtype)
        golden_names.assert_named(
            golden_names.generator_statistics_names(result["after"]), file["running_after"], dtype
        )

    def test_gradients(self, name, dtype):
        file, result = _drawn(name, dtype)
        golden_names.assert_named(golden_names.generator_names(result["grad"]), file["grad"], dtype, gradient=True)
        golden.assert_close(result["grad_z"], file["grad_z"], dtype, gradient=True)


_evaluate = programs.quick_jit(
    lambda params, statistics, masks, z, head: golden_names.chain(statistics).generate(
        params, statistics, masks, z, head, train=False
    )[0]
)


@pytest.mark.parametrize("name", GENERATORS)
def test_golden_growth_leaves_old_images_alone(float64, name):
    file = golden.load(name)
    params = golden_names.generator(file["params"], np.float64)
    statistics = golden_names.generator_statistics(file["running_before"], np.float64)
    wide = golden_names.numbered(file["wide"], "w", np.float64)
    widths = file["wide"]["widths"]
    assert [w.shape[-1] for w in wide] == widths.tolist()
    z, head = jnp.asarray(file["z"]), jnp.asarray(file["head_index"])

    # In full: the task's own norms and heads, padded by neutral entries.
    heads = params.heads
    grown = GeneratorParams(
        kernels=wide,
        norms=[
            Norm(scale=nn.expand(norm.scale, jnp.ones(w)), shift=nn.expand(norm.shift, jnp.zeros(w)))
            for norm, w in zip(params.norms, widths)
        ],
        heads=nn.expand(heads, jnp.zeros((*heads.shape[:3], widths[-1], heads.shape[-1]))),
    )
    grown_statistics = [
        Statistics(mean=nn.expand(own.mean, jnp.zeros(w)), var=nn.expand(own.var, jnp.ones(w)))
        for own, w in zip(statistics, widths)
    ]
    masks = [mask.astype(bool) for mask in golden_names.numbered(file["wide"], "binary", np.float64)]
    images = _evaluate(grown, grown_statistics, masks, z, head)
    np.testing.assert_allclose(images, file["images_eval"], rtol=0, atol=1e-12)

    # As the memory draws: the sub-network cut out of the grown weights is the one cut out of the old, bit for bit.
    task = TaskMemory(
        classes=tuple(range(len(heads))),
        widths=tuple(file["widths"].tolist()),
        masks=[np.asarray(mask, bool) for mask in golden_names.numbered(file, "binary", bool)],
        norms=jax.device_get(params.norms),
        statistics=jax.device_get(statistics),
        heads=np.asarray(heads),
        n_conditioned=0,
    )
    cut = memory.cut_units if "dgma" in name else memory.cut_weights
    drawn = []
    for kernels in (params.kernels, wide):
        own = cut(golden_names.chain(params.norms), [np.asarray(kernel) for kernel in kernels], task)
        drawn.append((own, _evaluate(own.generator, own.statistics, [None] * len(kernels), z, head)))
    checks.assert_equal_trees(*drawn)
    np.testing.assert_allclose(drawn[0][1], file["images_eval"], rtol=0, atol=1e-12)


# ---- random networks ----

SIZES = [(8, (5,), 1, 1), (16, (6, 3), 3, 2), (32, (4, 7, 2), 1, 3), (64, (4, 5, 4, 6), 3, 2)]


def _random_generator(variant, size, widths, channels, heads, noise_dim=6):
    rng = np.random.default_rng(size)
    kernels = [
        rng.normal(size=s).astype(np.float32) for s in golden_names.chain(widths).kernel_shapes(widths, noise_dim)
    ]
    norms = [Norm(*(rng.normal(size=w).astype(np.float32) for _ in range(2))) for w in widths]
    _, output_layers = golden_names.chain(widths).init_task(jax.random.key(0), widths, channels, heads)
    params = GeneratorParams(kernels, norms, output_layers)
    statistics = [
        Statistics(rng.normal(size=w).astype(np.float32), rng.uniform(0.5, 2, w).astype(np.float32)) for w in widths
    ]
    shapes = (
        golden_names.chain(widths).kernel_shapes(widths, noise_dim) if variant == "dgmw" else [(w,) for w in widths]
    )
    masks = [rng.random(shape) < 0.6 for shape in shapes]
    noise = rng.normal(size=(5, noise_dim)).astype(np.float32)
    return params, statistics, masks, noise, rng.integers(0, heads, 5), rng


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
@pytest.mark.parametrize("size, widths, channels, heads", SIZES)
def test_what_a_closed_gate_hides_has_no_effect(variant, size, widths, channels, heads, train):
    params, statistics, masks, noise, head, rng = _random_generator(variant, size, widths, channels, heads)
    masks = [jnp.asarray(mask) for mask in masks]

    @programs.quick_jit
    def draw(params, statistics):
        def total(params):
            images, _ = golden_names.chain(statistics).generate(params, statistics, masks, noise, head, train=train)
            return jnp.sum(images * jnp.cos(jnp.arange(images.size).reshape(images.shape))), images

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, images), gradients = draw(params, statistics)
    assert images.shape == (5, size, size, channels)

    # Whatever stands behind a closed gate: other weights, other norms, other statistics.
    changed = jax.tree.map(np.copy, params)
    other = jax.tree.map(np.copy, statistics)
    hidden = [~np.asarray(mask) for mask in masks]
    for i, closed in enumerate(hidden):
        if variant == "dgmw":
            changed.kernels[i][closed] += rng.normal(0, 100, closed.sum())
            assert not np.any(gradients.kernels[i][closed])
            continue
        changed.kernels[i][..., closed] += 100
        for part in ("scale", "shift"):
            getattr(changed.norms[i], part)[closed] += 100
            assert not np.any(getattr(gradients.norms[i], part)[closed])
        for part in ("mean", "var"):
            getattr(other[i], part)[closed] += 100
        assert not np.any(gradients.kernels[i][..., closed])
        readers = changed.kernels[i + 1][:, :, closed] if i + 1 < len(hidden) else changed.heads[..., closed, :]
        readers += 100  # A copy: fancy indexing.
        if i + 1 < len(hidden):
            changed.kernels[i + 1][:, :, closed] = readers
        else:
            changed.heads[..., closed, :] = readers
    (_, same), _ = draw(changed, other)
    assert np.any(images != 0)
    np.testing.assert_array_equal(images, same)


@pytest.mark.parametrize("size, widths, channels, heads", SIZES)
def test_closed_units_emit_exactly_nothing(size, widths, channels, heads):
    params, statistics, masks, noise, head, _ = _random_generator("dgma", size, widths, channels, heads)
    masks[-1] = np.zeros_like(masks[-1])

    @programs.quick_jit
    def draw(masks):
        return [
            golden_names.chain(statistics).generate(
                params, statistics, masks, noise, head, train=train, gate_before_norm=before
            )[0]
            for train, before in ((True, False), (False, False), (False, True))
        ]

    training, evaluation, released = draw(masks)
    assert not np.any(training) and not np.any(evaluation)  # The tanh of an output layer that saw nothing but 0.
    assert np.any(released)  # The released order: a closed unit emits its norm's shift.


@pytest.mark.parametrize("size, widths, channels, heads", SIZES)
def test_initial_networks(size, widths, channels, heads):
    assert dcgan.n_doublings(size) == len(widths)
    assert dcgan.generator_widths(3, size) == (24, 12, 6, 3)[-len(widths) :]

    key = jax.random.key(0)
    params, statistics = dcgan.init_discriminator(key, width=4, image_size=size, channels=channels, n_classes=5)
    _, output_layers = golden_names.chain(widths).init_task(key, widths, channels, heads)
    kernels = golden_names.chain([40] * len(widths)).init_kernels(key, [40] * len(widths), 16)
    assert output_layers.shape == (heads, 4, 4, widths[-1], channels)
    bound = 1 / np.sqrt(16 * channels)
    assert 0.9 * bound < np.abs(output_layers).max() <= bound
    assert abs(np.std(kernels[0]) - 0.02) < 0.002
    assert len(params.trunk["trunk"]) == len(statistics) + 1 == len(widths)
    images = jnp.zeros((3, size, size, channels))
    output, after = jax.eval_shape(lambda x: dcgan.discriminate(params, statistics, x, train=True), images)
    assert output.critic.shape == (3,) and output.logits.shape == (3, 5)
    assert jax.tree.structure(after) == jax.tree.structure(statistics)


def test_fresh_weights_have_the_authors_distributions():
    key = jax.random.key(0)
    for kernel in golden_names.chain((64, 32)).init_kernels(key, (64, 32), 32):
        assert kernel.dtype == np.float32
        assert abs(np.mean(kernel)) < 1e-3 and abs(np.std(kernel) - 0.02) < 1e-3
    first, second = (golden_names.chain((64, 64)).init_task(k, (64, 64), 1, 2)[1] for k in jax.random.split(key))
    assert 0.24 < np.max(np.abs(first)) <= 0.25 and abs(np.mean(first)) < 0.02
    assert not np.any(first[0] == first[1]) and not np.any(first == second)
    again = golden_names.chain((64, 64)).init_task(jax.random.split(key)[0], (64, 64), 1, 2)[1]
    np.testing.assert_array_equal(first, again)


def test_fresh_heads_of_a_discriminator_are_uniform_within_the_root_of_their_inputs():
    """In +-1 / sqrt(features), weights and biases of both heads, all different; the trunk is normal."""
    params, _ = dcgan.init_discriminator(jax.random.key(3), width=64, image_size=16, channels=1, n_classes=500)
    bound = 1 / np.sqrt(16 * 128)  # 128 maps of 4x4.
    assert params.critic.kernel.shape == (16 * 128, 1) and params.classifier.kernel.shape == (16 * 128, 500)
    assert params.critic.bias.shape == (1,) and params.classifier.bias.shape == (500,)
    for values in (params.critic.kernel, params.classifier.kernel, params.classifier.bias):
        assert values.dtype == np.float32
        assert 0.98 * bound < values.max() <= bound and -bound <= values.min() < -0.98 * bound
        assert np.std(values) == pytest.approx(bound / np.sqrt(3), rel=0.05)  # That of a uniform distribution.
        assert abs(np.mean(values)) < 0.1 * bound
        assert len(np.unique(values)) > 0.95 * values.size
    assert 0 < abs(params.critic.bias[0]) <= bound
    assert np.corrcoef(params.critic.kernel[:, 0], params.classifier.kernel[:, 0])[0, 1] < 0.1
    kernel = params.trunk["trunk"][1]["kernel"]
    assert np.std(kernel) == pytest.approx(0.02, rel=0.02) and np.abs(kernel).max() > 0.06


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
@pytest.mark.parametrize("ungated", [0, 1])
def test_a_layer_without_a_gate_is_one_whose_gates_are_open(variant, ungated):
    params, statistics, masks, noise, head, _ = _random_generator(variant, 16, (6, 3), 1, 2)
    chain = golden_names.chain(statistics)
    opened, without = list(masks), list(masks)
    opened[ungated], without[ungated] = jnp.ones_like(masks[ungated]), None
    expected, actual = (chain.generate(params, statistics, m, noise, head, train=False)[0] for m in (opened, without))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert np.any(expected != chain.generate(params, statistics, masks, noise, head, train=False)[0])
