"""`python -m experiments.cifar100 ...` does what `dgm-jax learn cifar100 ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "cifar100", *sys.argv[1:]], called="python -m experiments.cifar100"))
