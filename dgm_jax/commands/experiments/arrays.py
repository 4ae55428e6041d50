"""Your own images or vectors, learnt class by class: the same learner on arrays from a file.

The file holds x_train, y_train, x_test and y_test: images uint8 [n, h, w] or [n, h, w, c] of any size, which are
resized to what the networks read, or vectors, floats [n, d], such as features of another network; and integer labels,
which need not start at 0. Vectors have a preset of their own, `vectors`.

    numpy.savez("mine.npz", x_train=..., y_train=..., x_test=..., y_test=...)
    dgm-jax learn arrays --npz mine.npz
"""

from dgm_jax.commands.options import FileOptions

OPTIONS = FileOptions
