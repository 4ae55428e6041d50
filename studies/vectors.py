"""Vectors to learn: features of one data set, from a small network that this package trains on another.

A classifier learns the classes of one data set at once (method `joint`), and its last feature maps, averaged over their
4x4 positions, are the vectors of the images of another data set. This is no network that is pretrained in the sense of
the literature: it is small and learns for minutes.

    python -m studies.vectors cifar10 --learnt-on imagenet32 --data-dir DIR --workdir runs/backbone --out features.npz

Of the data set that is learnt on, the first `--per-class` training images of each class are read.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from dgm_jax import Learner, data
from dgm_jax.commands.arguments import parse_options
from dgm_jax.config import preset
from dgm_jax.data import Dataset, TaskStream
from dgm_jax.errors import exit_status
from dgm_jax.loading import load_method
from dgm_jax.memory.classifier import Classifier
from dgm_jax.reporting.console import ConsoleProgress
from dgm_jax.system import files
from dgm_jax.system.compilation import keep_programs


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the network learns, and of which images it gives the vectors."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # the data set whose vectors are written
    learnt_on: str  # the data set that the network learns
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    workdir: Path  # folder of the network's run; a finished one is used as it is
    out: Path  # file to write, .npz
    per_class: int = 500  # training images of each class, of both data sets
    steps: int = 1500  # steps of 64 images for which the network is trained
    width: int = 32  # of its first layer; vectors have four times as many numbers
    seed: int = 0  # of the network


def classifier_of_all(stream: TaskStream, options: Options) -> Classifier:
    """Trains the network on all classes of a stream at once, if its run is not finished yet."""
    size = stream.image_shape[0]
    config = (
        preset("cifar10")
        .for_method("joint")
        .with_changes(
            image_size=size,
            seed=options.seed,
            discriminator_width=options.width,
            batch_size=64,
            consolidation_steps=options.steps,
            consolidation_shift=2,
            consolidation_flip=True,
        )
    )
    progress = ConsoleProgress()
    try:
        Learner(config, devices=1, callbacks=[progress]).fit(stream, options.workdir)
    finally:
        progress.close()
    method, state = load_method(config, stream, options.workdir)
    return method.setting.classifier(state.params, state.statistics, stream.n_tasks - 1)


def vectors(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """The last feature maps of a classifier of the DCGAN's network, averaged over positions: float32 [n, channels]."""
    maps = classifier.features(images)
    return maps.reshape(len(images), 4 * 4, -1).mean(axis=1)


def as_vectors(classifier: Classifier, dataset: Dataset) -> dict[str, np.ndarray]:
    """The arrays of an npz file of vectors, as `data.from_npz` reads it."""
    names = [dataset.class_names[label] for label in range(len(dataset.labels))]
    return {
        "x_train": vectors(classifier, dataset.x_train),
        "y_train": dataset.y_train,
        "x_test": vectors(classifier, dataset.x_test),
        "y_test": dataset.y_test,
        "class_names": np.array(names),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Trains the network, and writes the vectors of the other data set."""
    options = parse_options(Options, argv, program="python -m studies.vectors", description=__doc__)
    keep_programs()
    learnt, of = (
        data.load(name, options.data_dir, train_per_class=options.per_class)
        for name in (options.learnt_on, options.data)
    )
    size = 16 if options.learnt_on == "digits" else 32
    stream = data.class_incremental(learnt.resized(size), classes_per_task=len(learnt.labels))
    classifier = classifier_of_all(stream, options)
    arrays = as_vectors(classifier, of.resized(size))
    files.write_npz(options.out, **arrays)
    n, d = arrays["x_train"].shape
    print(f"{n:,} training and {len(arrays['x_test']):,} test vectors of {d} numbers are in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command again"))
