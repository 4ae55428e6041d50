"""`python -m dgm_jax COMMAND ...`, and the installed command `dgm-jax`; the commands are in `dgm_jax.commands`."""

import sys
from collections.abc import Sequence

from dgm_jax.errors import exit_status
from dgm_jax.version import __version__


def main(argv: Sequence[str] | None = None, *, called: str | None = None) -> int:
    """Runs one command, as `commands.main.main` does. `--version` and naming a missing extra need only the core."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"dgm-jax {__version__}")
        return 0

    def run() -> int:
        from dgm_jax.commands.main import main

        return main(words, called=called)

    return exit_status(run, debug="--debug" in words)


if __name__ == "__main__":
    sys.exit(main())
