"""Choosing settings without a look at a test image: by images held out of the training sets."""

import argparse
import difflib
import json
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.arguments import positive, whole_numbers
from dgm_jax import Learner, Memory, data, load_memory
from dgm_jax.config import NAMED_PRESETS, Config, preset, preset_for
from dgm_jax.data import Dataset
from dgm_jax.data.sources import NAMES
from dgm_jax.errors import UserError
from dgm_jax.methods.learner import BaselineLearner
from dgm_jax.runs.events import Callback, TaskEnd

_NOT_BY_CHANGE = {  # What the settings say of data, seeds and protocol is not read here: an option does it, or nothing.
    **{"seed": "give --seeds or --orders", "train_per_class": "give --train-per-class"},
    **{"held_out": "a quarter is held out", "protocol": "the last epoch counts"},
}


def changed(config: Config, change: str) -> Config:
    """The settings with a change, e.g. "epochs=3,auxiliary_generator=true"; "" changes nothing.

    Raises:
      UserError: if it names no setting, one that would do nothing here, or a value that the setting cannot have.
    """
    values: dict[str, Any] = {}
    for part in filter(None, change.split(",")):
        name, equals, text = part.partition("=")
        if not equals:
            raise UserError(f"{change}: {part!r} is no change; expected NAME=VALUE, e.g. adversarial_loss=hinge")
        if name not in Config.__dataclass_fields__:
            near = difflib.get_close_matches(name, Config.__dataclass_fields__, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; the settings are those of an experiment"
            raise UserError(f"{change}: there is no setting {name!r}{hint}")
        if name in _NOT_BY_CHANGE:
            raise UserError(f"{change}: {name} is not changed here; {_NOT_BY_CHANGE[name]}")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    if "method" in values:
        config = config.for_method(values.pop("method"))
    return config.with_changes(**values)


def first_tasks(dataset: Dataset, train_per_class: int, tasks: int = 2) -> Dataset:
    """The classes of the first tasks, so many training images of each; a quarter of these is in place of a test.

    Raises:
      UserError: if there are not so many classes.
    """
    if tasks > len(dataset.labels):
        raise UserError(f"--tasks {tasks} is more than the {len(dataset.labels)} classes that {dataset.name} has")
    first = dataset.of_classes(dataset.labels[:tasks]).first_per_class(train_per_class)
    return first.for_choosing()


def judge(config: Config, dataset: Dataset, seeds: Sequence[int], **stream: Any) -> dict[str, Any]:
    """Learns the tasks with each seed.

    Args:
      config: the settings; of a baseline too.
      dataset: what to learn, and to be judged by.
      seeds: of the settings.
      **stream: options of `data.class_incremental`, if classes do not come one by one in their order.

    Returns:
      The last accuracy of each classifier, by seed and their mean; and by seed, for DGM, the generator's weights.
      "by_task": of each seed, after each task accuracy, its seconds, and the memory's kB.
    """
    averages: dict[str, list[float]] = defaultdict(list)
    weights: list[int] = []
    by_task: dict[str, list[list[float]]] = defaultdict(list)
    for seed in seeds:
        own = config.with_changes(seed=seed)
        watch = _TaskWatch()
        learner = (Learner if own.method == "dgm" else BaselineLearner)(own, devices=1, callbacks=[watch])
        with tempfile.TemporaryDirectory() as folder:
            summary = learner.fit(data.class_incremental(dataset, **stream), folder)
            if own.method == "dgm":
                by_task["kB"].append(_kilobytes(load_memory(folder)))
                weights.append(summary["parameters"]["shared_weights"])
        jax.clear_caches()  # Each learner maps programs of its own, and a process may map only so many.
        for reading, average in summary[f"A_{summary['final']}"].items():
            averages[reading].append(average["macro"])
        by_task["accuracy"].append(watch.accuracy)
        by_task["seconds"].append(watch.seconds)
    means = {reading: statistics.mean(values) for reading, values in averages.items()}
    return {f"A_{summary['final']}": dict(averages), "mean": means, "weights": weights, "by_task": dict(by_task)}


def _kilobytes(memory: Memory) -> list[float]:
    """What the memory weighed after each task, with the widths that the generator had then."""
    sizes = []
    for number, task in enumerate(memory.tasks):
        so_far = memory.as_of(number + 1)  # Its weights are all that there are by now.
        then = sum(map(math.prod, memory.generator.kernel_shapes(task.widths, memory.noise_dim)))
        sizes.append((so_far.bytes()["total"] + 4 * (then - so_far.parameters()["shared_weights"])) / 1000)
    return sizes


class _TaskWatch(Callback):
    """What each task came to, and took; said on the way, for a setting can take long."""

    def __init__(self) -> None:
        self.accuracy: list[float] = []
        self.seconds: list[float] = []

    def on_task_end(self, event: TaskEnd) -> None:
        self.accuracy.append(next(iter(event.average.values()))["macro"])
        self.seconds.append(event.seconds)
        so_far = f"{100 * self.accuracy[-1]:.1f} % after task {event.task}"
        print(f"  seed {event.seed}: {so_far}, {event.seconds:.0f} s", file=sys.stderr, flush=True)


def command_line(description: str | None, *, tasks: int, seeds: str) -> argparse.ArgumentParser:
    """The options of benchmarks that try changes of a preset on the training images of the first tasks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted({*NAMED_PRESETS} & {*NAMES}))
    parser.add_argument("--preset", help="what is changed, e.g. best (default: that of the data)")
    parser.add_argument("--variant", choices=("dgma", "dgmw"), default="dgma")
    parser.add_argument(
        "--train-per-class",
        type=positive,
        default=500,
        help="or all, where there are fewer; a quarter of them to judge by (default: %(default)s)",
    )
    parser.add_argument("--tasks", type=positive, default=tasks, help="of one class each (default: %(default)s)")
    parser.add_argument("--seeds", type=whole_numbers, default=seeds, help="(default: %(default)s)")
    parser.add_argument(
        "--try", dest="changes", action="append", default=[], metavar="NAME=VALUE[,...]", help="a change to try"
    )
    parser.add_argument("--base", default="", metavar="NAME=VALUE[,...]", help="changes made in all")
    parser.add_argument("--data-dir", type=Path, default=data.default_folder(), help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, added to")
    return parser


def planned(options: argparse.Namespace) -> tuple[Dataset, Config, dict[str, Config]]:
    """What the options of `command_line` ask for, all of it before any work.

    Returns:
      The first tasks' training images, in their own size; the settings that all changes start from; and the settings
      with each change, "" for none.

    Raises:
      UserError: if a change cannot be tried, or would do nothing.
    """
    for change in (options.base, *options.changes):
        if "critic_condition=" in change:
            raise UserError(
                f"{change}: tasks have one class each here, and of one class the critic is told nothing; "
                "try critic_condition with benchmarks.streams --groups"
            )
    name = preset_for(options.preset or options.data, options.data)
    base = changed(preset(name, options.variant), options.base)
    configs = {change: changed(base, change) for change in ["", *options.changes]}
    first = first_tasks(data.load(options.data, options.data_dir), options.train_per_class, options.tasks)
    return first, base, configs


def entry(options: argparse.Namespace, config: Config, **own: Any) -> dict[str, Any]:
    """What a result is known by; with all settings, for the preset may have changed since."""
    named = ("data", "variant", "seeds", "train_per_class", "tasks")
    return {name: getattr(options, name) for name in named} | own | {"config": config.flat()}


def together(*changes: str) -> str:
    """Several changes as one."""
    return ",".join(filter(None, changes))
