"""`python -m experiments.table ...` does what `dgm-jax table ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["table", *sys.argv[1:]], called="python -m experiments.table"))
