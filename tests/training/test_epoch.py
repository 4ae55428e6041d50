"""The loop of iterations: what goes into its mini-batches, and that it is the plain loop over the three steps."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import golden_names, small_runs

from dgm_jax.models.generator import conditioned_noise
from dgm_jax.models.prediction import to_unit_range
from dgm_jax.nn import platforms
from dgm_jax.training import epoch as loop
from dgm_jax.training.epoch import ReplayedImages, TaskImages, run_steps
from dgm_jax.training.gates import slopes
from dgm_jax.training.state import Clock
from dgm_jax.training.step import Step
from dgm_jax.training.task import begin_task

BATCH, TASK, STEPS = 8, 2, 3
OWN, OLD = 29, (13, 20)  # Images of the task, and replayed ones of each earlier task.


def _images():
    """Every image is told by its first pixel: 100 * source + number; source 0 is the task, u + 1 is task u."""
    pixels = np.zeros((31, 8, 8, 1), np.uint8)
    pixels[:OWN, 0, 0, 0] = np.arange(OWN)
    data = TaskImages(pixels, np.full(31, TASK, np.int32), np.int32(OWN))
    old = np.zeros((3, 25, 8, 8, 1), np.uint8)
    for u, count in enumerate(OLD):
        old[u, :count, 0, 0, 0] = 100 * (u + 1) + np.arange(count)
    labels = np.broadcast_to(np.arange(3, dtype=np.int32)[:, None], (3, 25))
    return jax.tree.map(jnp.asarray, (data, ReplayedImages(old, labels, np.array([*OLD, 0], np.int32))))


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Takes the classifier's place: its state is a list of the mini-batches that it was given."""

    config: object

    def classifier_step(self, state, images, labels, seen):
        i, kept, kept_labels = state
        number = jnp.round((images[:, 0, 0, 0] + 1) * 127.5).astype(jnp.int32)
        state = (i + 1, kept.at[i].set(number), kept_labels.at[i].set(labels))
        return state, {"classifier_loss": jnp.ones(()), "classifier_accuracy": jnp.ones(())}


def _pools(replay_steps, n_pools):
    """The mini-batches of several pools: numbers and labels, [pools, mini-batches, BATCH]."""
    data, replay = _images()
    recorder = Recorder(small_runs.small(replay_steps=replay_steps))
    n_batches = min(TASK + 1, replay_steps or TASK + 1)

    @jax.jit
    def draw(key):
        rows_key, uniform_key = jax.random.split(key)
        rows = jax.random.permutation(rows_key, OWN)[:BATCH]
        uniform = jax.random.uniform(uniform_key, (7, BATCH))  # Four rows for places, three for picks.
        empty = jnp.full((TASK + 2, BATCH), -1)
        (count, numbers, labels), _ = loop._classify_pool(
            (0, empty, empty), data, replay, rows, TASK, uniform, step=recorder, seen=None, split=lambda a: a
        )
        return rows, count, numbers, labels

    rows, counts, numbers, labels = jax.vmap(draw)(jax.random.split(jax.random.key(0), n_pools))
    assert np.all(counts == n_batches) and np.all(numbers[:, n_batches:] == -1)
    return np.asarray(rows), np.asarray(numbers[:, :n_batches]), np.asarray(labels[:, :n_batches])


def _check_images(rows, numbers, labels):
    source, number = np.divmod(numbers, 100)
    np.testing.assert_array_equal(labels, np.where(source == 0, TASK, source - 1))
    assert np.all(number < np.array([OWN, *OLD])[source])
    for pool, own, of in zip(numbers, rows, source):
        assert set(pool[of == 0]) <= set(own)
    return source


def test_the_pool_is_the_real_batch_and_as_many_images_of_every_earlier_task():
    rows, numbers, labels = _pools(None, 50)
    source = _check_images(rows, numbers, labels)
    for pool, own, of in zip(numbers, rows, source):
        assert sorted(pool[of == 0]) == sorted(own)  # Each real image once.
        assert [np.sum(of == s) for s in range(3)] == [BATCH] * 3
    assert {0, 1, 2} == set(source[:, 0].ravel()) and np.ptp([np.sum(s[0] == 0) for s in source]) > 1  # Shuffled.
    assert {n for n in numbers[source == 2]} == set(range(200, 220))  # All of them are picked, in time.


@pytest.mark.parametrize("replay_steps", [1, 2])
def test_fewer_mini_batches_are_a_fair_part_of_the_pool(replay_steps):
    rows, numbers, labels = _pools(replay_steps, 400)
    source = _check_images(rows, numbers, labels)
    shares = [np.mean(source == s) for s in range(3)]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    for task, count in enumerate(OLD):
        picked = np.bincount(numbers[source == task + 1] - 100 * (task + 1), minlength=count)
        assert len(picked) == count and picked.min() > 0.4 * picked.mean()


def test_before_the_first_task_nothing_is_replayed():
    data, replay = _images()
    empty = dataclasses.replace(replay, counts=jnp.zeros(3, jnp.int32))
    recorder = Recorder(small_runs.small(replay_steps=None))
    rows = jnp.arange(BATCH)
    state = (0, jnp.full((2, BATCH), -1), jnp.full((2, BATCH), -1))
    uniform = jax.random.uniform(jax.random.key(0), (7, BATCH))
    (count, numbers, _), _ = loop._classify_pool(
        state, data, empty, rows, 0, uniform, step=recorder, seen=None, split=lambda a: a
    )
    assert count == 1 and sorted(numbers[0].tolist()) == list(range(BATCH))


@pytest.mark.parametrize(
    "variant, replay_steps",
    [
        pytest.param("dgma", None, marks=pytest.mark.slow),
        pytest.param("dgma", 1, marks=pytest.mark.slow),
        ("dgmw", 2),
    ],
)
def test_it_is_the_plain_loop(variant, replay_steps):
    """Against Python's loop over the three steps, made of XLA's own convolutions, on the same random numbers."""
    config = small_runs.small(variant, image_size=8, replay_steps=replay_steps)
    trainer = small_runs.trainer(config, n_classes=4)
    widths = [first + 2 for first in trainer.networks.first_widths]
    rng = np.random.default_rng(0)
    kernels = [
        rng.normal(0, 0.2, s).astype(np.float32)
        for s in golden_names.chain(widths).kernel_shapes(widths, config.networks.noise_dim)
    ]
    reserved = [rng.random(shape) < 0.5 for shape in trainer.networks.mask_shapes(widths)]
    state, capacity = begin_task(
        trainer.networks, jax.random.key(1), kernels, reserved, physical=widths, classes=(TASK,), discriminator=None
    )
    pixels, replay = _images()
    noisy = rng.integers(0, 256, pixels.images.shape, np.uint8)
    data = dataclasses.replace(pixels, images=noisy)
    replay = dataclasses.replace(replay, images=rng.integers(0, 256, replay.images.shape, np.uint8))
    clock, key = Clock(*map(np.int32, (TASK, 1, 3, STEPS))), jax.random.key(7)
    step = Step.of(config)
    one = partial(run_steps, step=step, n_conditioned=4, n_devices=1)
    sums = np.zeros(len(step.metric_names), np.float32)
    actual, _ = jax.jit(one)(state, data, replay, capacity, clock, key, sums, 0, STEPS, np.int32(0))

    compare = partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-4)
    with platforms.compiled_for("tpu"):
        expected = _plainly(step, state, data, replay, capacity, clock, key)
    jax.tree.map(compare, jax.device_get(actual), jax.device_get(expected))
    with platforms.compiled_for("cuda"):
        on_gpu, _ = jax.jit(one)(state, data, replay, capacity, clock, key, sums, 0, STEPS, np.int32(0))
    jax.tree.map(compare, jax.device_get(on_gpu), jax.device_get(expected))


def _plainly(step, state, data, replay, capacity, clock, key):
    """One iteration after the other, written as a plain loop."""
    config = step.config
    learn, criticise, generate = (jax.jit(f) for f in (step.classifier_step, step.critic_step, step.generator_step))
    epoch_key = jax.random.fold_in(key, clock.epoch)
    order_key = jax.random.fold_in(epoch_key, 0)
    order = np.argsort(np.asarray(jax.random.uniform(order_key, (31,)))[:OWN])
    for i in range(STEPS):
        uniform_key, noise_key = jax.random.split(jax.random.fold_in(epoch_key, i + 1))
        rows = order[i * BATCH : (i + 1) * BATCH]
        alpha, *uniform = np.asarray(jax.random.uniform(uniform_key, (8, BATCH)))
        pool = [(data.images[row], TASK, place) for row, place in zip(rows, uniform[0])]
        for u in range(TASK):
            numbers = (uniform[4 + u] * np.float32(OLD[u])).astype(int)
            pool += [(replay.images[u, n], u, place) for n, place in zip(numbers, uniform[1 + u])]
        pool.sort(key=lambda entry: entry[2])
        for j in range(min(TASK + 1, config.replay.replay_steps or TASK + 1)):
            images, labels, _ = zip(*pool[j * BATCH : (j + 1) * BATCH])
            state, _ = learn(state, to_unit_range(jnp.stack(images)), jnp.asarray(labels), capacity.seen)
        labels = data.labels[rows]
        noise = [
            conditioned_noise(k, labels, noise_dim=config.networks.noise_dim, n_conditioned=4)
            for k in jax.random.split(noise_key)
        ]
        head, scales = labels - TASK, slopes(config, clock, i)
        images = to_unit_range(jnp.asarray(data.images[rows]))
        state, _ = criticise(state, images, head, noise[0], alpha, scales)
        state, _ = generate(state, images, labels, head, noise[1], scales, capacity)
    return state


@pytest.mark.parametrize("count, capacity", [(3, 8), (8, 8), (5, 16), (1, 4)])
def test_an_order_holds_every_image_equally_often(count, capacity):
    """Padding never comes, and the images of a small task repeat only once all have come."""
    order = np.asarray(loop.epoch_order(jax.random.key(0), capacity, np.int32(count)))
    assert sorted(order[:count]) == list(range(count))
    np.testing.assert_array_equal(order, np.resize(order[:count], capacity))


@pytest.mark.parametrize("n_tasks", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_pool_holds_the_images_that_the_random_numbers_say(n_tasks, seed):
    """Which images, and in which order: against a plain loop over the same random numbers, exactly."""
    rng = np.random.default_rng(seed)
    data, replay = _images()
    rows, uniform = rng.permutation(OWN)[:BATCH], rng.random((7, BATCH), np.float32)
    uniform[4:, 0], uniform[4:, 1] = 0.0, np.nextafter(np.float32(1), np.float32(0))  # The first image, and the last.
    pool = [(place, row, TASK) for place, row in zip(uniform[0], rows)]
    for u in range(n_tasks):
        numbers = np.floor(uniform[4 + u] * np.float32(OLD[u])).astype(int)
        pool += [(place, 100 * (u + 1) + number, u) for place, number in zip(uniform[1 + u], numbers)]
    pool.sort()
    empty = jnp.full((TASK + 1, BATCH), -1)
    recorder = Recorder(small_runs.small(replay_steps=None))
    (count, numbers, labels), _ = loop._classify_pool(
        (0, empty, empty),
        data,
        replay,
        jnp.asarray(rows),
        n_tasks,
        jnp.asarray(uniform),
        step=recorder,
        seen=None,
        split=lambda a: a,
    )
    assert count == n_tasks + 1
    assert numbers[:count].ravel().tolist() == [number for _, number, _ in pool]
    assert labels[:count].ravel().tolist() == [label for _, _, label in pool]
