"""SVHN, house numbers in colour, one digit at a time: the paper's second benchmark (its table 1).

The data are read from a folder of TensorFlow Datasets, without TensorFlow; `python -m dgm_jax prepare svhn` makes one.
`--preset paper-svhn` takes the settings that the authors released instead of ours.

    python -m experiments.svhn --data-dir DIR
    python -m experiments.svhn --data-dir DIR --variant dgmw
"""

import sys

from dgm_jax.commands.learn import run

if __name__ == "__main__":
    sys.exit(run("svhn", __doc__))
