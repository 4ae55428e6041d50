"""How far the temperature that a run's classifier has is from the best one for real images.

The run must have been judged on training images (`--evaluate-on training`), and so is everything here:

    python -m studies.temperature mnist --run RUN --data-dir DIR --out results/temperature.jsonl

A record has the best temperature for real images and for drawn ones, their quotient, and the calibration error and mean
negative log-likelihood of real images without a temperature, with the best one for drawn images, with the run's, and
with the best one.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks import machine
from dgm_jax import metrics
from dgm_jax.commands.arguments import parse_options
from dgm_jax.errors import exit_status
from dgm_jax.methods.confidence import best_temperature
from studies.finished import opened


@dataclass(frozen=True, kw_only=True)
class Options:
    """A finished run of DGM."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits, mnist, fashion, svhn or cifar10
    run: Path  # folder of the run
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    out: Path  # file of JSON Lines; a line is added


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the temperatures, prints them, and adds a line to the file."""
    options = parse_options(Options, argv, program="python -m studies.temperature", description=__doc__)
    run = opened(options.run, options.data, options.data_dir)
    assert run.state.classifier
    drawn, quotient = run.temperature()
    logits = run.state.classifier.logits(run.images)
    best = best_temperature(logits, run.truth)
    measured = {}
    for name, tried in (("none", 1.0), ("drawn", drawn), ("run", quotient * drawn), ("best", best)):
        predicted = metrics.log_probabilities(logits, tried)
        error = metrics.expected_calibration_error(predicted, run.truth)
        measured[name] = {"ece": error, "nll": metrics.negative_log_likelihood(predicted, run.truth)}
        nll = measured[name]["nll"]
        print(f"{name:5} {tried:5.2f}: calibration error {100 * error:5.2f} %, log-likelihood {-nll:.3f}")
    found = {"run": quotient * drawn, "drawn": drawn, "best": best, "best_to_drawn": best / drawn}
    smoothing, accuracy = run.config.consolidation.consolidation_smoothing, run.accuracy(logits)
    facts = {"seed": run.config.seed, "images": len(logits), "smoothing": smoothing, "accuracy": accuracy}
    machine.keep(options.out, data=options.data, run=options.run.name, **facts, temperature=found, measured=measured)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command again"))
