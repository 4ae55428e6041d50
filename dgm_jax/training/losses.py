"""The objectives of section 2 of the paper: classifier, critic, its penalty."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dgm_jax.nn import platforms


def cross_entropy(
    logits: jax.Array, labels: jax.Array, seen: jax.Array | None = None, smoothing: float = 0.0
) -> jax.Array:
    """Mean cross-entropy, in nats, over the classes seen so far.

    Args:
      logits: [batch, classes].
      labels: [batch], integers.
      seen: [classes], bool; the others contribute exactly 0. None: all are seen.
      smoothing: share of the target that is spread evenly over the classes seen (Szegedy et al. 2016), in [0, 1).
    """
    log_probability = jax.nn.log_softmax(only_seen(logits, seen))
    loss = -jnp.mean(_of_labels(log_probability, labels))
    if smoothing == 0:
        return loss
    counted = jnp.ones(logits.shape[1], bool) if seen is None else seen
    even = jnp.sum(jnp.where(counted[None], log_probability, 0), axis=1) / jnp.sum(counted)
    return (1 - smoothing) * loss - smoothing * jnp.mean(even)


def log_likelihood(logits: jax.Array, labels: jax.Array, seen: jax.Array | None = None) -> jax.Array:
    """The logarithm of the probability of each label, [batch]; arguments are those of `cross_entropy`."""
    return _of_labels(jax.nn.log_softmax(only_seen(logits, seen)), labels)


def is_correct(logits: jax.Array, labels: jax.Array, seen: jax.Array | None = None) -> jax.Array:
    """1 for each image whose label has the largest logit of the classes seen, else 0: [batch], floats."""
    among = only_seen(logits, seen)
    return (_of_labels(among, labels) >= jnp.max(among, axis=1)).astype(logits.dtype)


def _of_labels(values: jax.Array, labels: jax.Array) -> jax.Array:
    """The value of each label, [batch]."""
    if platforms.form("label") == "index":
        return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    # The derivative of an index is a scatter, a kernel of its own.
    is_label = labels[:, None] == jnp.arange(values.shape[1])[None]
    return jnp.sum(jnp.where(is_label, values, 0), axis=1)


def only_seen(logits: jax.Array, seen: jax.Array | None) -> jax.Array:
    """Excludes classes not seen yet: their logits, [batch, classes], become the lowest finite number."""
    return logits if seen is None else jnp.where(seen[None], logits, jnp.finfo(logits.dtype).min)


def critic_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """`mean D(G(z)) - mean D(x)`, from the critic's values [batch]; the critic minimises it plus the penalty."""
    return jnp.mean(fake) - jnp.mean(real)


def gradient_penalty(
    critic_sum: Callable[[jax.Array], tuple[jax.Array, object]], images: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, object]]:
    """`mean (||grad_x D(x)|| - 1)^2` (Gulrajani et al. 2017), of the gradient of the *sum* of the critic's values.

    Through the batch statistics each image also moves the others' values; the norm has no epsilon.

    Args:
      critic_sum: maps images to (sum of the critic's values, anything).
      images: [batch, height, width, channels].

    Returns:
      The penalty, and the norms [batch] with what `critic_sum` returned besides.
    """
    gradients, rest = jax.grad(critic_sum, has_aux=True)(images)
    norms = jnp.sqrt(jnp.sum(jnp.square(gradients), axis=(1, 2, 3)))
    return jnp.mean(jnp.square(norms - 1)), (norms, rest)
