"""CIFAR-10, ten kinds of things in colour, one at a time: the hardest of the paper's small images (its table 1).

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `python -m dgm_jax prepare cifar10` makes
one. The authors released no settings for CIFAR-10: these are ours.

    python -m experiments.cifar10 --data-dir DIR
    python -m experiments.cifar10 --data-dir DIR --preset best --variant dgmw --train-per-class 1500
    python -m experiments.cifar10 --data-dir DIR --variant dgmw --classes-per-task 2
"""

import sys

from dgm_jax.commands.learn import run

if __name__ == "__main__":
    sys.exit(run("cifar10", __doc__))
