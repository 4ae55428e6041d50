"""MNIST, one digit at a time: the paper's first benchmark (its table 1, columns A5 and A10).

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `dgm-jax prepare mnist` makes one.
`--preset paper-mnist` takes the settings that the authors released instead of ours. Expect A_10 of 98.5 % in 22 minutes
on one core for the first command, and 97.9 % in about 10 minutes for the second.

    dgm-jax learn mnist --data-dir DIR --preset best --epochs 8
    dgm-jax learn mnist --data-dir DIR --preset best --train-per-class 500 --epochs 20
    dgm-jax learn mnist --data-dir DIR --variant dgmw --preset paper-mnist
"""

from dgm_jax.commands.options import Options

OPTIONS = Options
SHOWN = {"side": 28, "channels": 1, "per_class": 6000, "classes": 10}
