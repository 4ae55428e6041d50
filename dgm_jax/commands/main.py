"""`dgm-jax COMMAND ...`, or `python -m dgm_jax COMMAND ...`."""

import dataclasses
import inspect
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Protocol, Union

import tyro

from dgm_jax.commands import experiments
from dgm_jax.commands.arguments import did_you_mean, parse_options, program
from dgm_jax.commands.export import Export
from dgm_jax.commands.forget import Forget
from dgm_jax.commands.predict import Predict
from dgm_jax.commands.prepare import Prepare
from dgm_jax.commands.report import Report
from dgm_jax.commands.sample import Sample
from dgm_jax.errors import UserError, exit_status
from dgm_jax.version import __version__


class Command(Protocol):
    """A command, with its arguments as fields."""

    def run(self) -> None:
        """Does what was asked; raises UserError if it cannot."""


COMMANDS: dict[str, type[Command]] = {
    "sample": Sample,
    "predict": Predict,
    "report": Report,
    "export": Export,
    "forget": Forget,
    "prepare": Prepare,
}
# The other commands: they read their command lines themselves, and need slower imports for it.
_LEARN = "Learn the classes of a data set, one task after the other: `learn NAME --help` says more about each."
_TABLE = "Compare methods on several data sets and seeds."
_NAMES = ("learn", *COMMANDS, "table")
_DESCRIPTION = f"""Class-incremental learning with a generative memory (dgm-jax {__version__}).

--version prints the version. --tyro-print-completion bash (or zsh, fish) prints a script that completes commands.
"""


def parse(argv: Sequence[str]) -> Command:
    """Reads the command line of a command of COMMANDS; raises UserError for an unknown command or option."""
    if argv and argv[0] in COMMANDS:
        kind = COMMANDS[argv[0]]
        return parse_options(kind, argv[1:], program=f"{program()} {argv[0]}", description=inspect.getdoc(kind))
    if argv and argv[0] not in _NAMES and not argv[0].startswith("-"):
        hint = did_you_mean(argv[0], _NAMES) or f"choose from {', '.join(_NAMES)}."
        raise UserError(f"unknown command {argv[0]}; {hint} {program()} --help explains the commands")
    if len(argv) > 1 and argv[0] == "learn" and not argv[1].startswith("-"):
        experiments.find(argv[1])
    # This ends the process: with help, with a script, or with a message that a command or an experiment is missing.
    commands = _every_command(complete=bool(argv) and argv[0].startswith("--tyro-"))
    return tyro.cli(commands, prog=program(), description=_DESCRIPTION, args=argv)


def main(argv: Sequence[str] | None = None, *, called: str | None = None) -> int:
    """Runs one command.

    Args:
      argv: the arguments; None: those of the process.
      called: how the program was called up to the arguments of the command; None: as `program` says.

    Returns:
      The exit status: 0; 1 if a run of the table failed; 2 after an error that the user can fix; 130 after Ctrl-C, 143
      after SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] == "table":
        from dgm_jax.commands import table

        return table.run(words[1:], called=called)
    if len(words) > 1 and words[0] == "learn" and words[1] in experiments.NAMES:
        from dgm_jax.commands import learn

        return learn.run(words[1], words[2:], called=called)
    return exit_status(lambda: parse(words).run(), debug="--debug" in words)


def _every_command(*, complete: bool) -> Any:
    """All commands, as a type for tyro; `complete`: with all options of `learn` and `table`, which takes seconds."""
    found = [experiments.find(name) for name in experiments.NAMES]
    lines: dict[str, type] = dict.fromkeys((*experiments.NAMES, "table"), _Options)
    if complete:
        from dgm_jax.commands.parsing import command_line
        from dgm_jax.commands.table import Table

        lines = {"table": Table} | {experiment.name: command_line(experiment) for experiment in found}
    names = [_named(one.name, lines[one.name], one.document.partition("\n")[0]) for one in found]
    learn = dataclasses.make_dataclass("Learn", [("name", Annotated[_any_of(names), tyro.conf.arg(name="")])])
    commands = [_named(name, kind, inspect.getdoc(kind)) for name, kind in COMMANDS.items()]
    return _any_of([_named("learn", learn, _LEARN), *commands, _named("table", lines["table"], _TABLE)])


@dataclasses.dataclass
class _Options:
    """Stands for options that are not asked for."""


def _named(name: str, kind: type, description: str | None) -> Any:
    return Annotated[kind, tyro.conf.subcommand(name=name, description=description)]


def _any_of(kinds: Sequence[Any]) -> Any:
    return Union[tuple(kinds)]  # noqa: UP007  # They are known only when this runs.
