"""The ceiling of a generative memory: how good a classifier becomes that learns from generators without any constraint.

Each class has a generator of its own: all gates open, nothing protected, nothing shared, for as many epochs as a task
of DGM has. A classifier learns from what all of them draw. Beside it stand DGM itself and `joint`, the classifier that
learns the real images: from joint to the ceiling is what is lost because images are generated, from the ceiling to DGM
what is lost because they come from one protected memory. As with `benchmarks.tune`, a quarter of each class's training
images takes the place of the test images, which are not read.

    python -m benchmarks.ceiling mnist --variant dgma --base epochs=10,warm_start=true,batch_size=16 --seeds 0,1,2 \\
        --data-dir DIR --out ceiling.json
"""

import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import results
from benchmarks.consolidate import accuracy_after
from benchmarks.tune import changed, command_line, first_tasks, judge
from dgm_jax import Learner, data, load_memory
from dgm_jax.compilation import keep_programs
from dgm_jax.config import Config, preset
from dgm_jax.data import Dataset
from dgm_jax.errors import exit_status
from dgm_jax.training.epoch import TaskImages


def unprotected(config: Config, dataset: Dataset) -> float:
    """The accuracy, mean over classes, of a classifier that learns from a separate generator of each class."""
    own = dataclasses.replace(config, masks="none", warm_start=False, consolidation_steps=1)
    each = config.consolidation_samples
    draw_key, learn_key = jax.random.split(jax.random.key(config.seed))
    drawn = []
    for index, label in enumerate(dataset.labels):
        with tempfile.TemporaryDirectory() as folder:
            alone = dataclasses.replace(own, seed=config.seed * len(dataset.labels) + index)
            Learner(alone, devices=1).fit(data.class_incremental(dataset.of_classes([label])), folder)
            drawn.append(load_memory(folder).images(0, each, jax.random.fold_in(draw_key, index)))
    labels = np.repeat(np.arange(len(drawn), dtype=np.int32), each)
    images = TaskImages(np.concatenate(drawn), labels, np.int32(len(labels)), None)
    return accuracy_after(config, dataset, images, learn_key)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures each memory with each seed, and writes what came of it."""
    options = command_line(__doc__, tasks=10, seeds="0,1,2").parse_args(argv)
    keep_programs()
    first = first_tasks(data.load(options.data, options.data_dir), options.train_per_class, options.tasks)
    base = changed(preset(options.data, options.variant), options.base)
    for change in ["", *options.changes]:
        config = changed(base, change)
        resized = first.resized(config.image_size)
        said = ",".join(filter(None, (options.base, change)))
        for memory in ("joint", "separate generators", "dgm"):
            entry = {"data": options.data, "variant": options.variant, "change": said, "memory": memory}
            entry |= {"seeds": options.seeds, "train_per_class": options.train_per_class, "tasks": options.tasks}
            known = results.once(options.out, entry, partial(_measure, memory, config, resized, options.seeds))
            mean, deviation = statistics.mean(known["accuracy"]), statistics.pstdev(known["accuracy"])
            figures = f"{100 * mean:.2f} +- {100 * deviation:.2f} %, {known['minutes']:.1f} min"
            print(f"{options.data} {options.variant} {said or 'as it is'}, {memory}: {figures}", flush=True)
    return 0


def _measure(memory: str, config: Config, dataset: Dataset, seeds: Sequence[int]) -> dict[str, Any]:
    if memory == "separate generators":
        return {"accuracy": [unprotected(dataclasses.replace(config, seed=seed), dataset) for seed in seeds]}
    if memory == "joint":
        config = dataclasses.replace(config, method="joint", warm_start=False)
    last = judge(config, dataset, seeds)[f"A_{len(dataset.labels)}"]
    return {"accuracy": last["classifier" if memory == "joint" else "consolidated"]}


if __name__ == "__main__":
    sys.exit(exit_status(main, interrupted="interrupted; run the same command to go on"))
