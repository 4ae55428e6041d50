"""Opening a run's folder: settings and stream fit each other, and the folder belongs to this run."""

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from dgm_jax.config import GENERATIVE, TRAINS, Config, all_facts, require_none_removed
from dgm_jax.config.setting import Facts
from dgm_jax.data import TaskStream
from dgm_jax.data.classes import few
from dgm_jax.data.stream import describe
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.methods import METHODS
from dgm_jax.runs import checkpoints
from dgm_jax.runs.continuation import LearntSoFar, Placement, place_stream
from dgm_jax.runs.folder import FORMAT_VERSION, Workdir
from dgm_jax.runs.reading import NoRun, StoredConfig, read_config, read_summary
from dgm_jax.system import files
from dgm_jax.training.devices import check_precision, precision_of

if TYPE_CHECKING:
    import jax

_UNEQUAL = 4  # A run says so if its largest class has at least four times as many images as its smallest.
_FEW_ITERATIONS = 200  # With 150, images of MNIST were not good enough (docs/results/mnist.md).


def check_fit(config: Config, stream: TaskStream) -> None:
    """Makes sure that settings and stream fit each other; raises ConfigError if they do not."""
    if stream.protocol != config.protocol:
        raise ConfigError(f"protocol={config.protocol!r}, but the stream was made for {stream.protocol!r}")
    if stream.scale is not None and not config.data.are_vectors:
        raise ConfigError(
            f"image_size={config.data.image_size}, but the stream has vectors of {stream.image_shape[2]} numbers; "
            "use network='mlp' and image_size=1 (--preset vectors has both)"
        )
    if stream.scale is None and config.data.are_vectors:
        raise ConfigError(
            "image_size=1 is for vectors, but the stream has images; resize them, and leave network='mlp' out"
        )
    if stream.image_shape[:2] != (config.data.image_size, config.data.image_size):
        raise ConfigError(
            f"image_size={config.data.image_size}, but the images are {stream.image_shape[0]}x{stream.image_shape[1]}; "
            f"resize the data set: dataset.resized({config.data.image_size})"
        )
    is_told_the_class = config.method != "separate" or max(map(len, stream.tasks)) > 1
    if config.method in GENERATIVE and is_told_the_class and stream.n_classes >= config.networks.noise_dim:
        raise ConfigError(
            f"noise_dim={config.networks.noise_dim} has no room for the one-hot of {stream.n_classes} classes; "
            "make it larger, in a new --workdir"
        )
    repeated = [name for t in range(stream.n_tasks) for name in stream.repeated(t)]
    if repeated and not METHODS[config.method].learns_more_of_known:
        able = ", ".join(name for name, method in METHODS.items() if method.learns_more_of_known)
        raise ConfigError(
            f"method {config.method!r} cannot learn more images of a class that it knows ({repeated[0]}); only {able} "
            "can. Leave the images of the class out, or learn with one of these methods in another --workdir"
        )


def notes_on_sizes(config: Config, stream: TaskStream) -> list[str]:
    """What a person should know of classes that are small or of very different size."""
    counts = Counter[int]()
    for t in range(stream.n_tasks):
        counts.update(dict(zip(stream.tasks[t], stream.train_counts(t))))
    fewest, most = min(counts.values()), max(counts.values())
    small = [t for t in range(stream.n_tasks) if sum(stream.train_counts(t)) < config.gan.batch_size]
    notes = []
    if most >= _UNEQUAL * fewest:
        notes.append(
            f"classes have {fewest} to {most} training images; earlier classes are replayed in equal numbers, and the "
            "accuracy counts every class alike (macro)"
        )
    if small and config.method in TRAINS:
        names = few([stream.class_names[index] for t in small for index in stream.tasks[t]])
        notes.append(
            f"{len(small)} tasks have fewer training images than a mini-batch ({config.gan.batch_size}), so that "
            f"images repeat within it: {names}; a smaller --batch-size learns them in more steps"
        )
    steps = min(max(1, sum(stream.train_counts(t)) // config.gan.batch_size) for t in range(stream.n_tasks))
    iterations = steps * config.gan.epochs
    if iterations < _FEW_ITERATIONS and config.method in GENERATIVE:
        notes.append(
            f"a task is learnt in {iterations} iterations only, so that drawn images are likely to be poor; give more "
            f"--epochs ({-(-_FEW_ITERATIONS // steps)} or more), and look at samples/ before you delete any image"
        )
    return notes


def with_precision(config: Config, folder: Workdir, device: "jax.Device") -> Config:
    """The settings with a precision in place of "auto": that of the folder's run, or in a new folder the device's.

    A method that trains nothing has none.

    Raises:
      ConfigError: if the folder's run has a precision that the device lacks, or its settings cannot be read.
    """
    if config.gan.precision != "auto" or config.method not in TRAINS:
        return config
    if not folder.config.exists():
        return config.with_changes(precision=precision_of(device))
    precision = read_config(folder).flat["precision"]
    try:
        check_precision(precision, device)
    except ConfigError:
        raise ConfigError(
            f"{folder.path} holds a run with precision={precision!r}, and a {device.platform.upper()} has no such "
            "numbers; resume it on a device of the same kind as before, or choose another --workdir"
        ) from None
    return config.with_changes(precision=precision)


def with_lasting(config: Config, folder: Workdir, by_images: Collection[str]) -> Config:
    """The settings with those of the folder's run, if any, where others were chosen by the images and cannot change.

    Raises:
      ConfigError: if the run's settings cannot be read.
    """
    if not folder.config.exists():
        return config
    facts, before = all_facts(type(config.method_settings)), read_config(folder).flat
    lasting = [name for name in by_images if name in before and not facts[name].changeable]
    return config.with_changes(**{name: before[name] for name in lasting})


def place_in(folder: Workdir, stream: TaskStream, *, more_of_known: bool = False) -> Placement:
    """Where a stream belongs in the run in a folder: its beginning, or a continuation.

    With `more_of_known`, a continuation may have more images of classes that the run knows.
    """
    alone = Placement(stream, (stream.n_tasks,), known=False)
    learnt = LearntSoFar.of(read_config(folder)) if folder.config.exists() else None
    if learnt is None or (describe(stream) == learnt.stream and tuple(stream.class_names) == learnt.names):
        return alone
    restored = checkpoints.restore(folder.checkpoints, on_damage=lambda _: None)  # The run itself reports damage.
    record = restored.metadata["record"] if restored is not None else {"finished_tasks": 0, "epochs_done": 0}
    try:
        position = record["finished_tasks"], record["epochs_done"]
        return place_stream(stream, learnt, *position, more_of_known=more_of_known)
    except OtherConfiguration as error:
        raise OtherConfiguration(f"{folder.path} {error}") from error


def claim(
    folder: Workdir,
    config: Config,
    placement: Placement,
    *,
    resume_anyway: bool,
    by_images: Collection[str] = (),
) -> list[str]:
    """Writes the configuration into a new folder, or checks that an old one belongs to the same run.

    Args:
      folder: locked for this run.
      config: the settings.
      placement: the stream, and where it belongs in the folder's run.
      resume_anyway: resume with the settings given now although they differ. This works only if neither arrays nor past
        results depend on them; config.json keeps the earlier ones, under "before".
      by_images: settings that were chosen by the images: those that may change do so where new images begin.

    Returns:
      What changes because of `by_images`, e.g. "epochs is 85, now 60".

    Raises:
      OtherConfiguration: if the folder's run differs (the text lists every difference), or needs a removed setting.
      ConfigError: if the folder was written by a newer version, or its configuration cannot be read.
    """
    stream, names = json.loads(json.dumps(describe(placement.stream))), placement.stream.class_names
    wanted: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "protocol": config.protocol,
        "config": dataclasses.asdict(config),
        "stream": stream,
        "class_names": list(names),
        "stages": list(placement.stages),
    }
    if not folder.config.exists():
        _require_empty(folder)
        files.write_json(folder.config, wanted)
        return []
    found = read_config(folder)
    require_none_removed(found.settings, folder.path)
    same = (found.stream, found.class_names, found.stages) == (stream, tuple(names), placement.stages)
    changed = placement.known and not same
    differences = dict(_differences(_settings(found, config), config.flat()))
    if found.class_names is not None and not placement.known:
        differences |= _differences(list(found.class_names), wanted["class_names"], "class_names")
    if found.stream is not None and found.stream != stream and not placement.known:
        known = _is_finished(folder, found) and set(names) <= set(found.class_names or ())
        more = ", or, if these are more images of classes that it knows, pass --more-of-known" if known else ""
        raise OtherConfiguration(
            f"{folder.path} holds a run on {_other_stream(found.stream, stream)}; choose another --workdir{more}."
        )
    is_over = _is_finished(folder, found) and not changed
    if found.format_version == 1 and config.method not in GENERATIVE and not is_over:
        raise OtherConfiguration(
            f"{folder.path} holds a run of {config.method} by an earlier version, which used its random numbers in "
            "another order; it cannot be continued: choose another --workdir."
        )
    facts = all_facts(type(config.method_settings))
    free = [name for name in by_images if placement.begins and name in differences and facts[name].changeable]
    expected = [differences.pop(name) for name in free]
    if differences:
        _require_changeable(folder, differences, facts, is_over=is_over, resume_anyway=resume_anyway)
    if differences or expected:
        files.write_json(folder.config, wanted | {"before": [*found.before, found.settings]})
    elif changed:
        files.write_json(folder.config, wanted | ({"before": found.before} if found.before else {}))
    return expected


def _settings(found: StoredConfig, config: Config) -> dict[str, Any]:
    """The settings of the folder's run by name, as far as they can be compared with `config`."""
    settings, wanted = found.flat, config.flat()
    if settings["method"] != config.method:  # Then the methods' own settings differ in any case.
        settings = {name: settings.get(name, value) for name, value in wanted.items()}
    settings = {
        name: field.default for name, field in type(config.method_settings).__dataclass_fields__.items()
    } | settings
    if found.stream is not None and all(len(task) == 1 for task in found.stream["tasks"]):
        settings["critic_condition"] = config.gan.critic_condition  # It has had no effect so far.
    return settings


def _require_empty(folder: Workdir) -> None:
    if folder.checkpoints.exists() and any(folder.checkpoints.iterdir()):
        raise OtherConfiguration(f"{folder.path} has checkpoints but no config.json; choose another --workdir")
    if folder.seeds():
        raise OtherConfiguration(
            f"{folder.path} holds the runs of several seeds ({', '.join(folder.seeds())}); choose another --workdir"
        )


def _require_changeable(
    folder: Workdir, differences: dict[str, str], facts: dict[str, Facts], *, is_over: bool, resume_anyway: bool
) -> None:
    differs = f"{folder.path} holds a run with other settings: {'; '.join(differences.values())}."
    fixed = sorted(name for name in differences if name not in facts or not facts[name].changeable)
    if is_over:
        raise OtherConfiguration(f"{differs} It is finished; choose another --workdir.")
    if not resume_anyway:
        hint = "" if fixed else ", or pass --resume-anyway to continue with the settings given now"
        raise OtherConfiguration(f"{differs} Choose another --workdir{hint}.")
    if fixed:
        raise OtherConfiguration(
            f"{differs} A run cannot continue with another {', '.join(fixed)}; use another --workdir."
        )


def _is_finished(folder: Workdir, found: StoredConfig) -> bool:
    try:
        summary = read_summary(folder)
    except NoRun:
        return False
    tasks = (found.stream or {}).get("tasks")
    return summary is not None and summary.finished and tasks in (None, summary.tasks)


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names what differs between two nested settings: ("batch_size", "batch_size is 64, now 32")."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*found, *wanted]):
            yield from _differences(found.get(key), wanted.get(key), key)
    elif found != wanted:
        yield name, f"{name} is {found!r}, now {wanted!r}"


def _other_stream(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How a run on other data or in another order differs, in a few words: not every number."""
    if before.get("dataset") != now.get("dataset"):
        return f"the data set {before.get('dataset')!r}, now it is {now.get('dataset')!r}"
    if before.get("tasks") != now.get("tasks"):
        return f"the tasks {before.get('tasks')}, now they are {now.get('tasks')}"
    return f"other images of {now.get('dataset')!r}"
