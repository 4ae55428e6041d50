"""What each setting of the consolidated classifier does, for memories that were learnt once.

Each seed learns all tasks once, into a folder that is kept; then the classifier is consolidated anew from what that
memory draws, with one change at a time. As with `benchmarks.tune`, a quarter of each class's training images takes the
place of the test images, which are not read.

    python -m benchmarks.consolidate mnist --variant dgma --train-per-class 500 --base epochs=10 --seeds 0,1,2 \\
        --try consolidation_turn=10 --try consolidation_average=0.99 --data-dir DIR --runs DIR --out consolidate.json
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dgm_jax.training.trainer import Trainer

from benchmarks import choosing, results
from dgm_jax import Learner, data, load_memory, metrics
from dgm_jax.config import Config
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.methods import consolidation
from dgm_jax.models.prediction import predict_logits
from dgm_jax.system.compilation import keep_programs
from dgm_jax.training.epoch import TaskImages


def consolidated(config: Config, dataset: Dataset, workdir: Path) -> float:
    """The accuracy, mean over classes, of a classifier that learns from what the memory of a finished run draws."""
    stream = data.class_incremental(dataset)
    last = stream.n_tasks - 1
    stream.begin(last)
    draw_key, learn_key = jax.random.split(jax.random.key(config.seed))
    drawn = consolidation.draw(
        load_memory(workdir),
        config,
        draw_key,
        n_classes=stream.n_classes,
        real=stream.train(last),
        newest=stream.tasks[last],
    )
    return accuracy_after(config, dataset, drawn, learn_key)


def accuracy_after(config: Config, dataset: Dataset, images: TaskImages, key: jax.Array) -> float:
    """The accuracy, mean over classes, of a classifier that learns from these images, on the data set's test images."""
    stream = data.class_incremental(dataset, classes_per_task=len(dataset.labels))
    stream.begin(0)
    n_classes = stream.n_classes
    trainer = Trainer(config, jax.local_devices()[:1], channels=stream.image_shape[2], n_classes=n_classes, max_heads=1)
    seen = np.ones(n_classes, bool)
    ((classifier, _),) = trainer.consolidate([key], [images], seen, on_steps=lambda _: None)
    pixels, labels = stream.test(0)
    network = config.classifier_network
    logits = predict_logits(classifier.params, classifier.statistics, pixels, seen, network=network)
    return metrics.macro_accuracy(metrics.per_class_accuracy(logits.argmax(axis=1), labels, n_classes))


def main(argv: Sequence[str] | None = None) -> int:
    """Tries each change and writes what came of it."""
    parser = choosing.command_line(__doc__, tasks=10, seeds="0,1,2")
    parser.add_argument("--runs", type=Path, required=True, help="folder for what is learnt once, a folder a seed")
    options = parser.parse_args(argv)
    keep_programs()
    first, base, configs = choosing.planned(options)
    resized = first.resized(base.data.image_size)
    for change, config in configs.items():
        _require_own(base, config, change)
    for seed in options.seeds:
        own = base.with_changes(seed=seed)
        Learner(own, devices=1).fit(data.class_incremental(resized), options.runs / f"seed{seed}")
    for change, config in configs.items():
        own_entry = choosing.entry(options, config, base=options.base, change=change)
        known = results.once(options.out, own_entry, partial(_measure, config, resized, options.seeds, options.runs))
        said = f"{results.spread(known['accuracy'])}, {known['minutes']:.1f} min"
        print(f"{options.data} {options.variant} {change or 'as it is'}: {said}", flush=True)
    return 0


def _require_own(base: Config, config: Config, change: str) -> None:
    """Refuses what the memory is learnt with, and what asks the classifier before, which is not kept with a memory."""
    before, after = base.flat(), config.flat()
    others = [name for name in after if after[name] != before[name] and not name.startswith("consolidation_")]
    if base.replay_confidence < 1 or base.distillation_weight:
        others += ["replay_confidence", "distillation_weight"]
    if others:
        raise UserError(
            f"{f'--try {change}' if change else '--base'}: the classifier alone is learnt anew here, by the settings "
            f"called consolidation_...; try {', '.join(others)} with benchmarks.tune"
        )


def _measure(config: Config, dataset: Dataset, seeds: Sequence[int], runs: Path) -> dict[str, Any]:
    seeded = {seed: config.with_changes(seed=seed) for seed in seeds}
    return {"accuracy": [consolidated(own, dataset, runs / f"seed{seed}") for seed, own in seeded.items()]}


if __name__ == "__main__":
    sys.exit(exit_status(main, interrupted="interrupted; run the same command to go on"))
