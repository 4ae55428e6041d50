"""`python -m experiments.arrays ...` does what `dgm-jax learn arrays ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "arrays", *sys.argv[1:]], called="python -m experiments.arrays"))
