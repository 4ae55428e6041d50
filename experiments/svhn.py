"""`python -m experiments.svhn ...` does what `dgm-jax learn svhn ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "svhn", *sys.argv[1:]], called="python -m experiments.svhn"))
