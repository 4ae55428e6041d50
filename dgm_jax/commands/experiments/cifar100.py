"""CIFAR-100, a hundred classes of colour images (the fine labels) with 500 images each: few images, many classes.

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `dgm-jax prepare cifar100` makes one. The
usual streams have tasks of 10 or 5 classes. Nothing was measured on it yet; at full size it needs a GPU.

    dgm-jax learn cifar100 --data-dir DIR --classes-per-task 10
    dgm-jax learn cifar100 --data-dir DIR --classes-per-task 5 --class-order legacy:1993
"""

from dgm_jax.commands.options import Options

OPTIONS = Options
PRESET = "best"
