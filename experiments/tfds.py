"""`python -m experiments.tfds ...` does what `dgm-jax learn tfds ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "tfds", *sys.argv[1:]], called="python -m experiments.tfds"))
