"""Your own images, learnt class by class: the same learner on arrays from a file.

The file holds x_train, y_train, x_test and y_test: images uint8 [n, h, w] or [n, h, w, c] of any size, which are
resized to what the networks read, and integer labels, which need not start at 0.

    numpy.savez("mine.npz", x_train=..., y_train=..., x_test=..., y_test=...)
    python -m experiments.arrays --npz mine.npz
"""

import sys

from dgm_jax.commands.learn import run
from dgm_jax.commands.options import FileOptions

if __name__ == "__main__":
    sys.exit(run("arrays", __doc__, kind=FileOptions))
