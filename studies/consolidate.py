"""What each setting of the consolidated classifier does, for memories that are learnt once.

Each seed learns all tasks once, into a folder that is kept. Then the classifier is consolidated anew from images of
that memory, with one change at a time. As in `studies.tune`, the last quarter of each class's training images takes
the place of the test images, which are not read.

    python -m studies.consolidate mnist --variant dgma --train-per-class 500 --base epochs=10 --seeds 0,1,2 \\
        --try consolidation_steps=3200 --try consolidation_smoothing=0.1 --data-dir DIR --runs DIR \\
        --out results/consolidate.jsonl
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dgm_jax import Learner, data, metrics
from dgm_jax.commands.arguments import parse_options
from dgm_jax.config import Config
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.loading import load_method
from dgm_jax.methods.dgm import DGM
from dgm_jax.models.prediction import predict_logits
from dgm_jax.system.compilation import keep_programs
from studies import choosing


def consolidated(config: Config, dataset: Dataset, workdir: Path) -> float:
    """Returns the accuracy, mean over classes, of a classifier that learns from the memory of a finished run."""
    sample_key, learn_key = jax.random.split(jax.random.key(config.seed))
    method, state = load_method(config, data.class_incremental(dataset), workdir)
    assert isinstance(method, DGM)
    images = method.images_to_consolidate(state, sample_key)
    seen = np.ones(len(dataset.labels), bool)
    ((classifier, _),) = method.trainer.consolidate([learn_key], [images], seen, on_steps=lambda _: None)
    network = config.classifier_network
    logits = predict_logits(classifier.params, classifier.statistics, dataset.x_test, seen, network=network)
    truth = np.searchsorted(dataset.labels, dataset.y_test)
    return metrics.macro_accuracy(metrics.per_class_accuracy(logits.argmax(axis=1), truth, len(seen)))


@dataclass(frozen=True, kw_only=True)
class Options(choosing.Options):
    """Changes of the consolidated classifier that are tried on memories of training images."""

    tasks: int = 10  # of one class each
    seeds: str = "0,1,2"  # a memory for each
    runs: Path  # folder of the memories, a subfolder for each seed


def main(argv: Sequence[str] | None = None) -> int:
    """Learns the memories, tries each change, and adds a line to the file for it."""
    options = parse_options(Options, argv, program="python -m studies.consolidate", description=__doc__)
    keep_programs()
    plan = choosing.Plan(options)
    for change, config in plan.configs.items():
        _require_same_memory(plan.base, config, change)
    for seed in plan.seeds:
        learner = Learner(plan.base.with_changes(seed=seed), devices=1)
        learner.fit(data.class_incremental(plan.dataset), options.runs / f"seed{seed}")

    def measure(config: Config) -> dict[str, Any]:
        runs = [(config.with_changes(seed=seed), options.runs / f"seed{seed}") for seed in plan.seeds]
        return {"accuracy": {"consolidated": [consolidated(seeded, plan.dataset, run) for seeded, run in runs]}}

    plan.measure_each(measure)
    return 0


def _require_same_memory(base: Config, config: Config, change: str) -> None:
    """Refuses changes of settings with which the memory is learnt: the memory is learnt once, for all rows."""
    before, after = base.flat(), config.flat()
    changed = [name for name in after if after[name] != before[name]]
    # The means of real images are there only if they were kept.
    kept = "consolidation_" if before["consolidation_means"] or not after["consolidation_means"] else "no means"
    others = [name for name in changed if not name.startswith(kept)]
    if others:
        raise UserError(
            f"--try {change}: only the classifier is learnt anew here, so only settings called consolidation_... can "
            f"change; try {', '.join(others)} with studies.tune"
        )


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command to resume"))
