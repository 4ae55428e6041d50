"""What single baselines add to a loss or choose, against the same by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgm_jax.methods import ewc, icarl
from dgm_jax.models import dcgan


def test_herding_by_hand():
    features = np.array([[0.0], [1.0], [2.0], [9.0]])  # Mean 3.
    # 2 is closest to 3; then (2 + 1) / 2, (2 + 0) / 2 or (2 + 9) / 2: 1.5 is closest; then (3 + 9) / 3 = 4.
    assert icarl.herded(features, 3).tolist() == [2, 1, 3]


def test_weights_that_were_needed_are_held():
    """The penalty's gradient is weight * F * (theta - theta*)."""
    anchor = {"params": {"a": jnp.array([1.0, 2.0])}, "fisher": {"a": jnp.array([3.0, 0.0])}, "weight": 5.0}
    output = type("Output", (), {"logits": jnp.zeros((1, 2))})()
    labels, seen = jnp.zeros(1, jnp.int32), jnp.ones(2, bool)
    gradient = jax.grad(lambda p: ewc.OnlineEWC.loss(p, output, None, labels, seen, anchor))(
        {"a": jnp.array([2.0, 7.0])}
    )
    np.testing.assert_allclose(gradient["a"], [15.0, 0.0])


def _judge(images):
    """A random classifier of three classes on 8x8 images, what it says of `images`, and that in training mode."""
    params, statistics = dcgan.init_discriminator(jax.random.key(0), width=8, image_size=8, channels=1, n_classes=3)
    params.classifier.kernel[:] *= 20  # Confident.
    return params, statistics, dcgan.discriminate(params, statistics, images, train=False)[0].logits


def test_the_fisher_information_is_the_mean_square_of_scores():
    """Of labels drawn from the classifier's own distribution over the classes seen, one image after the other."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    images = pixels / np.float32(127.5) - 1
    params, statistics, logits = _judge(images)
    seen, key = np.array([True, True, False]), jax.random.key(5)
    actual = ewc._fisher(params, statistics, pixels, seen, key, network="dcgan")
    total = jax.tree.map(np.zeros_like, params)
    for image, own, k in zip(images, logits, jax.random.split(key, 6), strict=True):
        label = int(jax.random.categorical(k, jnp.where(seen, own, -1e30)))
        assert label < 2

        def log_likelihood(params, image=image, label=label):
            two = dcgan.discriminate(params, statistics, image[None], train=False)[0].logits[0, :2]
            return two[label] - jnp.log(jnp.sum(jnp.exp(two)))

        total = jax.tree.map(lambda t, g: t + np.asarray(g) ** 2 / 6, total, jax.grad(log_likelihood)(params))
    assert np.any(total.classifier.kernel > 1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), actual, total)


def test_distillation_by_hand():
    """Old classes are drawn to the old network's sigmoids, new ones to the labels, unseen ones count for nothing."""
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    params, statistics, before = _judge(images)
    labels, seen = np.array([1, 0, 1, 1]), np.array([True, True, False])
    anchor = {"params": params, "statistics": statistics, "old": np.array([True, False, False])}
    now = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    output = type("Output", (), {"logits": now})()
    actual = icarl._with_distillation(None, output, images, labels, seen, anchor, network="dcgan")
    target = np.stack([1 / (1 + np.exp(-np.asarray(before)[:, 0])), labels == 1], axis=1)
    p = 1 / (1 + np.exp(-now[:, :2]))
    expected = -np.mean(np.sum(target * np.log(p) + (1 - target) * np.log(1 - p), axis=1))
    assert float(actual) == pytest.approx(expected, rel=1e-5)
    assert not np.allclose(target[:, 0], labels == 0, atol=0.05)  # Else nothing was distilled.
