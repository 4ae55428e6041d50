"""From a command line to the settings of a run: defaults, then the preset, then a file, then options."""

import dataclasses
import difflib
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from dgm_jax.commands.options import Options
from dgm_jax.config import GENERATIVE, Config, Method, MethodSettings, UnknownSetting, all_facts, preset, preset_for
from dgm_jax.config.formats import read_file, with_file
from dgm_jax.config.setting import help_of, own_fields
from dgm_jax.config.settings import kinds_of, no_effect
from dgm_jax.errors import UserError

_FIRST = (  # What people use most; --help begins with these.
    "preset",
    "config",
    "method",
    "variant",
    "seed",
    "seeds",
    "epochs",
    "workdir",
    "data_dir",
    "classes_per_task",
    "train_per_class",
    "devices",
)
_RUN = "run"  # The section of all that is neither among the first options nor in a group of settings.


@dataclass(frozen=True)
class _Chosen:
    """The options that decide the defaults of the others."""

    preset: str | None = None
    variant: str | None = None
    method: str | None = None
    config: Path | None = None


@dataclass(frozen=True)
class _Option:
    """An option of the command line."""

    name: str
    section: str  # "" for the first ones.
    hint: Any
    help: str
    default: Any = dataclasses.MISSING


def parse(
    name: str,
    description: str | None,
    *,
    kind: type[Options] = Options,
    argv: Sequence[str] | None = None,
) -> Options:
    """Reads the command line of a run; `--help`, and values that cannot be read, end the process (status 0, 2).

    Args:
      name: of the data set; the preset of this name is used by default.
      description: what `--help` begins with.
      kind: the options.
      argv: the arguments; None: those of the process.

    Raises:
      UserError: if the preset, the variant, a setting in the file or an option is unknown, or a value cannot work.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    chosen, _ = tyro.cli(_Chosen, args=words, add_help=False, return_unknown_args=True)
    start = _start(name, chosen)
    options = _options(kind, start, chosen.preset or name)
    line: Any = _line(options, start)
    found, unknown = tyro.cli(
        line, prog=program_of(name), description=description, args=words, return_unknown_args=True
    )
    if unknown:
        raise UserError(_refusal(unknown, list(options), start.method))
    values = {option.name: _value(found, option) for option in options.values()}
    facts = all_facts(type(start.own))
    read = [setting for setting in start.flat() if facts[setting].is_used_by(start.method)]
    settings = start.with_changes(**{setting: values[setting] for setting in read})
    own = {field.name for field in dataclasses.fields(kind)} - {"settings"}
    return kind(settings=settings, **{option: values[option] for option in own})


def program_of(name: str) -> str:
    """How the program is called that learns the data set `name`."""
    return f"python -m experiments.{name}"


def _start(name: str, chosen: _Chosen) -> Config:
    """The settings before any option counts."""
    found: Mapping[str, Any] = {} if chosen.config is None else read_file(chosen.config)
    gates = found.get("gates")
    variant = chosen.variant or (gates.get("variant") if isinstance(gates, dict) else found.get("variant")) or "dgma"
    methods = get_args(Method)
    first = found.get("method", chosen.method if chosen.method in methods else "dgm")  # For which the file is checked.
    settings = preset(preset_for(chosen.preset or name, name), variant)  # type: ignore[arg-type]  # It checks the name.
    if first in methods:  # Otherwise the check of the file says which methods there are.
        settings = settings.for_method(first, _own_settings(first)())
    if chosen.config is not None:
        try:
            settings = with_file(settings, found, chosen.config)
        except UnknownSetting as error:
            others = _of_other_methods(error.name)
            if not others:
                raise
            raise UserError(f"{chosen.config}: {no_effect({error.name: others}, settings.method)}") from error
    if chosen.method in methods and chosen.method != settings.method:
        settings = settings.for_method(chosen.method, _own_settings(chosen.method)())  # type: ignore[arg-type]
    return settings


def _own_settings(method: str) -> type[MethodSettings]:
    """The class of a method's own settings."""
    if method == "dgm":  # It has none, and to import the methods takes seconds, because they need JAX.
        return MethodSettings
    from dgm_jax.methods import METHODS

    return METHODS[method].settings


def _options(kind: type[Options], start: Config, preset_name: str) -> dict[str, _Option]:
    """All options by name: those of the run, and the settings that the method reads."""
    hints, helps = get_type_hints(kind, include_extras=True), help_of(kind)
    options: dict[str, _Option] = {}
    for field in dataclasses.fields(kind):
        if field.name != "settings":
            required = field.default is dataclasses.MISSING
            section = "" if required or field.name in _FIRST else _RUN
            default = preset_name if field.name == "preset" else field.default
            options[field.name] = _Option(field.name, section, hints[field.name], helps[field.name], default)
    values, facts = start.flat(), all_facts(type(start.own))
    for group, settings in kinds_of(type(start.own)).items():
        hints, helps = get_type_hints(settings), help_of(settings)
        for field in own_fields(settings):
            # --variant also chooses the preset's settings for a generator.
            chooses = field.name == "variant" and start.method in GENERATIVE
            if chooses or facts[field.name].is_used_by(start.method):
                section = "" if field.name in _FIRST else group or _RUN
                default = values[field.name]
                options[field.name] = _Option(field.name, section, hints[field.name], helps[field.name], default)
    return options


def _line(options: Mapping[str, _Option], start: Config) -> type:
    """The dataclass that tyro fills: the first options, then a section for each group, then the rest."""
    titles = {group: _title(settings) for group, settings in kinds_of(type(start.own)).items() if group}
    titles[_RUN] = "How the run is made and what it writes."
    parts: list[Any] = []
    for section, title in titles.items():
        inside = [option for option in options.values() if option.section == section]
        if inside:
            called = {"own": start.method}.get(section, section)
            made: Any = _dataclass(inside, title)
            parts.append((_in_line(section), Annotated[made, tyro.conf.arg(name=called), tyro.conf.OmitArgPrefixes]))
    first = sorted((option for option in options.values() if not option.section), key=_place)
    return _dataclass(first, "The options that are used most.", parts)


def _place(option: _Option) -> int:
    """Options that have to be given come first."""
    return _FIRST.index(option.name) if option.name in _FIRST else -1


def _title(settings: type) -> str:
    """The first line of a class's docstring."""
    return (settings.__doc__ or "").strip().splitlines()[0]


def _in_line(section: str) -> str:
    return f"section_{section}"


def _dataclass(options: Sequence[_Option], title: str, parts: Sequence[Any] = ()) -> type:
    """A dataclass with these options as fields, documented as tyro reads it."""
    fields = [
        (option.name, option.hint)
        if option.default is dataclasses.MISSING
        else (option.name, option.hint, dataclasses.field(default=option.default))
        for option in options
    ]
    made = dataclasses.make_dataclass("CommandLine", [*fields, *parts], frozen=True, kw_only=True)
    made.__doc__ = "\n".join([title, "", "Attributes:", *(f"    {option.name}: {option.help}" for option in options)])
    return made


def _value(found: Any, option: _Option) -> Any:
    return getattr(getattr(found, _in_line(option.section)) if option.section else found, option.name)


def _refusal(unknown: Sequence[str], names: Sequence[str], method: str) -> str:
    """What is wrong with words that are no options."""
    given = [word.partition("=")[0] for word in unknown if word.startswith("--")]
    settings = {word: word.removeprefix("--").removeprefix("no-").replace("-", "_") for word in given}
    facts = all_facts()
    unread = {
        word: facts[setting].used_by or ()
        for word, setting in settings.items()
        if setting in facts and not facts[setting].is_used_by(method)
    }
    if unread:
        return no_effect(unread, method)
    first = unknown[0].partition("=")[0]
    others = _of_other_methods(settings.get(first, ""))
    if others:
        return no_effect({first: others}, method)
    options = [f"--{name.replace('_', '-')}" for name in names]
    close = difflib.get_close_matches(first.replace("_", "-"), options, n=1)
    if close:
        return f"unknown option {unknown[0]}; did you mean {close[0]}? --help explains all options"
    valid = textwrap.fill(
        " ".join(sorted(options)), width=100, break_on_hyphens=False, initial_indent="  ", subsequent_indent="  "
    )
    return f"unknown option {unknown[0]}\nThe options, which --help explains, are\n{valid}"


def _of_other_methods(setting: str) -> list[str]:
    """The methods that have a setting as their own."""
    from dgm_jax.methods import methods_with

    return methods_with(setting)
