"""Chooses settings by the first tasks only, two by default: each change is judged on *training* images.

No test image is read, and no image of a later task: in class-incremental learning, later classes are unknown when
settings must be chosen. The last quarter of each class's training images judges the settings. `--tasks 10` shows what
a change does when many classes must be told apart, still without a test image.

    python -m studies.tune cifar10 --variant dgmw --data-dir DIR --out results/tune.jsonl \\
        --try generator_learning_rate=0.0005 --try auxiliary_generator=true,generator_width=16

Each change is tried by itself, beside the unchanged preset. A row that the file has already is not measured again.
"""

import sys
from collections.abc import Sequence

from dgm_jax.commands.arguments import parse_options
from dgm_jax.errors import exit_status
from dgm_jax.system.compilation import keep_programs
from studies import choosing


def main(argv: Sequence[str] | None = None) -> int:
    """Tries each change, adds a line to the file for it, and prints the accuracy."""
    options = parse_options(choosing.Options, argv, program="python -m studies.tune", description=__doc__)
    keep_programs()
    plan = choosing.Plan(options)
    plan.measure_each(lambda config: choosing.learn(config, plan.dataset, plan.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command to resume"))
