"""One training iteration: parity with the golden files, from the classifier's steps to Adam's moments."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import golden, golden_names, programs

from dgm_jax.config import Config
from dgm_jax.models.discriminator import Output
from dgm_jax.models.normalisation import MOMENTUM
from dgm_jax.training.gates import open_gates, slopes
from dgm_jax.training.state import Clock, TrainState, make_capacity, make_optimisers
from dgm_jax.training.step import Step, critic_value
from dgm_jax.types import DiscriminatorParams, GeneratorParams, Linear, Norm

FILES = ["dgma_t0", "dgma_t2", "dgma_t1_resumed", "dgmw_t0", "dgmw_t1", "dgmw_t1_aux"]
CASES = [("closed", "float64"), ("product", "float64"), ("closed", "float32")]

every_file = pytest.mark.parametrize("name", FILES)
both_dtypes = pytest.mark.parametrize("dtype", programs.DTYPES)


def _config(file, name, form):
    images = file["real_images"]
    return Config().with_changes(
        variant="dgma" if name.startswith("dgma") else "dgmw",
        gate_gradient=form,
        image_size=images.shape[1],
        batch_size=images.shape[0],
        noise_dim=file["z_critic"].shape[1],
        generator_learning_rate=float(file["lr_G"]),
        discriminator_learning_rate=float(file["lr_D"]),
        adam_b1=float(file["beta1"]),
        adam_b2=float(file["beta2"]),
        clip_norm=float(file["clip_norm"]),
        adversarial_weight=float(file["lambda_adv"]),
        penalty_weight=float(file["lambda_gp"]),
        sparsity_weight=float(file["lambda_R"]),
        auxiliary_generator=bool(file["aux_G"]),
    )


def _adam(optimiser, params, moments, variances, steps):
    """A fresh optimiser's state with the file's moments in it."""
    state = optimiser.init(params)
    count = jnp.asarray(steps, jnp.int32)
    return optax.tree_utils.tree_set(state, mu=moments, nu=variances, count=count)


def _state(file, step, dtype):
    d, g = (golden_names.discriminator, golden_names.generator)
    discriminator, generator = d(file["d_before"], dtype), g(file["g_before"], dtype)
    return TrainState(
        generator=generator,
        generator_statistics=golden_names.generator_statistics(file["g_running_before"], dtype),
        generator_optimiser=_adam(
            step.optimisers.generator,
            generator,
            g(file["g_adam_m_before"], dtype),
            g(file["g_adam_v_before"], dtype),
            file["g_adam_steps_before"],
        ),
        discriminator=discriminator,
        discriminator_statistics=golden_names.discriminator_statistics(file["d_running_before"], dtype),
        discriminator_optimiser=_adam(
            step.optimisers.discriminator,
            discriminator,
            d(file["d_adam_m_before"], dtype),
            d(file["d_adam_v_before"], dtype),
            file["d_adam_steps_before"],
        ),
    )


def _moments(state, which):
    """Adam's (m, v) of one network, under the golden names."""
    names = golden_names.generator_names if which == "generator" else golden_names.discriminator_names
    optimiser = getattr(state, f"{which}_optimiser")
    return tuple(names(optax.tree_utils.tree_get(optimiser, part)) for part in ("mu", "nu"))


def _gradient(before, after, which, file):
    """The gradient that reached Adam in a step, from how its first moment moved; float64."""
    b1 = float(file["beta1"])
    old, new = (_moments(state, which)[0] for state in (before, after))
    return {k: (new[k].astype(np.float64) - b1 * old[k].astype(np.float64)) / (1 - b1) for k in new}


def _inputs(file, dtype):
    """Arguments of the three steps."""
    real = jnp.asarray(file["real_images"], dtype)
    z_critic, z_generator, alpha = (jnp.asarray(file[key], dtype) for key in ("z_critic", "z_generator", "alpha"))
    labels, head = jnp.asarray(file["real_labels"]), jnp.asarray(file["head_index"])
    scales = (jnp.asarray(file["s"], dtype), jnp.asarray(file["S"], dtype))
    return (real, head, z_critic, alpha, scales), (real, labels, head, z_generator, scales, _capacity(file, dtype))


def _capacity(file, dtype):
    reserved = [mask.astype(bool) for mask in golden_names.numbered(file, "reserved", dtype)]
    weight = float(file["lambda_R"]) * int(file["size_t"]) / int(file["size_0"])
    return make_capacity(
        reserved,
        [jnp.ones_like(mask) for mask in reserved],
        sparsity_weight=jnp.asarray(weight, dtype),
        seen=jnp.ones(int(file["n_classes"]), bool),
        heads=np.zeros(int(file["n_classes"]), np.int32),  # The steps are given the output layers.
    )


@functools.cache
def _discriminated(name, dtype):
    """The classifier's and the critic's steps: (file, [states before, between and after], [metrics])."""
    file = golden.load(f"iteration_{name}")
    with jax.enable_x64(dtype == "float64"):
        step = Step.of(_config(file, name, "closed"))
        critic_inputs, _ = _inputs(file, dtype)
        seen = jnp.ones(int(file["n_classes"]), bool)
        states, metrics = [_state(file, step, dtype)], []
        classify = programs.quick_jit(step.classifier_step)
        for images, labels in zip(file["classifier_images"], file["classifier_labels"], strict=True):
            state, told = classify(states[-1], jnp.asarray(images, dtype), jnp.asarray(labels), seen)
            states.append(state)
            metrics.append(told)
        state, told = programs.quick_jit(step.critic_step)(states[-1], *critic_inputs)
        return file, jax.device_get([*states, state]), jax.device_get([*metrics, told])


@functools.cache
def _generated(name, dtype):
    """The generator's step after those, by form of the gate's gradient: (state before, state after, metrics)."""
    file, states, _ = _discriminated(name, dtype)
    with jax.enable_x64(dtype == "float64"):
        steps = {form: Step.of(_config(file, name, form)) for form, of in CASES if of == dtype}
        before = states[-1]
        if dtype == "float32":  # The critic's bias has a gradient of 1 - 1: noise, which Adam makes a step of any size.
            bias = jnp.asarray(file["d_after"]["critic_b"], dtype)
            critic = dataclasses.replace(before.discriminator.critic, bias=bias)
            before = before.replace(discriminator=dataclasses.replace(before.discriminator, critic=critic))
        moments = {part: optax.tree_utils.tree_get(before.generator_optimiser, part) for part in ("mu", "nu", "count")}
        starts = {}
        for form, step in steps.items():  # The two forms are chains of different lengths.
            optimiser = step.optimisers.generator.init(before.generator)
            starts[form] = before.replace(generator_optimiser=optax.tree_utils.tree_set(optimiser, **moments))
        _, inputs = _inputs(file, dtype)

        @programs.quick_jit
        def run(starts):  # One program: what the forms share is compiled once.
            return {form: step.generator_step(starts[form], *inputs) for form, step in steps.items()}

        results = jax.device_get(run(starts))
        return {form: (starts[form], *results[form]) for form in steps}


def _assert_gradients(actual, expected, dtype):
    actual = {name: value.astype(dtype) for name, value in actual.items()}
    golden_names.assert_named(actual, expected, dtype, gradient=True)


def _assert_moments(state, which, file, dtype):
    for actual, key in zip(_moments(state, which), (f"{which[0]}_adam_m", f"{which[0]}_adam_v"), strict=True):
        for name, expected in file[key].items():
            if dtype == "float64":
                rtol, atol = 1e-9, 1e-12
            elif name == "critic_b":
                continue
            else:  # Those of a gradient; its square has twice the relative error.
                largest = np.abs(expected).max()
                rtol, atol = (1e-4, max(1e-6, 2e-5 * largest)) if key.endswith("m") else (1e-3, 1e-4 * largest + 1e-12)
            np.testing.assert_allclose(actual[name], expected, rtol=rtol, atol=atol, err_msg=f"{key}.{name}")


def _assert_adam(actual, expected, gradients, rate, dtype):
    """Compares parameters after Adam steps on `gradients`, a list of what the file says they were."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].dtype == dtype
        if dtype == "float64":
            np.testing.assert_allclose(actual[name], value, rtol=1e-9, atol=1e-10, err_msg=name)
        elif name != "critic_b":
            # Adam divides by the gradient's size, so rounding noise may become a step of up to the rate.
            noise = [np.abs(g[name]) < 1e-6 * np.abs(g[name]).max() for g in gradients]
            allowed = np.where(np.any(noise, axis=0), 2 * rate * len(gradients), 1e-4)
            off = np.abs(actual[name] - value)
            assert np.all(off <= allowed), f"{name} is off by {off.max()}"


@every_file
def test_constants_are_the_files(name):
    file = golden.load(f"iteration_{name}")
    assert inspect.signature(optax.adam).parameters["eps"].default == file["adam_eps"]
    assert file["bn_momentum"] == MOMENTUM
    assert np.isclose(file["sparsity_weight"], file["lambda_R"] * file["size_t"] / file["size_0"], rtol=1e-15)


@both_dtypes
@every_file
class TestGoldenDiscriminatorSteps:
    def test_classifier(self, name, dtype):
        file, states, metrics = _discriminated(name, dtype)
        assert len(states) == int(file["task"]) + 3
        for j, (before, after) in enumerate(zip(states[:-2], states[1:-1])):
            golden.assert_close(metrics[j]["classifier_loss"], file["classifier_loss"][j], dtype)
            _assert_gradients(_gradient(before, after, "discriminator", file), file[f"d_grad_classifier{j}"], dtype)
        gradients = [file[f"d_grad_classifier{j}"] for j in range(len(states) - 2)]
        actual = golden_names.discriminator_names(states[-2].discriminator)
        _assert_adam(actual, file["d_after_classifier"], gradients, float(file["lr_D"]), dtype)

    def test_critic(self, name, dtype):
        file, states, metrics = _discriminated(name, dtype)
        for key in ("critic_real", "critic_fake", "gradient_penalty", "critic_loss"):
            golden.assert_close(metrics[-1][key], file[key], dtype, err_msg=key)
        golden.assert_close(metrics[-1]["gradient_norm"], np.mean(file["grad_norms"]), dtype)
        gradient = _gradient(states[-2], states[-1], "discriminator", file)
        expected = dict(file["d_grad_critic"])
        # 1 - 1: noise on either side, far below any other gradient.
        assert max(np.abs(gradient.pop("critic_b")).max(), np.abs(expected.pop("critic_b")).max()) < 1e-6
        _assert_gradients(gradient, expected, dtype)
        _assert_moments(states[-1], "discriminator", file, dtype)
        steps = [file[f"d_grad_classifier{j}"] for j in range(len(states) - 2)] + [file["d_grad_critic"]]
        actual = golden_names.discriminator_names(states[-1].discriminator)
        _assert_adam(actual, file["d_after"], steps, float(file["lr_D"]), dtype)
        count = optax.tree_utils.tree_get(states[-1].discriminator_optimiser, "count")
        assert count == file["d_adam_steps_before"] + int(file["task"]) + 2


@pytest.mark.parametrize("form, dtype", CASES)
@every_file
class TestGoldenGeneratorStep:
    def test_losses_and_statistics(self, name, form, dtype):
        file = golden.load(f"iteration_{name}")
        _, after, metrics = _generated(name, dtype)[form]
        terms = ["adversarial_term", "sparsity_term", "generator_loss", "sparsity"]
        terms += ["auxiliary_term"] if file["aux_G"] else []
        for key in terms:
            golden.assert_close(metrics[key], file[key], dtype, err_msg=key)
        statistics = golden_names.discriminator_statistics_names(after.discriminator_statistics)
        golden_names.assert_named(statistics, file["d_running_after"], dtype)
        golden_names.assert_named(
            golden_names.generator_statistics_names(after.generator_statistics), file["g_running_after"], dtype
        )
        golden.assert_close(metrics["scale"], file["s"], dtype)

    def test_gradients_and_moments(self, name, form, dtype):
        file = golden.load(f"iteration_{name}")
        before, after, _ = _generated(name, dtype)[form]
        _assert_gradients(_gradient(before, after, "generator", file), file["g_grad_final"], dtype)
        _assert_moments(after, "generator", file, dtype)

    def test_parameters(self, name, form, dtype):
        file = golden.load(f"iteration_{name}")
        _, after, _ = _generated(name, dtype)[form]
        actual = golden_names.generator_names(after.generator)
        _assert_adam(actual, file["g_after"], [file["g_grad_final"]], float(file["lr_G"]), dtype)

    def test_protected_weights_stay_bit_for_bit(self, name, form, dtype):
        file = golden.load(f"iteration_{name}")
        before, after, _ = _generated(name, dtype)[form]
        blocked = 0
        for i, (old, new) in enumerate(zip(before.generator.kernels, after.generator.kernels), start=1):
            protected = file["multiplier"][f"w{i}"] == 0
            assert old.dtype == new.dtype == dtype
            np.testing.assert_array_equal(np.asarray(old)[protected], new[protected])
            assert np.mean(np.asarray(old)[~protected] != new[~protected]) > 0.5  # All but those of dead units.
            blocked += protected.sum()
        assert (blocked > 0) == (file["task"] > 0)


# ---- what ImageNet adds; the golden files do not ----


def test_the_reconstruction_term_is_l1_and_moves_images_towards_the_real_ones():
    """Against the mean written out, and its gradient against the slope of that mean, in float64."""
    file, states, _ = _discriminated("dgmw_t1", "float64")
    weight = 2.5
    with jax.enable_x64(True):
        config = _config(file, "dgmw_t1", "closed")
        plain, step = (Step.of(config.with_changes(reconstruction_weight=w)) for w in (0.0, weight))
        _, (real, labels, head, noise, scales, capacity) = _inputs(file, "float64")
        state = states[-1]

        @programs.quick_jit
        def run(state):
            def distance(generator):
                masks = open_gates(config, generator.embeddings, *scales)
                fake, _ = step.generate(generator, state.generator_statistics, masks, noise, head)
                return jnp.sum(jnp.abs(fake - real)) / real.size

            terms = jax.value_and_grad(distance)(state.generator)
            return terms, *(s.generator_step(state, real, labels, head, noise, scales, capacity) for s in (plain, step))

        (distance, slope), (plainly, without), (after, metrics) = jax.device_get(run(state))
    assert metrics["reconstruction_term"] == pytest.approx(weight * distance, rel=1e-12)
    assert metrics["generator_loss"] == pytest.approx(without["generator_loss"] + weight * distance, rel=1e-12)
    assert "reconstruction_term" not in without
    added = [_gradient(state, s, "generator", file)["heads"] for s in (after, plainly)]
    np.testing.assert_allclose(added[0] - added[1], weight * slope.heads, rtol=1e-7, atol=1e-12)
    assert np.any(slope.heads)


def test_the_generator_is_judged_by_the_projection_too():
    """Its term is linear in the table, and what it learns changes."""
    file, states, _ = _discriminated("dgmw_t1", "float64")
    with jax.enable_x64(True):
        step = Step.of(_config(file, "dgmw_t1", "closed").with_changes(critic_condition="projection"))
        _, of_generator = _inputs(file, "float64")
        critic = states[-1].discriminator
        heads, features = int(np.max(of_generator[2])) + 1, len(critic.critic.kernel)
        table = np.random.default_rng(0).normal(size=(heads, features))

        @programs.quick_jit
        def run(table):
            state = dataclasses.replace(states[-1], discriminator=dataclasses.replace(critic, projection=table))
            return step.generator_step(state, *of_generator)

        (plain, none), (once, one), (_, two) = (jax.device_get(run(factor * table)) for factor in (0.0, 1.0, 2.0))
    terms = [metrics["adversarial_term"] for metrics in (none, one, two)]
    assert terms[0] != terms[1] and terms[2] - terms[0] == pytest.approx(2 * (terms[1] - terms[0]), rel=1e-9)
    plainly, told = (_gradient(states[-1], own, "generator", file)["heads"] for own in (plain, once))
    assert np.any(plainly != told)


@pytest.mark.parametrize("lead, epoch, position", [(0, 3, 3), (1, 2, 3), (2, 1, 3), (1, 9, 10), (3, 9, 10)])
def test_the_annealing_can_be_ahead(lead, epoch, position):
    """ImageNet counts epochs from 1 (the authors' code); no lead makes gates steeper than s_max."""
    config = (
        Config().with_changes(variant="dgmw", anneal_within_epoch=True).with_changes(scale_lead=lead, scale_max=50.0)
    )
    clock = Clock(task=0, epoch=epoch, mask_epochs=10, steps=8)
    scale, epoch_scale = slopes(config, clock, jnp.int32(4))
    expected = 1 / 50 + (50 - 1 / 50) * position / 10
    assert float(epoch_scale) == pytest.approx(expected, rel=1e-6)
    assert float(scale) == pytest.approx(1 / expected + (expected - 1 / expected) * 4 / 8, rel=1e-6)


def test_a_critic_that_is_told_the_class_adds_its_projection():
    rng = np.random.default_rng(0)
    features, table = rng.normal(size=(4, 5)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32)
    output = Output(jnp.arange(4.0), jnp.zeros((4, 3)), jnp.asarray(features))
    head = np.array([0, 1, 1, 0])
    plain = DiscriminatorParams({}, critic=Linear(0, 0), classifier=Linear(0, 0))
    conditioned = dataclasses.replace(plain, projection=table)
    expected = np.arange(4.0) + np.sum(table[head] * features, axis=1)
    np.testing.assert_allclose(critic_value(conditioned, output, head), expected, rtol=1e-5)
    np.testing.assert_array_equal(critic_value(plain, output, head), np.arange(4.0))


def test_the_auxiliary_term_knows_only_the_classes_seen():
    """Cross-entropy over the classes seen alone, though the logits of the others are as large."""
    file, states, _ = _discriminated("dgmw_t1_aux", "float64")
    seen = np.arange(int(file["n_classes"])) != 1
    assert 1 not in file["real_labels"]
    with jax.enable_x64(True):
        step = Step.of(_config(file, "dgmw_t1_aux", "closed"))
        _, (real, labels, head, noise, scales, capacity) = _inputs(file, "float64")
        capacity = dataclasses.replace(capacity, seen=jnp.asarray(seen))

        @programs.quick_jit
        def run(state):
            masks = open_gates(step.config, state.generator.embeddings, *scales)
            fake, _ = step.generate(state.generator, state.generator_statistics, masks, noise, head)
            output, _ = step.discriminate(state.discriminator, state.discriminator_statistics, fake)
            return output.logits, step.generator_step(state, real, labels, head, noise, scales, capacity)[1]

        logits, metrics = jax.device_get(run(states[-1]))
    odds = np.exp(logits)
    expected = -np.mean(np.log(odds[np.arange(len(labels)), labels] / odds[:, seen].sum(axis=1)))
    assert metrics["auxiliary_term"] == pytest.approx(expected, rel=1e-10)
    everything = -np.mean(np.log(odds[np.arange(len(labels)), labels] / odds.sum(axis=1)))
    assert abs(everything - expected) > 0.1


@pytest.mark.parametrize("form", ["closed", "product"])
@pytest.mark.parametrize("norm, factor", [(10.0, 0.2), (2.0, 1.0), (1.5, 1.0)])
def test_the_generator_s_gradient_is_clipped_by_its_norm_and_the_discriminator_s_is_not(form, norm, factor):
    """Adam's moments after a first step say what reached it: a gradient of at most the norm of 2, over all parts."""
    config = Config().with_changes(gate_gradient=form, clip_norm=2.0, adam_b1=0.5, adam_b2=0.9)
    optimisers = make_optimisers(config)
    parts = {
        "kernels": [np.array([0.48])],
        "norms": [Norm(np.array([0.36]), np.array([0.0]))],
        "heads": np.array([0.8]),
    }
    gradient = GeneratorParams(embeddings=[np.array([0.0])], **parts)
    gradient = jax.tree.map(lambda part: jnp.asarray(norm * part, jnp.float32), gradient)  # Of this norm.
    zeros = jax.tree.map(jnp.zeros_like, gradient)
    _, state = optimisers.generator.update(
        gradient, optimisers.generator.init(zeros), zeros, scale=jnp.float32(1), epoch_scale=jnp.float32(1)
    )
    first, second = (optax.tree_utils.tree_get(state, part) for part in ("mu", "nu"))
    for moment, square, own in zip(*map(jax.tree.leaves, (first, second, gradient)), strict=True):
        np.testing.assert_allclose(moment, (1 - 0.5) * factor * own, rtol=1e-6)
        np.testing.assert_allclose(square, (1 - 0.9) * (factor * own) ** 2, rtol=1e-5)

    _, state = optimisers.discriminator.update(gradient, optimisers.discriminator.init(zeros), zeros)
    for moment, own in zip(*map(jax.tree.leaves, (optax.tree_utils.tree_get(state, "mu"), gradient)), strict=True):
        np.testing.assert_allclose(moment, (1 - 0.5) * own, rtol=1e-6)


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_metrics_of_an_iteration_are_those_of_the_terms_that_count(auxiliary, weight):
    config = Config().with_changes(auxiliary_generator=auxiliary, reconstruction_weight=weight)
    names = Step.of(config).metric_names
    assert names == sorted(names) and len(set(names)) == 15 + auxiliary + (weight > 0)
    assert ("auxiliary_term" in names) == auxiliary and ("reconstruction_term" in names) == (weight > 0)
    assert {"adversarial_term", "sparsity_term", "generator_loss", "classifier_loss", "critic_loss"} < set(names)


def test_what_a_task_may_open_by_hand():
    """A gate is free if it lies within the logical width and no earlier task has reserved it."""
    live = [np.array([True, True, True, False]), np.array([True, False])]
    reserved = [np.array([True, False, False, False]), np.array([True, False])]
    seen = np.array([True, True, False])
    capacity = make_capacity(reserved, live, sparsity_weight=0.25, seen=seen, heads=np.array([0, 0, 1]))
    assert [free.tolist() for free in capacity.free] == [[False, True, True, False], [False, False]]
    assert [mask.tolist() for mask in capacity.reserved] == [mask.tolist() for mask in reserved]
    assert (capacity.n_free, capacity.n_gates, capacity.heads.tolist()) == (2, 4, [0, 0, 1])
    assert float(capacity.sparsity_weight) == 0.25 and capacity.seen is seen
