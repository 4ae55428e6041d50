"""`python -m dgm_jax COMMAND ...`; the commands are in `dgm_jax.commands`."""

import sys

from dgm_jax.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
