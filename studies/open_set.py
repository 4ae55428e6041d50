"""How well a classifier that learnt six classes tells them from the four others (open-set recognition).

As Vaze et al. (2022) measure it: the classes are split at random, several times; DGM learns the known ones one at a
time, and scores tell their test images from those of the unknown ones. The unknown classes choose nothing. A split that
the file has already is not measured again:

    python -m studies.open_set mnist --train-per-class 500 --preset best --variant dgmw --data-dir DIR \\
        --out results/open_set.jsonl

A record has, for each score, the area under the ROC curve (`auroc`) and under the OSCR curve (`oscr`), the accuracy on
the known classes, and the shares of known and unknown images that `predict --unknown` accepts.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from tyro.conf import Positional, arg

from dgm_jax import Learner, data, load_classifier, metrics
from dgm_jax.commands.arguments import parse_options
from dgm_jax.commands.experiments import find
from dgm_jax.commands.options import parse_seeds
from dgm_jax.config import Config, Variant, best, preset
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.memory.classifier import Classifier
from dgm_jax.system.compilation import keep_programs
from studies import choosing, results

KNOWN = 6  # Classes that are learnt; the others are unknown.


@dataclass(frozen=True, kw_only=True)
class Options:
    """Splits of a data set into known and unknown classes."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits, mnist, fashion, svhn or cifar10
    splits: str = "0,1,2,3,4"  # numbers; each is the seed of a split and of its run
    preset: str | None = None  # the settings, e.g. best (default: those of the data)
    variant: Variant = "dgma"  # what masks gate
    base: Annotated[str, arg(metavar="NAME=VALUE[,...]")] = ""  # changes of the preset
    train_per_class: int | None = None  # training images of a class (default: all)
    evaluate_on: Literal["test", "training"] = "test"  # training: a quarter of the training images, held out
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    out: Path  # file of JSON Lines; a line is added for each split


def split(labels: Sequence[int], number: int) -> tuple[list[int], list[int]]:
    """The known classes, in the order in which they are learnt, and the unknown ones.

    Raises:
      UserError: if no class would be unknown.
    """
    if len(labels) <= KNOWN:
        raise UserError(f"{len(labels)} classes; expected more than {KNOWN}, of which {KNOWN} are learnt")
    order = np.random.default_rng(number).permutation(labels).tolist()
    return order[:KNOWN], order[KNOWN:]


def judged(classifier: Classifier, known: Dataset, unknown: Dataset) -> dict[str, Any]:
    """What the scores of test images say of their classes, and what `predict --unknown` would accept."""
    logits = [classifier.logits(dataset.x_test)[:, : len(classifier.labels)] for dataset in (known, unknown)]
    is_correct = np.asarray(classifier.labels)[logits[0].argmax(axis=1)] == known.y_test
    scores = {
        "maximum logit": [own.max(axis=1) for own in logits],
        "maximum probability": [metrics.log_probabilities(own).max(axis=1) for own in logits],
        "maximum calibrated probability": [
            metrics.log_probabilities(own, classifier.temperature).max(axis=1) for own in logits
        ],
    }
    accepted = [float(np.mean(~classifier.is_unknown(dataset.x_test))) for dataset in (known, unknown)]
    return {
        "accuracy": {"consolidated": float(np.mean(is_correct))},
        "auroc": {name: metrics.auroc(*pair) for name, pair in scores.items()},
        "oscr": {name: metrics.oscr(pair[0], is_correct, pair[1]) for name, pair in scores.items()},
        "accepted": dict(zip(("known", "unknown"), accepted, strict=True)),
        "temperature": classifier.temperature,
    }


def learn(config: Config, dataset: Dataset, known: Sequence[int], unknown: Sequence[int]) -> dict[str, Any]:
    """Learns the known classes one at a time, and judges the consolidated classifier."""
    dataset = dataset.resized(config.data.image_size)
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(config, devices=1)
        learner.fit(data.class_incremental(dataset.of_classes(known), class_order=known), folder)
        classifier = load_classifier(folder, reading="consolidated")
    jax.clear_caches()  # Each learner compiles its own programs, and a process can hold only a limited number.
    return judged(classifier, dataset.of_classes(known), dataset.of_classes(unknown))


def main(argv: Sequence[str] | None = None) -> int:
    """Measures each split, prints what it found, and adds a line to the file."""
    options = parse_options(Options, argv, program="python -m studies.open_set", description=__doc__)
    keep_programs()
    dataset = data.load(options.data, options.data_dir or data.default_folder())
    if options.train_per_class is not None:
        dataset = dataset.first_per_class(options.train_per_class)
    name = options.preset or find(options.data).preset
    settings = best(options.variant, **dataset.shown) if name == "best" else preset(name, options.variant)
    config = choosing.changed(settings, options.base)
    if options.evaluate_on == "training":
        dataset = dataset.for_choosing()
    found = []
    for number in parse_seeds(options.splits, 0):
        known, unknown = split(dataset.labels, number)
        entry: dict[str, Any] = {
            "data": options.data,
            "variant": options.variant,
            "train_per_class": options.train_per_class,
        }
        entry |= {"evaluate_on": options.evaluate_on, "split": number, "known": known, "unknown": unknown}
        own = config.with_changes(seed=number)
        measure = partial(learn, own, dataset, known, unknown)
        found.append(results.once(options.out, entry, own, (name, settings), measure))
        print(f"split {number}: known {known}, unknown {unknown}; {found[-1]['minutes']:.1f} min", flush=True)
    print(f"accuracy on known classes: {results.spread([one['accuracy']['consolidated'] for one in found])}")
    for score in found[0]["auroc"]:
        areas = [f"{name.upper()} {results.spread([one[name][score] for one in found])}" for name in ("auroc", "oscr")]
        print(f"{score:31} {', '.join(areas)}")
    kept, taken = (statistics.mean(one["accepted"][of] for one in found) for of in ("known", "unknown"))
    print(f"predict --unknown accepts {100 * kept:.1f} % of the known and {100 * taken:.1f} % of the unknown images")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command to resume"))
