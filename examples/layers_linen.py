"""A Flax (linen) classifier learns digits 0 to 4, then 5 to 9; not one bit of the first task changes.

    python -m examples.layers_linen

docs/flax.md explains it. One optimiser serves both tasks, so that nothing is compiled again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from flax.training.train_state import TrainState

from dgm_jax import data, nn
from dgm_jax.nn.flax.linen import MaskedConv, MaskedDense, reserve, reserved_weights, sparsity, use

epochs, batch_size, s_max = 40, 100, 100.0
digits = data.load("digits")
path = ["conv1", "conv2", "dense"]  # Without the head: each task has its own, and nothing grows.


class Classifier(linen.Module):
    @linen.compact
    def __call__(self, x, *, slope):
        x = linen.relu(MaskedConv(24, (3, 3), strides=2, name="conv1")(x, slope=slope))
        x = linen.relu(MaskedConv(48, (3, 3), strides=2, name="conv2")(x, slope=slope))
        x = linen.relu(MaskedDense(96, name="dense")(x.reshape(len(x), -1), slope=slope))
        return linen.Dense(5, name="head")(x)


def images_of(task, images, labels):
    mine = labels // 5 == task
    return images[mine].astype(np.float32) / 255, labels[mine] % 5


@jax.jit
def step(state, reserved, slope, x, y):
    def loss(params):
        logits = state.apply_fn({"params": params}, x, slope=slope)
        error = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return error + 0.05 * sparsity({"params": params, "reserved": reserved}, slope)

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


net = Classifier()
optimiser = optax.chain(optax.adam(3e-3), nn.protect())  # One for all tasks: nothing is compiled again.


def learn(variables, task):
    """Returns the variables after a task, and the task."""
    x, y = images_of(task, digits.x_train, digits.y_train)
    state = TrainState.create(apply_fn=net.apply, params=variables["params"], tx=optimiser)
    state = state.replace(opt_state=nn.with_reserved(state.opt_state, reserved_weights(variables, path)))
    rng = np.random.default_rng(task)
    for epoch in range(epochs):
        slope = nn.annealed_scale(epoch, epochs - 1, s_max)
        for batch in np.split(rng.permutation(len(x))[: len(x) // batch_size * batch_size], len(x) // batch_size):
            state = step(state, variables["reserved"], slope, x[batch], y[batch])
    return reserve({"params": state.params, "reserved": variables["reserved"]}, path)


@jax.jit
def logits_of(variables, x):
    return net.apply(variables, x, slope=None)  # Without a slope, gates are either open or closed.


def test(variables, task):
    x, y = images_of(task, digits.x_test, digits.y_test)
    logits = logits_of(variables, x)
    print(f"{np.mean(np.argmax(logits, 1) == y):.1%} on task {task}")
    return np.asarray(logits)


variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), slope=None)
variables, first = learn(variables, task=0)
before = test(use(variables, first), task=0)
variables, second = learn(variables, task=1)
after = test(use(variables, first), task=0)
test(use(variables, second), task=1)
assert np.array_equal(before, after)
