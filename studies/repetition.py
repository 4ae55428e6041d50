"""What a second half of each class brings if it looks different and comes later (class-incremental with repetition).

The training images of each class are split into two halves, and the second one is turned by 90 degrees. A run learns
the first halves, one class a task; then it goes on with the second ones, as more images of classes that it knows;
another run learns both halves of each class at once. Test images judge, upright ones and turned ones:

    python -m studies.repetition digits --variant dgma --seed 0 --runs runs/repetition --out results/repetition.jsonl

Runs that are finished are not learnt again. `--base epochs=3` changes the preset for all of them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from benchmarks import machine
from dgm_jax import Learner, data, load_classifier, metrics
from dgm_jax.commands.arguments import parse_options
from dgm_jax.config import Config, Variant, best
from dgm_jax.data import Dataset
from dgm_jax.data.dataset import rows_of
from dgm_jax.errors import exit_status
from dgm_jax.reporting.console import ConsoleProgress
from dgm_jax.runs.branching import branch
from dgm_jax.system.compilation import keep_programs
from studies.choosing import changed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Images whose second half is turned, learnt later or at once."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits or mnist, whose classes turned images keep
    variant: Variant = "dgma"  # what masks gate
    seed: int = 0  # of all runs
    base: Annotated[str, arg(metavar="NAME=VALUE[,...]")] = ""  # changes of the preset best
    train_per_class: int | None = None  # training images of a class (default: all)
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    runs: Path  # folder of the runs, which is made
    out: Path | None = None  # file of JSON Lines; a line is added


def halves(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """The first half of each class as it is, and the second half turned by 90 degrees, with all test images turned."""
    first = [rows[: len(rows) // 2] for rows in rows_of(dataset.y_train).values()]
    second = [rows[len(rows) // 2 :] for rows in rows_of(dataset.y_train).values()]
    upright, turned = (
        replace(dataset, x_train=dataset.x_train[rows], y_train=dataset.y_train[rows])
        for rows in (np.sort(np.concatenate(first)), np.sort(np.concatenate(second)))
    )
    x_train, x_test = (np.ascontiguousarray(np.rot90(x, axes=(1, 2))) for x in (turned.x_train, turned.x_test))
    return upright, replace(turned, x_train=x_train, x_test=x_test)


def both(upright: Dataset, turned: Dataset) -> Dataset:
    """All images of both halves."""
    return replace(
        upright,
        x_train=np.concatenate([upright.x_train, turned.x_train]),
        y_train=np.concatenate([upright.y_train, turned.y_train]),
        x_test=np.concatenate([upright.x_test, turned.x_test]),
        y_test=np.concatenate([upright.y_test, turned.y_test]),
    )


def accuracy(folder: Path, dataset: Dataset) -> float:
    """The mean over classes of the accuracy of a run's classifier on the test images of a data set."""
    predicted, _ = load_classifier(folder).predict(dataset.x_test)
    n = len(dataset.labels)
    return metrics.macro_accuracy(metrics.per_class_accuracy(np.asarray(predicted), dataset.y_test, n))


def measure(config: Config, upright: Dataset, turned: Dataset, runs: Path) -> dict[str, dict[str, float]]:
    """Learns the first halves; then the second ones; and both at once: the accuracy on both kinds of test images."""
    found = {}

    def learn(name: str, dataset: Dataset, folder: Path, *, more_of_known: bool = False) -> None:
        learner = Learner(config, devices=1, callbacks=[ConsoleProgress()])
        learner.fit(data.class_incremental(dataset), folder, more_of_known=more_of_known)
        found[name] = {"upright": accuracy(folder, upright), "turned": accuracy(folder, turned)}

    first, in_turn = runs / "first", runs / "in_turn"
    learn("first halves", upright, first)
    stream = data.class_incremental(upright)
    branch(first, stream.n_tasks - 1, stream, in_turn)
    learn("then second halves", turned, in_turn, more_of_known=True)
    learn("both at once", both(upright, turned), runs / "at_once")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Learns in the three ways, prints the accuracies, and adds a line to the file."""
    options = parse_options(Options, argv, program="python -m studies.repetition", description=__doc__)
    keep_programs()
    whole = data.load(options.data, options.data_dir or data.default_folder())
    if options.train_per_class is not None:
        whole = whole.first_per_class(options.train_per_class)
    upright, turned = halves(whole)
    config = changed(best(options.variant, **upright.shown), options.base).with_changes(seed=options.seed)
    side = config.data.image_size
    found = measure(config, upright.resized(side), turned.resized(side), options.runs)
    for name, of in found.items():
        print(f"{name:20} " + ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in of.items()))
    facts = {"data": options.data, "train_per_class": options.train_per_class}
    facts |= {"variant": options.variant, "seed": options.seed, "base": options.base}
    machine.keep(options.out, **facts, accuracy=found)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command again"))
