"""`python -m experiments.joined ...` does what `dgm-jax learn joined ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "joined", *sys.argv[1:]], called="python -m experiments.joined"))
