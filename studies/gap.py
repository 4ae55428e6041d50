"""Where accuracy is lost between real images and those that a memory draws.

Classifiers learn from the real images of the training set, from the drawn ones of each finished run (of dgm or
separate), and from drawn ones that were moved to the mean images of their classes. All else is the same: the network,
the steps, the augmentation, and as many images of a class. The analytic reading is solved on the same images. The runs
must have been judged on training images (`--evaluate-on training`), and so is everything here:

    python -m studies.gap cifar10 --runs DGM SEPARATE --data-dir DIR --out results/gap.jsonl
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
from tyro.conf import Positional, arg

from benchmarks import machine
from dgm_jax.commands.arguments import parse_options
from dgm_jax.errors import exit_status
from dgm_jax.methods.feature_memory import FeatureLearner, classifiers
from dgm_jax.methods.mean_images import mean_images, moved_to_means
from dgm_jax.methods.replay import images_of_all_classes
from dgm_jax.models.closed_form import ridge_discriminant
from dgm_jax.system.compilation import keep_programs
from dgm_jax.training.epoch import TaskImages
from studies.finished import Finished, opened


@dataclass(frozen=True, kw_only=True)
class Options:
    """Finished runs, and what their drawn images are compared with."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits, mnist, fashion, svhn or cifar10
    runs: tuple[Path, ...]  # folders of the runs; the first one's settings are those of the classifiers
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    out: Path  # file of JSON Lines; a line is added


def real_images(run: Finished) -> TaskImages:
    """The first real images of each class: as many as the memory draws for the classifier."""
    each = run.config.consolidation.consolidation_samples
    images, labels = [], []
    stream = run.new_stream()
    for task in range(stream.n_tasks):
        stream.begin(task)
        seen, indices = stream.train(task)
        for index in np.unique(indices):
            own = seen[indices == index][:each]
            images.append(own)
            labels.append(np.full(len(own), index, np.int32))
    return TaskImages(np.concatenate(images), np.concatenate(labels), np.int32(sum(map(len, images))))


def judged(run: Finished, images: TaskImages) -> dict[str, float]:
    """The accuracy of two classifiers that learn from these images: the network, and the analytic reading."""
    key = jax.random.key(run.config.seed)
    seen = np.ones(run.n_classes, bool)
    ((learner, _),) = run.method.trainer.consolidate([key], [images], seen, on_steps=lambda _: None)
    network = run.method.setting.classifier(learner.params, learner.statistics, run.method.setting.n_tasks - 1)
    features, pixels, labels = FeatureLearner(run.method.setting), np.asarray(images.images), np.asarray(images.labels)
    memory = features.with_filters(features.new(), key, pixels[labels == 0])
    for index in range(run.n_classes):
        memory = features.learn(memory, key, pixels[labels == index], labels[labels == index], lambda _: None)
    analytic = classifiers(memory, run.n_classes, {"analytic": ridge_discriminant})["analytic"]
    return {name: run.accuracy(own.logits(run.images)) for name, own in (("network", network), ("analytic", analytic))}


def main(argv: Sequence[str] | None = None) -> int:
    """Judges real and drawn images, prints the accuracy, and adds a line to the file."""
    options = parse_options(Options, argv, program="python -m studies.gap", description=__doc__)
    keep_programs()
    runs = [opened(run, options.data, options.data_dir) for run in options.runs]
    first = runs[0]
    real = real_images(first)
    means = mean_images(real.images, real.labels, tuple(range(first.n_classes)))
    found = {"real": judged(first, real)}
    for folder, run in zip(options.runs, runs, strict=True):
        drawn = images_of_all_classes(run.state.memory, first.method.setting, jax.random.key(first.config.seed + 1))
        found[folder.name] = judged(first, drawn)
        found[f"{folder.name}, moved"] = judged(first, moved_to_means(drawn, means))
    for name, accuracy in found.items():
        print(f"{name:40} " + ", ".join(f"{reading} {100 * share:.1f} %" for reading, share in accuracy.items()))
    machine.keep(options.out, data=options.data, seed=first.config.seed, accuracy=found)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command again"))
