"""An Equinox classifier learns digits 0 to 4, then 5 to 9; not one bit of the first task changes.

    python -m pip install equinox
    python -m examples.layers_equinox

docs/flax.md explains it; tried with Equinox 0.13.8. The second task uses units that the first one left free.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dgm_jax import data, nn

steps, width, s_max = 200, 96, 100.0
digits = data.load("digits")


class MaskedLinear(eqx.Module):
    kernel: jax.Array  # [inputs, units]
    gate: jax.Array  # [units]: the embeddings of the gates.


class Classifier(eqx.Module):
    layers: list
    head: eqx.nn.Linear

    def __call__(self, x, masks):
        for layer, mask in zip(self.layers, masks):
            x = jax.nn.relu(nn.masked_dense({"kernel": layer.kernel}, x, mask))
        return jax.vmap(self.head)(x)


def kernels(model):
    return [layer.kernel for layer in model.layers]


def gates(model):
    return [layer.gate for layer in model.layers]


def not_gates(params):  # Weight decay would turn a gate of -inf into NaN.
    return eqx.tree_at(gates, jax.tree.map(lambda _: True, params), [False] * len(params.layers))


optimiser = optax.chain(optax.adamw(3e-3, weight_decay=0.1, mask=not_gates), nn.protect())  # One for all tasks.


@eqx.filter_jit
def step(model, state, reserved, slope, x, y):
    def loss(model):
        masks = [nn.gate(gate, slope, epoch_scale=slope) for gate in gates(model)]
        error = optax.softmax_cross_entropy_with_integer_labels(model(x, masks), y).mean()
        return error + 0.1 * nn.sparsity(masks, reserved)

    updates, state = optimiser.update(eqx.filter_grad(loss)(model), state, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), state


def images_of(task, images, labels):
    mine = labels // 5 == task
    return images[mine].reshape(-1, 64).astype(np.float32) / 255, labels[mine] % 5


def learn(model, reserved, task):
    """Returns the model after a task, the task's masks and head, and what is reserved now."""
    x, y = images_of(task, digits.x_train, digits.y_train)
    weights = [{"kernel": mask} for mask in nn.reserved_weights(reserved, kernels(model))]
    state = optimiser.init(eqx.filter(model, eqx.is_array))
    state = nn.with_reserved(state, {"layers": weights})  # Named as in the model.
    for i in range(steps):
        model, state = step(model, state, reserved, jnp.float32(nn.annealed_scale(i, steps, s_max)), x, y)
    masks = [nn.binarise(gate) for gate in gates(model)]
    return model, (masks, model.head), [nn.reserve(old, mask) for old, mask in zip(reserved, masks)]


def test(model, learnt, task):
    masks, head = learnt
    x, y = images_of(task, digits.x_test, digits.y_test)
    used = nn.task_kernels(kernels(model), masks)  # 0 in place of every weight that the task does not use.
    logits = eqx.tree_at(lambda m: (m.head, *kernels(m)), model, (head, *used))(x, masks)
    print(f"{np.mean(np.argmax(logits, 1) == y):.1%} on task {task}")
    return np.asarray(logits)


keys = jax.random.split(jax.random.key(0), 4)
initial, free = jax.nn.initializers.he_normal(), [jnp.zeros(width, bool)] * 2
layers = [MaskedLinear(initial(key, (n, width)), jnp.zeros(width)) for n, key in ((64, keys[0]), (width, keys[1]))]
model = Classifier(layers, eqx.nn.Linear(width, 5, key=keys[2]))
model, first, reserved = learn(model, free, task=0)
before = test(model, first, task=0)
# A new head, and gates that are half open.
fresh = (eqx.nn.Linear(width, 5, key=keys[3]), jnp.zeros(width), jnp.zeros(width))
model = eqx.tree_at(lambda m: (m.head, *gates(m)), model, fresh)
model, second, reserved = learn(model, reserved, task=1)
after = test(model, first, task=0)
test(model, second, task=1)
assert np.array_equal(before, after)
