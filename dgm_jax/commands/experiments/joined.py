"""Many tasks: the classes of several data sets, one after the other, e.g. twenty of digits and MNIST.

This makes long streams from small data sets. All images are scaled to one size; grey images become colour images if
others are in colour. Each data set is read as in its experiment. What to expect, with commands, is in
docs/results/best.md.

    dgm-jax learn joined --of digits,mnist --data-dir DIR --train-per-class 140
"""

from dgm_jax.commands.options import JoinedOptions

OPTIONS = JoinedOptions
