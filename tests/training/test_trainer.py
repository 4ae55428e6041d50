"""The loops of steps of several runs side by side: here with small sums in place of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from support import small_runs

from dgm_jax.training import trainer as trainer_module
from dgm_jax.training.trainer import Trainer
from dgm_jax.types import Norm


def _trainer(monkeypatch, name, steps) -> Trainer:
    monkeypatch.setattr(trainer_module, name, steps)
    return small_runs.trainer(small_runs.small("dgma", image_size=8))


@struct.dataclass
class _Generator:
    norms: list[Norm]


@struct.dataclass
class _State:
    generator: _Generator


def _random(keys):
    return [np.asarray(jax.random.uniform(key, ())) for key in keys]


@pytest.mark.parametrize("n_runs", [1, 2, 3])
def test_each_run_trains_its_classifier_on_its_own(monkeypatch, n_runs):
    """State, images, anchor, key and sums belong to a run; the classes seen, start and stop to all."""

    def steps(state, sources, seen, anchor, key, sums, start, stop, shard, *, config, n_devices, axis_name, loss):
        assert (
            state.ndim == sources[0].ndim == anchor.ndim == key.ndim == 0 and seen.shape == (3,) and sums.shape == (2,)
        )
        done = jnp.float32(stop - start)
        own = sources[0] + 10 * anchor + jax.random.uniform(key, ()) + jnp.sum(seen)
        return state + done * own, sums + done * jnp.stack([own, 2 * own])

    trainer = _trainer(monkeypatch, "run_classifier_steps", steps)
    keys = list(jax.random.split(jax.random.key(0), n_runs))
    first, sources, anchors = (np.arange(1.0, 1 + n_runs, dtype=np.float32) * unit for unit in (1000, 1, 7))
    done = []
    stacked = trainer.stack_runs([(f, s, a) for f, s, a in zip(first, sources, anchors)])
    state, means = trainer.train_classifier(
        stacked[0],
        (stacked[1],),
        np.array([True, True, False]),
        keys,
        start=2,
        stop=9,
        on_steps=done.append,
        anchor=stacked[2],
    )
    own = sources + 10 * anchors + np.array(_random(keys)) + 2
    np.testing.assert_allclose(trainer.split_runs(jax.device_get(state), n_runs), first + 7 * own, rtol=1e-6)
    assert sum(done) == 7 and min(done) > 0
    for mean, value in zip(means, own, strict=True):
        assert mean == pytest.approx({"consolidation_loss": value, "consolidation_accuracy": 2 * value}, rel=1e-5)


@pytest.mark.parametrize("n_runs", [1, 2])
def test_each_run_trains_an_epoch_on_its_own(monkeypatch, n_runs):
    """State, images, replay, capacity, key and sums belong to a run; the clock, start and stop to all."""
    names = small_runs.trainer(small_runs.small("dgma", image_size=8)).step.metric_names

    def steps(state, data, replay, capacity, clock, key, sums, start, stop, shard, **_):
        assert data.ndim == replay.ndim == capacity.ndim == key.ndim == clock.epoch.ndim == 0 and sums.shape == (
            len(names),
        )
        own = data + 10 * replay + 100 * capacity + jax.random.uniform(key, ()) + 1000 * clock.task + 5000 * clock.epoch
        return state, sums + (stop - start) * own * jnp.arange(len(names))

    trainer = _trainer(monkeypatch, "run_steps", steps)
    keys = list(jax.random.split(jax.random.key(0), n_runs))
    state = trainer.stack_runs([_State(_Generator([Norm(np.ones(5, np.float32), np.zeros(5, np.float32))]))] * n_runs)
    data, replay, capacity = (np.arange(1.0, 1 + n_runs, dtype=np.float32) * unit for unit in (1, 2, 3))
    stacked = trainer.stack_runs([(d, r, c) for d, r, c in zip(data, replay, capacity)])
    assert trainer.is_new_shape((5,), n_runs)
    done = []
    _, means = trainer.run_epoch(state, *stacked, keys, task=2, epoch=3, steps=6, on_steps=done.append)
    own = data + 10 * replay + 100 * capacity + np.array(_random(keys)) + 2000 + 15000
    assert sum(done) == 6
    for mean, value in zip(means, own, strict=True):
        np.testing.assert_allclose([mean[name] for name in names], value * np.arange(len(names)), rtol=1e-5)
    assert not trainer.is_new_shape((5,), n_runs) and trainer.is_new_shape((6,), n_runs)
    assert trainer.is_new_shape((5,), n_runs + 1)
