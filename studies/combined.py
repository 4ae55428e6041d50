"""What the combined reading of DGM gains over each of its parts, and over two analytic readings of as many bytes.

A finished run of DGM gives the consolidated classifier. Sums of features are made of its training images, with two
lots of filters. The run must have been judged on training images (`--evaluate-on training`), and so is everything here:

    python -m experiments.cifar10 --preset best --variant dgmw --evaluate-on training --workdir RUN --data-dir DIR
    python -m studies.combined cifar10 --run RUN --filters 100 --data-dir DIR --out results/combined.jsonl

A record has the accuracy (mean over classes) and the bytes of each reading. "two analytic" adds the log-probabilities
of two analytic readings. Each of the two has more filters than "analytic", so that both have together about as many
bytes as DGM's memory and its sums; "larger analytic" is one analytic reading of that size.
"""

import math
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
from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.errors import exit_status
from dgm_jax.methods.feature_memory import FeatureLearner, FeatureMemory, classifiers, filters_for
from dgm_jax.metrics import log_probabilities
from dgm_jax.models.closed_form import ridge_discriminant
from dgm_jax.runs.comparing import bytes_of_reading
from dgm_jax.runs.session import new_method
from dgm_jax.system.compilation import keep_programs
from studies.finished import opened


@dataclass(frozen=True, kw_only=True)
class Options:
    """A finished run of DGM, and the sums of features to join with it."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits, mnist, fashion, svhn or cifar10
    run: Path  # folder of the run
    filters: int = 100  # of the analytic reading
    mirror: bool = False  # add up mirror images, too
    shares: str = "0.3,0.5,0.7"  # of the consolidated classifier in the mean of log-probabilities, each tried
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    out: Path  # file of JSON Lines; a line is added


def learn(config: Config, stream: TaskStream, filters: int, mirror: bool, seed: int) -> FeatureMemory:
    """Learns all tasks as method analytic does."""
    config = Config(method="analytic").with_changes(image_size=config.data.image_size, filters=filters, mirror=mirror)
    learner = FeatureLearner(new_method(config, stream, jax.local_devices()[:1]).setting)
    memory, key = learner.new(), jax.random.key(seed)
    for task in range(stream.n_tasks):
        stream.begin(task)
        memory = learner.learn(memory, key, *stream.train(task), lambda n: None)
    return memory


def measure(options: Options) -> dict[str, object]:
    """The accuracy and the bytes of each reading of the run, on held-out training images."""
    run = opened(options.run, options.data, options.data_dir)
    config, n_classes = run.config, run.n_classes
    accuracy: dict[str, float] = {}

    def judge(name: str, logits: np.ndarray) -> None:
        accuracy[name] = run.accuracy(logits)

    def analytic(filters: int, seed: int) -> tuple[np.ndarray, int]:
        memory = learn(config, run.new_stream(), filters, options.mirror, seed)
        (reading,) = classifiers(memory, n_classes, {"analytic": ridge_discriminant}).values()
        return reading.logits(run.images), sum(memory.bytes().values())

    assert run.state.classifier
    consolidated = run.state.classifier.logits(run.images)
    judge("consolidated", consolidated)
    alone, size = analytic(options.filters, config.seed)
    judge("analytic", alone)
    own, other = log_probabilities(consolidated, math.prod(run.temperature())), log_probabilities(alone)
    for share in map(float, options.shares.split(",")):
        judge(f"combined, share {share:g}", share * own + (1 - share) * other)
    together = bytes_of_reading(run.method.memory_bytes(run.state), "consolidated") + size
    channels = run.images.shape[3]
    half, full = (filters_for(share * together, channels, n_classes) for share in (0.5, 1.0))
    pair = [analytic(half, seed) for seed in (config.seed, config.seed + 1)]
    judge("two analytic", log_probabilities(pair[0][0]) + log_probabilities(pair[1][0]))
    larger, larger_size = analytic(full, config.seed)
    judge("larger analytic", larger)
    counted = {"combined": together, "analytic": size, "two analytic": sum(own for _, own in pair)}
    return {
        "seed": config.seed,
        "filters": {"analytic": options.filters, "two analytic": half, "larger analytic": full},
        "bytes": counted | {"larger analytic": larger_size},
        "accuracy": accuracy,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the readings, prints their accuracy, and adds a line to the file."""
    options = parse_options(Options, argv, program="python -m studies.combined", description=__doc__)
    keep_programs()
    found = measure(options)
    for name, share in found["accuracy"].items():  # type: ignore[attr-defined]
        print(f"{name:30} {100 * share:5.1f} %")
    machine.keep(options.out, data=options.data, run=options.run.name, mirror=options.mirror, **found)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command again"))
