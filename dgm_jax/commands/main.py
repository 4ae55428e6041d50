"""`python -m dgm_jax COMMAND ...`."""

import inspect
import sys
from collections.abc import Sequence
from typing import Protocol

import tyro

from dgm_jax.commands.arguments import did_you_mean, parse_options
from dgm_jax.commands.export import Export
from dgm_jax.commands.predict import Predict
from dgm_jax.commands.prepare import Prepare
from dgm_jax.commands.report import Report
from dgm_jax.commands.sample import Sample
from dgm_jax.errors import UserError, exit_status

_PROGRAM = "python -m dgm_jax"


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
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        kind = COMMANDS[words[0]]
        return parse_options(kind, words[1:], program=f"{_PROGRAM} {words[0]}", description=inspect.getdoc(kind))
    if words and not words[0].startswith("-"):
        hint = did_you_mean(words[0], list(COMMANDS)) or f"choose from {', '.join(COMMANDS)}."
        raise UserError(f"unknown command {words[0]}; {hint} {_PROGRAM} --help explains the commands")
    description = "What to do before and after a run."
    return tyro.extras.subcommand_cli_from_dict(dict(COMMANDS), prog=_PROGRAM, description=description, args=words)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status: 0, 2 after an error that the user can fix, 130 after Ctrl-C."""
    debug = "--debug" in (sys.argv if argv is None else argv)
    return exit_status(lambda: parse(argv).run(), debug=debug)
