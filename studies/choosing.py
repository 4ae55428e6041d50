"""What the studies share: changes of a preset, judged by images that are held out of the training sets."""

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
from tyro.conf import Positional, UseAppendAction, arg

from dgm_jax import Learner, data
from dgm_jax.commands.experiments import find
from dgm_jax.commands.options import parse_seeds
from dgm_jax.config import Config, Variant, best, preset
from dgm_jax.data import Dataset
from dgm_jax.errors import ConfigError, UserError
from dgm_jax.methods import METHODS
from dgm_jax.runs.events import Callback, TaskEnd
from studies import results

# Settings of the data, the seeds and the protocol: an option of the studies sets them, or they are fixed.
_NOT_BY_CHANGE = {
    "seed": "give --seeds",
    "train_per_class": "give --train-per-class",
    "held_out": "a quarter is held out",
    "protocol": "the last epoch counts",
}


def changed(config: Config, change: str) -> Config:
    """Returns the settings with a change, e.g. "epochs=3,auxiliary_generator=true"; "" changes nothing.

    Raises:
      UserError: if the change names an unknown setting or one that has no effect here, or if a setting cannot have
        the value.
    """
    values: dict[str, Any] = {}
    for part in filter(None, change.split(",")):
        name, equals, text = part.partition("=")
        if not equals:
            raise UserError(f"{change}: {part!r} is no change; expected NAME=VALUE, e.g. warm_start=true")
        if name in _NOT_BY_CHANGE:
            raise UserError(f"{change}: {name} is not changed here; {_NOT_BY_CHANGE[name]}")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    method = values.pop("method", config.method)
    if method not in METHODS:
        raise UserError(f"{change}: method={method!r} is unknown; choose one of {', '.join(METHODS)}")
    if method != config.method:
        config = config.for_method(method, METHODS[method].settings())
    try:
        config = config.with_changes(**values)
        config.check_method_reads_all()
        return config
    except ConfigError as error:
        raise ConfigError(f"{change}: {error}") from error


def first_tasks(dataset: Dataset, train_per_class: int, tasks: int = 2) -> Dataset:
    """Returns the classes of the first tasks; a quarter of their training images takes the place of test images.

    Raises:
      UserError: if the data set has fewer classes.
    """
    if tasks > len(dataset.labels):
        raise UserError(f"--tasks {tasks} is more than the {len(dataset.labels)} classes that {dataset.name} has")
    first = dataset.of_classes(dataset.labels[:tasks]).first_per_class(train_per_class)
    return first.for_choosing()


def learn(config: Config, dataset: Dataset, seeds: Sequence[int], *, classes_per_task: int = 1) -> dict[str, Any]:
    """Learns the classes task by task with each seed; the test images of the data set judge the classifiers.

    Returns:
      "accuracy": for each classifier the last accuracy with each seed. "weights": for DGM, the generator's number of
      weights with each seed.
    """
    accuracy: dict[str, list[float]] = defaultdict(list)
    weights: list[int] = []
    for seed in seeds:
        learner = Learner(config.with_changes(seed=seed), devices=1, callbacks=[_Accuracies()])
        with tempfile.TemporaryDirectory() as folder:
            summary = learner.fit(data.class_incremental(dataset, classes_per_task=classes_per_task), folder)
        jax.clear_caches()  # Each learner compiles its own programs, and a process can hold only a limited number.
        if config.method == "dgm":
            weights.append(summary["parameters"]["shared_weights"])
        for reading, average in summary[f"A_{summary['final']}"].items():
            accuracy[reading].append(average["macro"])
    return {"accuracy": dict(accuracy), "weights": weights}


class _Accuracies(Callback):
    """Prints the accuracy and seconds of each task, because one row of a study can take long."""

    def on_task_end(self, event: TaskEnd) -> None:
        accuracy = 100 * next(iter(event.average.values()))["macro"]
        so_far = f"  seed {event.seed}: {accuracy:.1f} % after task {event.task}, {event.seconds:.0f} s"
        print(so_far, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Changes of a preset that are tried on training images of the first tasks."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits, mnist, fashion, svhn or cifar10
    preset: str | None = None  # the preset to change, e.g. best (default: that of the data)
    variant: Variant = "dgma"  # what masks gate
    train_per_class: int = 500  # or all, where there are fewer; a quarter of them judges
    tasks: int = 2  # of one class each
    seeds: str = "0,1"  # a run for each
    changes: Annotated[UseAppendAction[tuple[str, ...]], arg(name="try", metavar="NAME=VALUE[,...]")] = ()  # to try
    base: Annotated[str, arg(metavar="NAME=VALUE[,...]")] = ""  # changes made in all rows
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    out: Path  # file of JSON Lines; lines are added


class Plan:
    """What the options ask for; all of it is read and checked before any work begins."""

    def __init__(self, options: Options) -> None:
        """Reads the first tasks' training images and the settings with each change; "" is no change.

        Raises:
          UserError: if a change cannot be tried, or would have no effect.
        """
        for change in (options.base, *options.changes):
            if "critic_condition=" in change:
                raise UserError(f"{change}: has no effect here, where each task has one class")
        self.options = options
        self.seeds = parse_seeds(options.seeds, 0)
        whole = data.load(options.data, options.data_dir or data.default_folder())
        first = first_tasks(whole, options.train_per_class, options.tasks)
        name = options.preset or find(options.data).preset
        settings = best(options.variant, **first.shown) if name == "best" else preset(name, options.variant)
        self.preset = (name, settings)
        self.base = changed(settings, options.base)
        self.configs = {change: changed(self.base, change) for change in ("", *options.changes)}
        self.dataset = first.resized(self.base.data.image_size)

    def measure_each(self, measure: Callable[[Config], Mapping[str, Any]]) -> None:
        """Tries each change by itself, beside no change."""
        for change, config in self.configs.items():
            self.measure(change, config, partial(measure, config))

    def measure(self, change: str, config: Config, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the record of a change; adds a line to the file if it has none yet, and prints the accuracy."""
        named = {name: getattr(self.options, name) for name in ("data", "variant", "train_per_class", "tasks", "base")}
        entry = named | {"seeds": list(self.seeds), "change": change}
        record = results.once(self.options.out, entry, config, self.preset, measure)
        shown = ", ".join(f"{reading} {results.spread(values)}" for reading, values in record["accuracy"].items())
        size = f", {statistics.mean(record['weights']) / 1e6:.2f} M weights" if record.get("weights") else ""
        label = f"{config.gates.variant} {change or 'unchanged'}"
        print(f"{label}: {shown}{size}; {record['minutes']:.1f} min", flush=True)
        return record
