"""What the core does alone: a program for an environment without the extras, `python core.py MEMORY.safetensors`."""

import hashlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dgm_jax
from dgm_jax import data, nn
from dgm_jax.errors import EXTRAS, MissingExtra
from dgm_jax.memory.classifier import Classifier
from dgm_jax.models import pair


def draw(memory_file: str) -> str:
    """Loads a memory and draws from it; returns a checksum of the images."""
    memory = dgm_jax.load_memory(memory_file)
    content = hashlib.sha256()
    for label in memory.labels:
        images = np.asarray(memory.sample(label, 3, jax.random.key(label)))
        assert len(images) == 3 and np.isfinite(images).all()
        content.update(images.tobytes())
    return content.hexdigest()


def draw_from_demos() -> None:
    """They are installed with the package."""
    for name in ("demo:digits", "demo:mnist"):
        memory = dgm_jax.load_memory(name)
        assert memory.labels == tuple(range(10))
        assert memory.sample(3, 2, jax.random.key(0)).shape == (2, memory.image_size, memory.image_size, 1)


def predict() -> None:
    """Predicts the classes of the digits that come with the package, with a network of their size."""
    digits = data.load("digits")
    assert digits.x_train.shape == (1437, 8, 8, 1)
    params, statistics = pair("dcgan").init_discriminator(
        jax.random.key(0), width=2, image_size=8, channels=1, n_classes=10
    )
    names = tuple(map(str, range(10)))
    classifier = Classifier(params, statistics, "dcgan", image_shape=(8, 8, 1), labels=tuple(range(10)), names=names)
    labels, probabilities = classifier.predict(digits.x_test[:5])
    assert labels.shape == (5,) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def learn_with_layers() -> None:
    """A step of an optimiser: reserved weights stay, others change."""
    reserved = jnp.array([True, False, False])
    params = {"kernel": jnp.ones((4, 3))}
    optimiser = optax.chain(optax.adamw(0.1), nn.protect({"kernel": jnp.broadcast_to(reserved, (4, 3))}))

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(nn.masked_dense(params, jnp.ones((2, 4)), nn.gate(jnp.zeros(3), 1.0, epoch_scale=1.0)) ** 2)

    updates, _ = optimiser.update(jax.grad(loss)(params), optimiser.init(params), params)
    changed = np.asarray(optax.apply_updates(params, updates)["kernel"]) != 1
    assert not changed[:, 0].any() and changed[:, 1:].all()


def name_what_is_missing() -> None:
    """What the extras bring is refused in one line."""
    cases = {
        "train": (lambda: dgm_jax.Learner, lambda: dgm_jax.load_memory(".")),
        "data": (lambda: data.load("digits").resized(16), lambda: data.load("mnist", ".")),
    }
    for extra, calls in cases.items():
        for call in calls:
            try:
                call()
            except MissingExtra as error:
                assert str(error).endswith(f' is not installed; run: python -m pip install "dgm-jax[{extra}]"'), error
            except data.DataError as error:  # No folder of MNIST is here.
                assert "mnist" in str(error)
            else:
                raise AssertionError(f"{extra} is not needed")


if __name__ == "__main__":
    (file,) = sys.argv[1:]
    checksum = draw(file)
    draw_from_demos()
    predict()
    learn_with_layers()
    name_what_is_missing()
    extras = {name.partition(".")[0] for name in sys.modules} & set(EXTRAS)
    assert not extras, extras
    print(dgm_jax.__file__, checksum)
