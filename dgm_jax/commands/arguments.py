"""What several commands share: types of arguments, checks that come before slow imports, and parsing."""

import difflib
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from dgm_jax.errors import UserError
from dgm_jax.memory import demos

T = TypeVar("T")

_MOST_IN_A_LINE = 20  # More options than these are listed below the message.


def shown(metavar: str, default: str = "") -> Any:
    """How `--help` shows the value of an option, and its default if that needs words."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})" if default else None)


def several(name: str) -> Any:
    """How `--help` shows an argument of one value or more."""
    return arg(metavar=f"{name} [{name} ...]", help_behavior_hint="(required)")


RunOrFile = Annotated[
    Positional[Path],
    arg(metavar="WORKDIR", help=f"folder of the run, an exported file, or a demo: {', '.join(demos.names())}"),
]
AfterTask = Annotated[
    int | None, shown("K", "the newest"), arg(help="use the memory as it was after task K; the first task is 0")
]
Flag = FlagCreatePairsOff[bool]
Switch = Annotated[Flag, arg(help_behavior_hint="")]
Debug = Annotated[Switch, arg(help="show where an error comes from")]


def program() -> str:
    """How this program was called: `dgm-jax` if by its installed command, otherwise `python -m dgm_jax`."""
    return "dgm-jax" if Path(sys.argv[0]).stem == "dgm-jax" else "python -m dgm_jax"


def as_called(text: str, command: str, called: str) -> str:
    """A text with commands, as they are typed here: `called` in place of `command`, others as `program` says."""
    return text.replace(command, called).replace("dgm-jax ", f"{program()} ")


def require_run(path: Path) -> None:
    """Refuses a path that cannot be the folder of a run."""
    if path.is_file():
        raise UserError(f"{path} is a file; expected the --workdir of a run")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected the --workdir of a run")


def require_run_or_file(path: Path) -> None:
    """Refuses a path that can be neither the folder of a run nor an exported file nor a demo."""
    if not demos.located(path).exists():
        raise UserError(f"{path}: no such folder or file; expected the --workdir of a run, or an exported file")


def require_place(out: Path, option: str, example: str) -> None:
    """Refuses a file that cannot be written.

    Args:
      out: the file.
      option: how the message names it, e.g. "--out "; "" for an argument without a name.
      example: a file name that would do.
    """
    if not out.absolute().parent.is_dir():
        raise UserError(f"{option}{out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise UserError(f"{option}{out} is a folder; expected a file, e.g. {out / example}")


def parse_options(kind: type[T], argv: Sequence[str] | None, *, program: str, description: str | None) -> T:
    """Reads a command line; `--help`, and values that cannot be read, end the process (status 0, 2).

    Args:
      kind: the dataclass to fill.
      argv: the arguments; None: those of the process.
      program: how the program is called.
      description: what `--help` begins with.

    Raises:
      UserError: if there is an unknown option or a superfluous argument.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    options, unknown = tyro.cli(kind, prog=program, description=description, args=words, return_unknown_args=True)
    if unknown:
        hints = get_type_hints(kind, include_extras=True).items()
        names = typed(name for name, hint in hints if Positional not in getattr(hint, "__metadata__", ()))
        raise UserError(unknown_argument(unknown[0], names, f"{program} "))
    return options


def unknown_argument(word: str, options: Sequence[str], command: str = "") -> str:
    """The message for an argument that a command does not take.

    Args:
      word: the argument.
      options: the command's options as they are typed.
      command: the beginning of a command line that shows help, with a space at its end.
    """
    if not word.startswith("-"):
        return f"superfluous argument {word}; {command}--help explains all arguments"
    hint = did_you_mean(word.partition("=")[0].replace("_", "-"), options)
    if not hint and len(options) > _MOST_IN_A_LINE:
        valid = textwrap.fill(" ".join(sorted(options)), width=98, break_on_hyphens=False)
        return f"unknown option {word}\nThe options, which --help explains, are\n{textwrap.indent(valid, '  ')}"
    hint = hint or f"choose from {', '.join(options)}."
    return f"unknown option {word}; {hint} {command}--help explains all options"


def did_you_mean(word: str, names: Sequence[str]) -> str:
    """A question with the name that is most like a word; "" if none is."""
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]}?" if close else ""


def typed(names: Iterable[str]) -> list[str]:
    """Options as they are typed."""
    return [f"--{name.replace('_', '-')}" for name in names]
