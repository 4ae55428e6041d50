"""`python -m experiments.folder ...` does what `dgm-jax learn folder ...` does."""

import sys

from dgm_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["learn", "folder", *sys.argv[1:]], called="python -m experiments.folder"))
