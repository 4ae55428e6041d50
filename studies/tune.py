"""Chooses settings by the first tasks only, two by default: each change is judged on *training* images.

No test image is read, and no image of a later task: in class-incremental learning, later classes are unknown when
settings must be chosen. The last quarter of each class's training images judges the settings. `--tasks 10` shows what
a change does when many classes must be told apart, still without a test image.

    python -m studies.tune cifar10 --variant dgmw --data-dir DIR --out results/tune.jsonl \\
        --try generator_learning_rate=0.0005 --try auxiliary_generator=true,generator_width=16

Each change is tried by itself, beside the unchanged preset. A row that the file has already is not measured again.
"""

import statistics
import sys
from collections.abc import Sequence
from functools import partial

from dgm_jax.errors import exit_status
from dgm_jax.system.compilation import keep_programs
from studies import choosing, results


def main(argv: Sequence[str] | None = None) -> int:
    """Tries each change, adds a line to the file for it, and prints the accuracy."""
    options = choosing.command_line(__doc__, tasks=2, seeds="0,1").parse_args(argv)
    keep_programs()
    plan = choosing.planned(options)
    for change, config in plan.configs.items():
        whole_change = choosing.joined(options.base, change)
        entry = choosing.entry(options, change=whole_change)
        measure = partial(choosing.learn, config, plan.dataset.resized(config.data.image_size), options.seeds)
        record = results.once(options.out, entry, config, plan.preset, measure)
        shown = ", ".join(f"{reading} {results.spread(values)}" for reading, values in record["accuracy"].items())
        size = f", {statistics.mean(record['weights']) / 1e6:.2f} M weights" if record.get("weights") else ""
        label = f"{options.variant} {whole_change or 'unchanged'}"
        print(f"{label}: {shown}{size}; {record['minutes']:.1f} min", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, interrupted="interrupted; run the same command to resume"))
