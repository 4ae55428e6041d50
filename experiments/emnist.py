"""`python -m experiments.emnist ...` does what `dgm-jax learn emnist ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "emnist", *sys.argv[1:]], called="python -m experiments.emnist"))
