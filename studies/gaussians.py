"""One Gaussian a class in place of a generative memory, for vectors (as in SLCA, Zhang et al. 2023).

Of each class, the mean and the covariance of its training vectors are kept. After each task, the classifier of all
classes that DGM consolidates learns from vectors drawn of these Gaussians, with DGM's settings:

    python -m studies.gaussians features.npz --out results/vectors.jsonl

A record has what `results.add_run` keeps of a run's accuracies and bytes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from tyro.conf import Positional, arg

from benchmarks import machine
from dgm_jax import data, metrics
from dgm_jax.commands.arguments import parse_options
from dgm_jax.config import Config, preset
from dgm_jax.data import TaskStream
from dgm_jax.errors import exit_status
from dgm_jax.methods.dgm import DGM
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.methods.method import with_total
from dgm_jax.methods.replay import room_for_all_classes
from dgm_jax.runs.session import new_method
from dgm_jax.system.compilation import keep_programs
from dgm_jax.system.pinned import new_key, pinned
from dgm_jax.training.epoch import TaskImages
from studies.choosing import changed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Vectors, whose classes come one at a time."""

    npz: Positional[Annotated[Path, arg(metavar="FILE")]]  # the vectors, as experiments.arrays reads them
    base: Annotated[str, arg(metavar="NAME=VALUE[,...]")] = ""  # changes of the preset vectors
    evaluate_on: Literal["test", "training"] = "test"  # training: a quarter of the training vectors, held out
    seed: int = 0
    name: str = "gaussians"  # of the record
    out: Path | None = None  # file of JSON Lines; a line is added


@dataclass(frozen=True)
class Gaussian:
    """What is kept of a class."""

    mean: np.ndarray  # [d]
    covariance: np.ndarray  # [d, d]

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Gaussian":
        """That of vectors [n, d], n > 1."""
        return cls(vectors.mean(axis=0), np.cov(vectors, rowvar=False, dtype=np.float64).astype(np.float32))

    def draw(self, n: int, random: np.random.Generator) -> np.ndarray:
        """Vectors float32 [n, d]."""
        values, directions = np.linalg.eigh(self.covariance.astype(np.float64))
        noise = random.standard_normal((n, len(values))) * np.sqrt(np.maximum(values, 0))
        return (self.mean + noise @ directions.T).astype(np.float32)


@pinned()
def measure(config: Config, stream: TaskStream) -> dict[str, Any]:
    """Learns the stream, and judges the classifier by the test vectors of all classes so far after each task."""
    method = new_method(config, stream, jax.local_devices()[:1])
    assert isinstance(method, DGM)
    setting, key, kept, rows, found = method.setting, new_key(config.seed), [], [], {}
    random, each = np.random.default_rng(config.seed), config.consolidation.consolidation_samples
    for task in range(stream.n_tasks):
        stream.begin(task)
        vectors, labels = stream.train(task)
        kept += [Gaussian.of(vectors[labels == index, 0, 0]) for index in stream.tasks[task]]
        filled = room_for_all_classes(setting)
        images = np.asarray(filled.images)
        images[: each * len(kept), 0, 0] = np.concatenate([one.draw(each, random) for one in kept])
        drawn = TaskImages(images, filled.labels, np.int32(each * len(kept)))
        keys = [derive_key(key, Purpose.CONSOLIDATE, task)]
        ((learner, _),) = method.trainer.consolidate(keys, [drawn], setting.seen(task), on_steps=lambda n: None)
        test, truth = stream.test(task)
        predicted = setting.classifier(learner.params, learner.statistics, task).logits(test).argmax(axis=1)
        rows.append(metrics.per_class_accuracy(predicted, truth, setting.n_classes))
        averages = {"macro": metrics.macro_accuracy(rows[-1]), "micro": metrics.micro_accuracy(predicted, truth)}
        found[f"A_{len(kept)}"] = {"classifier": averages}
        print(f"A_{len(kept)}: {100 * averages['macro']:.1f} %", flush=True)
    d = stream.image_shape[2]
    sizes = {"means": 4 * d * len(kept), "covariances": 4 * d * (d + 1) // 2 * len(kept)}
    return {
        **found,
        "forgetting": {"classifier": metrics.forgetting(np.stack(rows), stream.tasks)},
        "bytes": {"memory": with_total(sizes)},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the accuracies, and adds a line to the file."""
    options = parse_options(Options, argv, program="python -m studies.gaussians", description=__doc__)
    keep_programs()
    dataset = data.from_npz(options.npz, name=options.npz.stem)
    if options.evaluate_on == "training":
        dataset = dataset.for_choosing()
    config = changed(preset("vectors"), options.base).with_changes(seed=options.seed)
    found = measure(config, data.class_incremental(dataset))
    facts = {"dataset": dataset.name, "evaluate_on": options.evaluate_on, "seed": options.seed, "base": options.base}
    machine.keep(options.out, run=options.name, **facts, **found)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command again"))
