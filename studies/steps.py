"""How many steps joint training takes until more of them bring nothing: the ceiling that a network has.

The steps are doubled until two doublings in a row gain less than 0.3 points. As in `studies.tune`, the last quarter of
each class's training images judges. All classes are learnt at once, as joint training does after the last task. A row
that the file has already is not measured again.

    python -m studies.steps cifar10 --train-per-class 5000 --data-dir DIR --out results/steps.jsonl \\
        --base consolidation_flip=true --try consolidation_network=resnet,consolidation_width=64
"""

import itertools
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from dgm_jax.commands.arguments import parse_options
from dgm_jax.config import Config
from dgm_jax.errors import exit_status
from dgm_jax.system.compilation import keep_programs
from studies import choosing

_GAIN = 0.003  # A doubling that gains less counts as none.


@dataclass(frozen=True, kw_only=True)
class Options(choosing.Options):
    """Networks that learn all classes at once, for as many steps as help."""

    tasks: int = 10  # as many classes, all in one task
    seeds: str = "0"  # a run for each
    first: int = 800  # steps to begin with


def has_stopped(accuracies: Sequence[float]) -> bool:
    """Whether the last two doublings gained less than 0.3 points each; accuracies are shares, one for each doubling."""
    gains = [after - before for before, after in itertools.pairwise(accuracies)]
    return len(gains) >= 2 and max(gains[-2:]) < _GAIN


def main(argv: Sequence[str] | None = None) -> int:
    """Doubles the steps of each network until it stops; adds a line to the file for each number of steps."""
    options = parse_options(Options, argv, program="python -m studies.steps", description=__doc__)
    keep_programs()
    options = replace(options, base=",".join(filter(None, ["method=joint", options.base])))
    plan = choosing.Plan(options)
    for change, config in plan.configs.items():
        _double(plan, change, config, options.first)
    return 0


def _double(plan: choosing.Plan, change: str, config: Config, steps: int) -> None:
    accuracies: list[float] = []
    while not has_stopped(accuracies):
        own = config.with_changes(consolidation_steps=steps)
        measure = partial(choosing.learn, own, plan.dataset, plan.seeds, classes_per_task=plan.options.tasks)
        named = ",".join(filter(None, [change, f"consolidation_steps={steps}"]))
        accuracies.append(statistics.mean(plan.measure(named, own, measure)["accuracy"]["classifier"]))
        steps *= 2


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command to resume"))
