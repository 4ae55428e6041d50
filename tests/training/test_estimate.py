"""The guess of how long a run takes, by hand."""

import types

import jax
import pytest

from dgm_jax.config import Config
from dgm_jax.models import pair
from dgm_jax.training import estimate

CONFIG = Config().with_changes(
    image_size=16, batch_size=8, epochs=4, generator_width=3, discriminator_width=4, consolidation_steps=7, noise_dim=10
)
D = 2 * (8**2 * 25 * 1 * 4 + 4**2 * 25 * 4 * 8)  # Two layers of kernels of 5x5, to 8x8 and to 4x4.
G = 2 * (4**2 * 10 * 6 + 4**2 * 4**2 * 6 * 3 + 8**2 * 4**2 * 3 * 1)  # From noise to 4x4, to 8x8, to the image.


def test_an_iteration_by_hand():
    """A backward pass counts twice a forward pass; the penalty is forward, backward, and back through both."""
    assert pair("dcgan").discriminator_flops(4, 16, 1) == D
    classifier, generator = 3 * D, 3 * G + (D + D)
    critic = G + 2 * 3 * D + 2 * 3 * D
    for steps in (1, 5):
        expected = 8 * (steps * classifier + critic + generator)
        assert estimate.iteration_flops(CONFIG, (6, 3), 1, steps) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "replay_steps, units", [(None, 30 * 1 + 16 * 2 + 4 * 3), (1, 30 + 16 + 4), (2, 30 + 16 * 2 + 4 * 2)]
)
@pytest.mark.parametrize("n_devices", [1, 2])
def test_a_run_by_hand(monkeypatch, replay_steps, units, n_devices):
    """The first task has one epoch behind it; the last one is smaller than a mini-batch."""
    config = CONFIG.with_changes(replay_steps=replay_steps)
    times = iter([100.0, 100.0 + 5 * 2 * 1024**3 / 1e9])  # 10^9 operations a second.
    monkeypatch.setattr(estimate, "time", types.SimpleNamespace(perf_counter=lambda: next(times)))
    asked = []

    def iteration_flops(config, widths, channels, classifier_steps):
        asked.append((widths, channels))
        return 1e6 * classifier_steps

    monkeypatch.setattr(estimate, "iteration_flops", iteration_flops)
    devices = jax.local_devices()[:1] * n_devices
    seconds = estimate.estimated_seconds(config, devices, train_counts=(80, 39, 5), channels=1, epochs_done=1)
    consolidation = 3 * 7 * 8 * 3 * D  # Tasks, steps, images, forward and backward.
    assert seconds == pytest.approx(25 + (1e6 * units + consolidation) / (1e9 * n_devices * 0.25), rel=1e-9)
    assert asked == [((6, 3), 1)] * 3
