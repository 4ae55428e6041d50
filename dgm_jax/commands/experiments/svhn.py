"""SVHN, house numbers in colour, one digit at a time: the paper's second benchmark (its table 1).

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `dgm-jax prepare svhn` makes one.
`--preset paper-svhn` takes the settings that the authors released instead of ours.

    dgm-jax learn svhn --data-dir DIR
    dgm-jax learn svhn --data-dir DIR --variant dgmw
"""

from dgm_jax.commands.options import Options

OPTIONS = Options
SHOWN = {"side": 32, "channels": 3, "per_class": 7300, "classes": 10}
