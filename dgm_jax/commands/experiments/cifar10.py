"""CIFAR-10, ten classes of colour images, one at a time: the hardest small data set of the paper (its table 1).

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `dgm-jax prepare cifar10` makes
one. The authors released no settings for CIFAR-10: these are ours. Expect A_10 of 64.0 %, and 70.8 % of the combined
reading, in an hour on one core for the first command. On CPUs with bf16 products it is faster than without.

    dgm-jax learn cifar10 --data-dir DIR --preset best --variant dgmw --precision bf16
    dgm-jax learn cifar10 --data-dir DIR
    dgm-jax learn cifar10 --data-dir DIR --variant dgmw --classes-per-task 2
"""

from dgm_jax.commands.options import Options

OPTIONS = Options
SHOWN = {"side": 32, "channels": 3, "per_class": 5000, "classes": 10}
