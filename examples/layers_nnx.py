"""A Flax (NNX) classifier learns digits 0 to 4, grows, and learns 5 to 9; not one bit of the first task changes.

    python -m examples.layers_nnx

docs/flax.md explains it.
"""

import numpy as np
import optax
from flax import nnx

from dgm_jax import data, nn
from dgm_jax.nn.flax.nnx import MaskedConv, MaskedLinear, expand, protect, reserve, sparsity, use

epochs, batch_size, s_max = 40, 100, 100.0
digits = data.load("digits")
path = ["conv1", "conv2", "dense", "head"]  # In the order in which data flow.


class Classifier(nnx.Module):
    def __init__(self, widths, rngs):
        a, b, c = widths
        self.conv1 = MaskedConv(1, a, (3, 3), strides=2, rngs=rngs)
        self.norm1 = nnx.BatchNorm(a, rngs=rngs)
        self.conv2 = MaskedConv(a, b, (3, 3), strides=2, rngs=rngs)
        self.dense = MaskedLinear(2 * 2 * b, c, rngs=rngs)
        self.head = nnx.Linear(c, 5, rngs=rngs)  # It has no gates; each task keeps a copy.

    def __call__(self, x, *, slope):
        x = self.conv1(x, slope=slope, then=lambda y: nnx.relu(self.norm1(y)))  # The gates come after the norm.
        x = nnx.relu(self.conv2(x, slope=slope))
        x = nnx.relu(self.dense(x.reshape(len(x), -1), slope=slope))  # relu(0) = 0: a closed unit still emits 0.
        return self.head(x)


def images_of(task, images, labels):
    mine = labels // 5 == task
    return images[mine].astype(np.float32) / 255, labels[mine] % 5


@nnx.jit
def step(model, optimiser, slope, x, y):
    def loss(model):
        error = optax.softmax_cross_entropy_with_integer_labels(model(x, slope=slope), y).mean()
        return error + 0.05 * sparsity(model, slope)

    optimiser.update(model, nnx.grad(loss)(model))


def learn(model, task):
    """An ordinary training loop; only the slope of the gates and the protection are new. Returns the task."""
    x, y = images_of(task, digits.x_train, digits.y_train)
    protected = optax.chain(optax.adam(3e-3), protect(model, path))  # Protection comes after the optimiser.
    optimiser, rng = nnx.Optimizer(model, protected, wrt=nnx.Param), np.random.default_rng(task)
    for epoch in range(epochs):
        slope = nn.annealed_scale(epoch, epochs - 1, s_max)  # From soft gates to hard ones.
        for batch in np.split(rng.permutation(len(x))[: len(x) // batch_size * batch_size], len(x) // batch_size):
            step(model, optimiser, slope, x[batch], y[batch])
    return reserve(model, path)


@nnx.jit
def logits_of(model, x):
    return model(x, slope=None)  # Without a slope, gates are either open or closed.


def test(model, task):
    x, y = images_of(task, digits.x_test, digits.y_test)
    logits = logits_of(model, x)
    print(f"{np.mean(np.argmax(logits, 1) == y):.1%} on task {task}")
    return np.asarray(logits)


widths = (16, 32, 64)
model = Classifier(widths, nnx.Rngs(0))
first = learn(model, task=0)
before = test(use(model, first), task=0)

used = [int(first.masks[name].sum()) for name in ("conv1", "conv2", "dense")]
print(f"the first task uses {used} of {widths} units")
wider = Classifier([w + n for w, n in zip(widths, used)], nnx.Rngs(1))  # As many free units as before the first task.
model = expand(model, wider, path)
second = learn(model, task=1)
after = test(use(model, first), task=0)
test(use(model, second), task=1)
assert np.array_equal(before, after)  # Not one bit of the first task has changed.
