"""`python -m experiments.mnist ...` does what `dgm-jax learn mnist ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "mnist", *sys.argv[1:]], called="python -m experiments.mnist"))
