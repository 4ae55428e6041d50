"""MNIST, one digit at a time: the paper's first benchmark (its table 1, columns A5 and A10).

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `python -m dgm_jax prepare mnist` makes one.
`--preset paper-mnist` takes the settings that the authors released instead of ours.

    python -m experiments.mnist --data-dir DIR
    python -m experiments.mnist --data-dir DIR --train-per-class 500 --variant dgmw
"""

import sys

from dgm_jax.commands.learn import run

if __name__ == "__main__":
    sys.exit(run("mnist", __doc__))
