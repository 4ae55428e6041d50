"""`python -m experiments.imagenet50 ...` does what `dgm-jax learn imagenet50 ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "imagenet50", *sys.argv[1:]], called="python -m experiments.imagenet50"))
