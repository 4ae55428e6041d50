"""`python -m dgm_jax COMMAND ...`."""

import sys
from collections.abc import Sequence
from typing import Protocol

from dgm_jax.commands.arguments import parse_command
from dgm_jax.commands.export import Export
from dgm_jax.commands.predict import Predict
from dgm_jax.commands.prepare import Prepare
from dgm_jax.commands.report import Report
from dgm_jax.commands.sample import Sample
from dgm_jax.errors import exit_status


class Command(Protocol):
    """A command, with its arguments as fields."""

    def run(self) -> None:
        """Does what was asked; raises UserError if it cannot."""


COMMANDS: dict[str, type[Command]] = {
    "sample": Sample,
    "report": Report,
    "predict": Predict,
    "export": Export,
    "prepare": Prepare,
}


def parse(argv: Sequence[str] | None = None) -> Command:
    """Reads the command line; raises UserError for an unknown command or option."""
    return parse_command(COMMANDS, argv, program="python -m dgm_jax", description="What to do before and after a run.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status: 0, 2 after an error that the user can fix, 130 after Ctrl-C."""
    debug = "--debug" in (sys.argv if argv is None else argv)
    return exit_status(lambda: parse(argv).run(), debug=debug)
