"""`python -m experiments.fashion ...` does what `dgm-jax learn fashion ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "fashion", *sys.argv[1:]], called="python -m experiments.fashion"))
