"""Chooses settings by the first tasks alone, two by default: each change is tried on their *training* images.

No test image is read, and no image of a later task: who meets classes one after the other has seen none of them when
settings must be chosen. Of each class's training images the last quarter is what settings are judged by. With
`--tasks 10` what a change does can be seen where many classes are to be told apart, still without a test image.

    python -m benchmarks.tune cifar10 --variant dgmw --data-dir DIR --out docs/results/tuning.json \\
        --try generator_learning_rate=0.0005 --try auxiliary_generator=true,generator_width=16

Each change is tried on its own, beside the preset as it is. Results already in the file are kept. `--figure` draws the
accuracy of all that the file holds of these tasks and seeds, both variants, against the bytes of the memory.
"""

import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import choosing, results
from dgm_jax.errors import exit_status
from dgm_jax.system.compilation import keep_programs


def figure(entries: Sequence[dict[str, Any]], out: Path) -> None:
    """Draws the last accuracy against the kB of the memory: a point an entry, with the range over its seeds.

    It is called by its changes, but for those that all entries have.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    changes = [entry["change"].split(",") for entry in entries]
    common = set.intersection(*map(set, changes))
    drawing, axis = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for number, variant in enumerate(dict.fromkeys(entry["variant"] for entry in entries)):
        own = [entry for entry in entries if entry["variant"] == variant and entry.get("by_task", {}).get("kB")]
        if not own:
            continue
        sizes = [statistics.mean(seed[-1] for seed in entry["by_task"]["kB"]) for entry in own]
        accuracy = [[100 * seed[-1] for seed in entry["by_task"]["accuracy"]] for entry in own]
        middle = [statistics.mean(seeds) for seeds in accuracy]
        spread = np.abs([[edge(seeds) for seeds in accuracy] for edge in (min, max)] - np.asarray(middle))
        axis.errorbar(sizes, middle, spread, fmt="o", color=f"C{number}", label=variant, capsize=3)
        for entry, x, y in zip(own, sizes, middle, strict=True):
            said = ", ".join(part for part in entry["change"].split(",") if part not in common)
            said = said or "as it is"
            axis.annotate(said, (x, y), fontsize=7, textcoords="offset points", xytext=(5, 3))
    axis.set(xscale="log", xlabel="memory, kB", ylabel="accuracy after the last task, %")
    for formatter in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        formatter(ticker.FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axis.xaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
    axis.margins(x=0.15)  # Room for what the last ones are called.
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    drawing.savefig(out, dpi=110)
    pyplot.close(drawing)


def main(argv: Sequence[str] | None = None) -> int:
    """Tries each change and writes what came of it."""
    parser = choosing.command_line(__doc__, tasks=2, seeds="0,1")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw accuracy against bytes")
    options = parser.parse_args(argv)
    keep_programs()
    first, _, configs = choosing.planned(options)
    for change, config in configs.items():
        said = choosing.together(options.base, change)
        own = choosing.entry(options, config, change=said)
        resized = first.resized(config.data.image_size)
        known = results.once(options.out, own, partial(choosing.judge, config, resized, options.seeds))
        shown = ", ".join(f"{reading} {100 * known['mean'][reading]:.1f} %" for reading in known["mean"])
        size = f", {statistics.mean(known['weights']) / 1e6:.2f} M weights" if known["weights"] else ""
        print(f"{options.variant} {said or 'as it is'}: {shown}{size}; {known['minutes']:.1f} min", flush=True)
    if options.figure:
        same = {"data": options.data, "train_per_class": options.train_per_class, "tasks": options.tasks}
        same |= {"seeds": options.seeds}
        figure(results.of(options.out, same), options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, interrupted="interrupted; run the same command to go on"))
