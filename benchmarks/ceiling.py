"""How far a memory is from what it could be: the same generators, separate and unprotected, and the real images.

Rows, each a classifier of the same budget that learns from images of all classes at once:

- joint: the real ones.
- separate: those of a generator for each class, all gates open, nothing protected, nothing shared, with the widths that
  DGM's first task has; learnt for as many epochs as a task of DGM has, and for `--longer` times these.
- dgm, from noise: those of DGM, each task of which begins with norms and output layers that know nothing.
- dgm, warm start: those of DGM, each task of which begins as an earlier class.

Where separate generators are learnt for long enough, from joint to separate is what is lost because images are
generated, and from separate to "from noise" what is lost because they come from one protected memory. Where they are
not, DGM can be the better one: its tasks use again what earlier ones have learnt. As with
`benchmarks.tune`, a quarter of each class's training images takes the place of the test images, which are not read.

    python -m benchmarks.ceiling mnist --variant dgma --base epochs=10,batch_size=16 --data-dir DIR --out ceiling.json
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import choosing, results
from benchmarks.arguments import positive
from benchmarks.consolidate import accuracy_after
from dgm_jax import Learner, data, load_memory
from dgm_jax.config import Config
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.system.compilation import keep_programs
from dgm_jax.training.epoch import TaskImages


def separate(config: Config, dataset: Dataset) -> float:
    """The accuracy, mean over classes, of a classifier that learns from a generator of its own for each class."""
    without = {"gate_gradient": "closed", "gate_learning_rate": None, "gate_reach": None, "scale_schedule": "linear"}
    own = config.with_changes(masks="none", warm_start=False, **without)  # type: ignore[arg-type]
    own = own.with_changes(consolidation_steps=1)  # Of one class there is nothing to learn.
    each = config.consolidation.consolidation_samples
    draw_key, learn_key = jax.random.split(jax.random.key(config.seed))
    drawn = []
    for index, label in enumerate(dataset.labels):
        with tempfile.TemporaryDirectory() as folder:
            alone = own.with_changes(seed=config.seed * len(dataset.labels) + index)
            Learner(alone, devices=1).fit(data.class_incremental(dataset.of_classes([label])), folder)
            drawn.append(load_memory(folder).images(0, each, jax.random.fold_in(draw_key, index)))
        jax.clear_caches()  # Each learner maps programs of its own, and a process may map only so many.
    labels = np.repeat(np.arange(len(drawn), dtype=np.int32), each)
    images = TaskImages(np.concatenate(drawn), labels, np.int32(len(labels)), None)
    return accuracy_after(config, dataset, images, learn_key)


def rows(config: Config, longer: int) -> dict[str, tuple[Config, Callable[[Config, Dataset], float]]]:
    """What is compared: its settings, and how the accuracy is measured."""
    cold = config.with_changes(warm_start=False)
    long = cold.with_changes(epochs=longer * cold.gan.epochs)
    return {
        "joint": (cold.for_method("joint"), _learnt),
        "separate": (cold, separate),
        f"separate, {longer} x as long": (long, separate),
        "dgm, from noise": (cold, _learnt),
        "dgm, warm start": (config.with_changes(warm_start=True), _learnt),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measures each row with each seed, and writes what came of it."""
    parser = choosing.command_line(__doc__, tasks=10, seeds="0,1,2")
    parser.add_argument("--longer", type=positive, default=6, help="times the epochs of the other separate generators")
    options = parser.parse_args(argv)
    keep_programs()
    first, _, configs = choosing.planned(options)
    for change, config in configs.items():
        _require_comparable(config, change)
    for change, config in configs.items():
        resized = first.resized(config.data.image_size)
        said = choosing.together(options.base, change)
        for row, (own, accuracy) in rows(config, options.longer).items():
            entry = choosing.entry(options, own, change=said, row=row)
            known = results.once(options.out, entry, partial(_measure, accuracy, own, resized, options.seeds))
            figures = f"{results.spread(known['accuracy'])}, {known['minutes']:.1f} min"
            print(f"{options.data} {options.variant} {said or 'as it is'}, {row}: {figures}", flush=True)
    return 0


def _require_comparable(config: Config, change: str) -> None:
    """Refuses what separate generators cannot do, and other methods."""
    for name in ("method", "consolidation_real", "distillation_weight", "replay_confidence"):
        value, default = getattr(config, name), Config.__dataclass_fields__[name].default
        if value != default:
            raise UserError(f"{change or '--base'}: {name} must be {default!r} here, for all rows to have one budget")


def _measure(
    accuracy: Callable[[Config, Dataset], float], config: Config, dataset: Dataset, seeds: Sequence[int]
) -> dict[str, Any]:
    return {"accuracy": [accuracy(config.with_changes(seed=seed), dataset) for seed in seeds]}


def _learnt(config: Config, dataset: Dataset) -> float:
    """The last accuracy of a learner that meets the classes one by one."""
    return next(iter(choosing.judge(config, dataset, [config.seed])["mean"].values()))


if __name__ == "__main__":
    sys.exit(exit_status(main, interrupted="interrupted; run the same command to go on"))
