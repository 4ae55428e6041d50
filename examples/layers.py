"""A plain classifier learns digits 0 to 4, then 5 to 9, with masked layers; not one bit of the first task changes.

    python -m examples.layers

docs/layers.md explains it. In each task, gates choose the units that it uses; those are reserved for good. Each task
has a separate head and separate gates; at test time the task is given.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dgm_jax import data, nn

steps, width, s_max = 300, 128, 100.0
digits = data.load("digits")
images, test_images = (np.reshape(x / np.float32(255), (-1, 64)) for x in (digits.x_train, digits.x_test))
labels, test_labels = digits.y_train, digits.y_test
initial, keys = jax.nn.initializers.he_normal(), jax.random.split(jax.random.key(0), 4)
kernels = [initial(keys[0], (64, width)), initial(keys[1], (width, width))]
reserved = [jnp.zeros(width, bool), jnp.zeros(width, bool)]
optimiser = optax.chain(optax.adam(3e-3), nn.protect())  # Protection comes after the optimiser.


def logits(kernels, head, masks, x):
    for kernel, mask in zip(kernels, masks):
        x = jax.nn.relu(nn.masked_dense({"kernel": kernel}, x, mask))  # relu(0) = 0: a closed unit still emits 0.
    return x @ head


@jax.jit
def step(params, state, i, x, y, reserved):
    s = nn.annealed_scale(i, steps, s_max)  # The slope of the gates, from soft to hard.

    def loss(params):
        masks = [nn.gate(e, s, epoch_scale=s) for e in params["embeddings"]]
        output = logits(params["kernels"], params["head"], masks, x)
        error = optax.softmax_cross_entropy_with_integer_labels(output, y).mean()
        return error + 0.1 * nn.sparsity(masks, reserved)

    updates, state = optimiser.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


tasks, outputs = [], {}
for task in (0, 1):
    mine, embeddings = labels // 5 == task, [jnp.zeros(width), jnp.zeros(width)]
    params = {"kernels": kernels, "head": initial(keys[2 + task], (width, 5)), "embeddings": embeddings}
    protected = {"kernels": nn.reserved_weights(reserved, kernels)}
    state = nn.with_reserved(optimiser.init(params), protected)
    for i in range(steps):
        params, state = step(params, state, i, images[mine], labels[mine] % 5, reserved)
    kernels, masks = params["kernels"], [nn.binarise(e) for e in params["embeddings"]]
    reserved = [nn.reserve(old, new) for old, new in zip(reserved, masks)]
    tasks.append((params["head"], masks))

    for seen, (head, masks) in enumerate(tasks):
        mine = test_labels // 5 == seen
        used_by_task = nn.task_kernels(kernels, masks)
        outputs[task, seen] = logits(used_by_task, head, masks, test_images[mine])
        accuracy = np.mean(np.argmax(outputs[task, seen], 1) == test_labels[mine] % 5)
        used = [int(mask.sum()) for mask in masks]
        print(f"after task {task}: {accuracy:.1%} on task {seen}, which uses {used} of {width} units")

assert np.array_equal(outputs[0, 0], outputs[1, 0])  # Not one bit of the first task has changed.
