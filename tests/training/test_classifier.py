"""The consolidated classifier's training against a loop written out by hand, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import small_runs

from dgm_jax.models import pair
from dgm_jax.training import classifier
from dgm_jax.training.devices import AXIS
from dgm_jax.training.epoch import TaskImages, by_class

N_CLASSES, SEEN = 5, np.array([True, True, True, False, True])
STEPS, BATCH, RATE = 6, 7, 0.02


def images(n, classes, seed, padding):
    """Random images of some classes, and rows of padding that must never be picked."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, 8, 8, 1), np.uint8)
    labels = rng.choice(classes, n).astype(np.int32)
    return TaskImages(
        np.concatenate([pixels, np.full((padding, 8, 8, 1), 255, np.uint8)]),
        np.concatenate([labels, np.full(padding, 3, np.int32)]),
        np.int32(n),
    )


def by_hand(params, statistics, sources, key, config, smoothing):
    """Adam, with the step size along a cosine, on mini-batches that are picked source by source."""
    target_of_class = np.zeros((N_CLASSES, N_CLASSES))
    target_of_class[:, SEEN] = smoothing / SEEN.sum()
    target_of_class += (1 - smoothing) * np.eye(N_CLASSES)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def step_of_loss(params, running, x, y):
        output, updated = pair("dcgan").discriminate(params, running, x, train=True)
        exponentials = jnp.where(SEEN[None], jnp.exp(output.logits), 0)
        probability = exponentials / exponentials.sum(axis=1, keepdims=True)
        logarithms = jnp.where(SEEN[None], jnp.log(jnp.where(SEEN[None], probability, 1)), 0)
        return -jnp.mean(jnp.sum(jnp.asarray(target_of_class)[y] * logarithms, axis=1)), (updated, probability)

    parts = {1: (BATCH,), 2: (4, 3)}[len(sources)]
    first, second = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
    sums = np.zeros(2)
    for step in range(STEPS):
        keys = jax.random.split(jax.random.fold_in(key, step), len(sources) + 1)
        rows = [np.asarray(jax.random.randint(k, (n,), 0, s.count)) for k, n, s in zip(keys, parts, sources)]
        x = np.concatenate([s.images[r] for s, r in zip(sources, rows)]).astype(np.float32) / np.float32(127.5) - 1
        y = np.concatenate([s.labels[r] for s, r in zip(sources, rows)])

        (value, (statistics, probability)), gradient = step_of_loss(params, statistics, jnp.asarray(x, jnp.float64), y)
        sums += [value, np.mean(np.argmax(probability, axis=1) == y)]
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradient)
        rate = RATE * (1 + np.cos(np.pi * step / STEPS)) / 2

        def moved(p, m, v, rate=rate, step=step):
            return p - rate * (m / (1 - 0.9 ** (step + 1))) / (jnp.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)

        params = jax.tree.map(moved, params, first, second)
    return params, statistics, sums


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("n_sources", [1, 2])
def test_steps_follow_the_definition(n_sources, smoothing, float64):
    config = small_runs.SMALL.with_changes(
        image_size=8,
        batch_size=BATCH,
        consolidation_steps=STEPS,
        consolidation_learning_rate=RATE,
        consolidation_smoothing=smoothing,
    )
    begun = classifier.init_classifier(jax.random.key(1), config, channels=1, n_classes=N_CLASSES)
    params, statistics = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (begun.params, begun.statistics))
    begun = classifier.start_training(params, statistics, config)
    sources = (images(40, [0, 1, 2], 0, padding=9), images(5, [4], 1, padding=3))[:n_sources]
    placed = jax.tree.map(jnp.asarray, sources)
    key = jax.random.key(2)

    # In two calls, as an epoch may be cut.
    run = jax.vmap(
        partial(classifier.run_classifier_steps, config=config, n_devices=1), None, axis_name=AXIS, axis_size=1
    )
    state, sums = begun, jnp.zeros(2)
    for start, stop in ((0, 2), (2, STEPS)):
        state, sums = jax.tree.map(
            lambda a: a[0], run(state, placed, jnp.asarray(SEEN), None, key, sums, start, stop, jnp.int32(0))
        )

    expected, expected_statistics, expected_sums = by_hand(params, statistics, sources, key, config, smoothing)
    for found, right in ((state.params, expected), (state.statistics, expected_statistics), (sums, expected_sums)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, right
        )  # The cosine is float32
    assert np.all(state.params.classifier.bias[3] == begun.params.classifier.bias[3])  # The class that is not seen.


def test_balanced_mini_batches():
    """Of any class that has images, then any of its images: whatever their numbers, and never of the padding."""
    labels = np.array([4, 0, 4, 2, 4, 4], np.int32)  # Class 3 has none, class 5 does not exist yet.
    pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    source = by_class(pixels, labels, capacity=9, n_classes=6)
    assert source.starts.tolist() == [0, 1, 2, 6, 6, 6, 6]
    n = 9000
    drawn, classes = classifier._mini_batch([jax.random.key(3)], (jax.tree.map(jnp.asarray, source),), n)
    drawn = np.asarray(drawn).ravel()
    np.testing.assert_array_equal(classes, labels[drawn])
    shares = np.bincount(drawn, minlength=6) / n
    expected = np.where(labels == 4, 1 / 12, 1 / 3)
    assert np.all(np.abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / n))
