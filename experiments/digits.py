"""The main job in a few minutes: ten classes of real handwritten digits, met one at a time, no old image kept.

The data (1,797 images of 8x8, scaled up to the networks' size) come with scikit-learn; nothing is downloaded. After
each task the memory draws every earlier class exactly as it did when it learnt it, and one classifier tells all classes
seen so far apart.

    python -m experiments.digits
    python -m experiments.digits --variant dgmw --class-order random:1 --classes-per-task 2
"""

import sys

from dgm_jax.commands.learn import run

if __name__ == "__main__":
    sys.exit(run("digits", __doc__))
