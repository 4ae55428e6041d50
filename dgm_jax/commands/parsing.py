"""From a command line to the settings of a run: defaults, then the preset, then a file, then options."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from dgm_jax.commands.arguments import as_called, program, typed, unknown_argument
from dgm_jax.commands.experiments import Experiment
from dgm_jax.commands.options import Options
from dgm_jax.config import BY_IMAGES, GENERATIVE, Config, Method, all_facts, best, flattened, preset
from dgm_jax.config.formats import read_file, with_file
from dgm_jax.config.setting import Facts, facts_of, help_of
from dgm_jax.config.settings import kinds_of, no_effect, unread_defaults
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


def parse(experiment: Experiment, argv: Sequence[str], *, called: str | None = None) -> Options:
    """Reads the command line of a run; `--help`, and values that cannot be read, end the process (status 0, 2).

    Args:
      experiment: what is learnt; it says which preset is used by default.
      argv: the arguments.
      called: how `--help` names the program; None: as the command `learn`.

    Raises:
      UserError: if the preset, the variant, a setting in the file or an option is unknown, or a value cannot work.
    """
    chosen, _ = tyro.cli(_Chosen, args=argv, add_help=False, return_unknown_args=True)
    variant = _variant(chosen)
    if chosen.preset is None and experiment.options.usual_preset is not Options.usual_preset:
        options = _read(experiment, argv, chosen, Config(), called)
        chosen = dataclasses.replace(chosen, preset=options.usual_preset(experiment.preset))
    name = chosen.preset or experiment.preset
    if name == "best":
        # Where the images come from does not depend on the preset: any has the options that say it.
        options = _read(experiment, argv, chosen, Config(), called)
        base = best(variant, **_shown(experiment, options))
    else:
        base = preset(name, variant)
    return _read(experiment, argv, chosen, base, called)


def by_images(experiment: Experiment, options: Options) -> tuple[str, ...]:
    """The settings that the preset chose by the number of images and classes, and neither a file nor an option did."""
    if options.preset != "best":
        return ()
    values = options.settings.flat()
    chosen = best(options.settings.gates.variant, **_shown(experiment, options)).flat()
    return tuple(name for name in BY_IMAGES if values[name] == chosen[name])


def _shown(experiment: Experiment, options: Options) -> dict[str, int]:
    """The side and channels of the images, and how many of a class are learnt."""
    if experiment.shown is None:
        return options.learnt(experiment.name).shown
    most = options.settings.data.train_per_class or experiment.shown["per_class"]
    return experiment.shown | {"per_class": min(most, experiment.shown["per_class"])}


def _read(experiment: Experiment, argv: Sequence[str], chosen: _Chosen, base: Config, called: str | None) -> Options:
    """The options, where the preset has the settings `base`."""
    start = _start(base, chosen)
    line: Any = _line(experiment.options, start, chosen.preset or experiment.preset)
    called = called or program_of(experiment.name)
    description = as_called(experiment.document, f"dgm-jax learn {experiment.name}", called)
    found, unknown = tyro.cli(line, prog=called, description=description, args=argv, return_unknown_args=True)
    values = flattened(dataclasses.asdict(found))
    if unknown:
        raise UserError(_refusal(unknown, typed(values), start.method))
    facts = all_facts(type(start.method_settings))
    read = {setting: values[setting] for setting in facts if facts[setting].is_used_by(start.method)}
    fields = dataclasses.fields(experiment.options)
    other = {field.name: values[field.name] for field in fields if field.name != "settings"}
    return experiment.options(settings=start.with_changes(**read), **other)


def program_of(name: str) -> str:
    """How the command is called that learns the experiment `name`."""
    return f"{program()} learn {name}"


def command_line(experiment: Experiment) -> type:
    """The dataclass that tyro fills if no option changes the defaults; its fields are what may be typed."""
    start = Config() if experiment.preset == "best" else preset(experiment.preset)
    return _line(experiment.options, start, experiment.preset)


def _variant(chosen: _Chosen) -> Any:
    """What masks gate: the option's word, or that of the file; it is checked later."""
    found: Mapping[str, Any] = {} if chosen.config is None else read_file(chosen.config)
    gates = found.get("gates")
    return chosen.variant or (gates.get("variant") if isinstance(gates, dict) else found.get("variant")) or "dgma"


def _start(base: Config, chosen: _Chosen) -> Config:
    """The settings before any option counts: those of the preset, changed by the file."""
    if chosen.config is None:
        return _for_method(base, chosen.method)
    found = read_file(chosen.config)
    settings = _for_method(base, found.get("method", chosen.method))  # The file is checked for this method.
    unknown = set(flattened(found)) - set(all_facts(type(settings.method_settings)))
    unread = {name: own for name in sorted(unknown) if (own := _facts_elsewhere(name)) is not None}
    if unread:
        raise UserError(f"{chosen.config}: {no_effect(unread, settings.method)}")
    settings = with_file(settings, found, chosen.config)
    if chosen.method in (None, settings.method):
        return settings
    # Another method takes the settings that it and the file's method read; the preset decides the others.
    other, values = _for_method(base, chosen.method), settings.flat()
    facts = all_facts(type(other.method_settings))
    both = {name for name in values if name in facts and facts[name].is_used_by(chosen.method)}
    given = both & set(flattened(found)) - set(unread_defaults(settings.method)) - {"method"}
    return other.with_changes(**{name: values[name] for name in given})


def _for_method(settings: Config, method: Any) -> Config:
    """The settings for a method, with its own; unchanged for None and for an unknown method, which is refused later."""
    if method == settings.method or method not in get_args(Method):
        return settings
    from dgm_jax.methods import METHODS  # To import the methods takes seconds, because they need JAX.

    return settings.for_method(method, METHODS[method].settings())


def _line(kind: type[Options], start: Config, preset_name: str) -> type:
    """The dataclass that tyro fills: the first options, then a section for each group of settings, then the rest."""
    kinds, values = kinds_of(type(start.method_settings)), start.flat() | {"preset": preset_name}
    sections: dict[str, list[Any]] = {}
    for group, declared in {_RUN: kind, **kinds}.items():
        hints, helps = get_type_hints(declared, include_extras=True), help_of(declared)
        for name, facts in facts_of(declared).items():
            # --variant also chooses the preset's settings for a generator.
            chooses = name == "variant" and start.method in GENERATIVE
            if name == "settings" or not (chooses or facts.is_used_by(start.method)):
                continue
            default = values.get(name, facts.default)
            is_first = name in _FIRST or default is dataclasses.MISSING
            hint: Any = hints[name]
            field = (name, Annotated[hint, tyro.conf.arg(help=helps[name])], dataclasses.field(default=default))
            sections.setdefault("" if is_first else group or _RUN, []).append(field)

    titles = {group: (settings.__doc__ or "").partition("\n")[0] for group, settings in kinds.items() if group}
    titles[_RUN] = "How the run is made and what it writes."
    parts: list[Any] = []
    for section, title in titles.items():
        if section in sections:
            called = start.method if section == "method_settings" else section
            made: Any = _dataclass(title, sections[section])
            parts.append((f"section_{section}", Annotated[made, tyro.conf.arg(name=called), tyro.conf.OmitArgPrefixes]))
    # Options that have to be given come before all.
    first = sorted(sections[""], key=lambda field: _FIRST.index(field[0]) if field[0] in _FIRST else -1)
    return _dataclass("The options that are used most.", [*first, *parts])


def _dataclass(title: str, fields: Sequence[Any]) -> type:
    """A dataclass with these fields, which tyro explains by the title."""
    made = dataclasses.make_dataclass("CommandLine", fields, frozen=True, kw_only=True)
    made.__doc__ = title
    return made


def _refusal(unknown: Sequence[str], options: Sequence[str], method: str) -> str:
    """What is wrong with words that are no options."""
    shared = all_facts()
    unread: dict[str, Facts] = {}
    for option in (word.partition("=")[0] for word in unknown if word.startswith("--")):
        setting = option.removeprefix("--").removeprefix("no-").replace("-", "_")
        facts = shared.get(setting) or _facts_elsewhere(setting)
        if facts is not None and not facts.is_used_by(method):
            unread[option] = facts
    return no_effect(unread, method) if unread else unknown_argument(unknown[0], options)


def _facts_elsewhere(setting: str) -> Facts | None:
    """Which methods have a setting as their own; None if it is no method's."""
    from dgm_jax.methods import methods_with  # It imports JAX, which is slow: only to explain a mistake.

    methods: list[Any] = methods_with(setting)
    return Facts(None, used_by=tuple(methods)) if methods else None
