"""`python -m experiments.digits ...` does what `dgm-jax learn digits ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "digits", *sys.argv[1:]], called="python -m experiments.digits"))
