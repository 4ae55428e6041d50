"""Many tasks: the classes of several data sets, one after the other, e.g. twenty of digits and MNIST.

Where no single data set at hand has that many classes. Images of all are scaled to one size; grey ones become colour
images where others are. Data sets are read as in their own experiments.

    python -m experiments.joined --of digits,mnist --data-dir DIR --train-per-class 140
"""

import sys

from dgm_jax.commands.learn import run
from dgm_jax.commands.options import JoinedOptions

if __name__ == "__main__":
    sys.exit(run("joined", __doc__, kind=JoinedOptions))
