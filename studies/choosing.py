"""What the studies share: changes of a preset, judged by images that are held out of the training sets."""

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from benchmarks.arguments import positive, whole_numbers
from dgm_jax import Learner, Memory, data, load_memory
from dgm_jax.config import NAMED_PRESETS, Config, preset, preset_for
from dgm_jax.data import Dataset
from dgm_jax.data.tfds import NAMES
from dgm_jax.errors import ConfigError, UserError
from dgm_jax.methods import METHODS
from dgm_jax.runs.events import Callback, TaskEnd

# Settings of the data, the seeds and the protocol: an option of the studies sets them, or they are fixed.
_NOT_BY_CHANGE = {
    "seed": "give --seeds or --orders",
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


def learn(config: Config, dataset: Dataset, seeds: Sequence[int], **stream: Any) -> dict[str, Any]:
    """Learns the tasks with each seed.

    Args:
      config: the settings, of DGM or a baseline.
      dataset: what to learn; its test images judge the classifiers.
      seeds: a run for each.
      **stream: options of `data.class_incremental`, if classes do not come one by one in their order.

    Returns:
      "accuracy": for each classifier the last accuracy with each seed. "weights": for DGM, the generator's number of
      weights with each seed. "by_task": for each seed, the accuracy, seconds and kB of memory after each task.
    """
    accuracy: dict[str, list[float]] = defaultdict(list)
    weights: list[int] = []
    by_task: dict[str, list[list[float]]] = defaultdict(list)
    for seed in seeds:
        seeded = config.with_changes(seed=seed)
        watch = _TaskWatch()
        learner = Learner(seeded, devices=1, callbacks=[watch])
        with tempfile.TemporaryDirectory() as folder:
            summary = learner.fit(data.class_incremental(dataset, **stream), folder)
            if config.method == "dgm":
                by_task["kB"].append(_kilobytes(load_memory(folder)))
                weights.append(summary["parameters"]["shared_weights"])
        jax.clear_caches()  # Each learner compiles its own programs, and a process can hold only a limited number.
        for reading, average in summary[f"A_{summary['final']}"].items():
            accuracy[reading].append(average["macro"])
        by_task["accuracy"].append(watch.accuracy)
        by_task["seconds"].append(watch.seconds)
    return {"accuracy": dict(accuracy), "weights": weights, "by_task": dict(by_task)}


def _kilobytes(memory: Memory) -> list[float]:
    """Returns the size of the memory after each task, at the widths that the generator had then."""
    sizes = []
    for number, task in enumerate(memory.tasks):
        so_far = memory.as_of(number + 1)  # It counts all weights of today; only those of that time are wanted.
        then = sum(map(math.prod, memory.generator.kernel_shapes(task.widths, memory.noise_dim)))
        sizes.append((so_far.bytes()["total"] + 4 * (then - so_far.parameters()["shared_weights"])) / 1000)
    return sizes


class _TaskWatch(Callback):
    """Keeps and prints the accuracy and seconds of each task, because one row of a study can take long."""

    def __init__(self) -> None:
        self.accuracy: list[float] = []
        self.seconds: list[float] = []

    def on_task_end(self, event: TaskEnd) -> None:
        self.accuracy.append(next(iter(event.average.values()))["macro"])
        self.seconds.append(event.seconds)
        so_far = f"{100 * self.accuracy[-1]:.1f} % after task {event.task}"
        print(f"  seed {event.seed}: {so_far}, {event.seconds:.0f} s", file=sys.stderr, flush=True)


def command_line(description: str | None, *, tasks: int, seeds: str) -> argparse.ArgumentParser:
    """Returns the options of studies that try changes of a preset on the training images of the first tasks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(set(NAMED_PRESETS) & set(NAMES)))
    parser.add_argument("--preset", help="the preset to change, e.g. best (default: that of the data)")
    parser.add_argument("--variant", choices=("dgma", "dgmw"), default="dgma")
    parser.add_argument(
        "--train-per-class",
        type=positive,
        default=500,
        help="or all, where there are fewer; a quarter of them judges (default: %(default)s)",
    )
    parser.add_argument("--tasks", type=positive, default=tasks, help="of one class each (default: %(default)s)")
    parser.add_argument("--seeds", type=whole_numbers, default=seeds, help="(default: %(default)s)")
    parser.add_argument(
        "--try", dest="changes", action="append", default=[], metavar="NAME=VALUE[,...]", help="a change to try"
    )
    parser.add_argument("--base", default="", metavar="NAME=VALUE[,...]", help="changes made in all rows")
    parser.add_argument("--data-dir", type=Path, default=data.default_folder(), help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON Lines; lines are added")
    return parser


@dataclass(frozen=True)
class Plan:
    """What the options of `command_line` ask for."""

    dataset: Dataset  # The first tasks' training images, in their original size.
    preset: str
    base: Config  # The settings that all changes start from.
    configs: dict[str, Config]  # The settings with each change; "" is no change.


def planned(options: argparse.Namespace) -> Plan:
    """Reads and checks everything that the options ask for, before any work begins.

    Raises:
      UserError: if a change cannot be tried, or would have no effect.
    """
    for change in (options.base, *options.changes):
        if "critic_condition=" in change:
            raise UserError(
                f"{change}: has no effect here, where each task has one class; "
                "try critic_condition with studies.streams --groups"
            )
    name = preset_for(options.preset or options.data, options.data)
    base = changed(preset(name, options.variant), options.base)
    configs = {change: changed(base, change) for change in ["", *options.changes]}
    first = first_tasks(data.load(options.data, options.data_dir), options.train_per_class, options.tasks)
    return Plan(first, name, base, configs)


def entry(options: argparse.Namespace, **further: Any) -> dict[str, Any]:
    """Returns the fields that name a record: the data, the seeds and so on, and further ones."""
    named = ("data", "variant", "seeds", "train_per_class", "tasks")
    return {name: getattr(options, name) for name in named} | further


def joined(*changes: str) -> str:
    """Returns several changes as one."""
    return ",".join(filter(None, changes))
