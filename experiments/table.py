"""The table: methods x data sets x seeds, run one after the other or collected, with published numbers beside ours.

Each cell is a run in a folder of its own, as `python -m experiments.DATA --method METHOD` makes it. Stop with Ctrl-C
whenever you like: the same command goes on, and what is finished is only read. A run that fails leaves its reason in
its cell. Written are `table.md`, `table.csv`, `table.json` and figures.

    python -m experiments.table --quick --data-dir DIR                # digits and MNIST-500, all methods, small budgets
    python -m experiments.table --data cifar10 --methods dgmw mergan --seeds 0,1,2 --data-dir DIR
    python -m experiments.table --ablations --data digits             # what each part of the method does
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dgm_jax.commands.options import parse_seeds
from dgm_jax.errors import UserError, exit_status
from dgm_jax.reporting import table as sheets
from experiments import cells


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*cells.METHODS, *cells.ABLATIONS]
    parser.add_argument("--data", nargs="+", choices=cells.DATA, help="data sets (default: digits and mnist-500)")
    parser.add_argument("--methods", nargs="+", choices=names, metavar="METHOD", help=f"of: {', '.join(names)}")
    parser.add_argument("--ablations", action="store_true", help="the parts of the method instead of all methods")
    parser.add_argument("--seeds", default=None, help="e.g. 0,1,2, the default; with --quick: 0")
    parser.add_argument("--quick", action="store_true", help="small budgets: half an hour on two cores")
    parser.add_argument("--runs", type=Path, default=None, help="folder of the runs (default: runs/table, ...)")
    parser.add_argument("--out", type=Path, default=None, help="folder to write to (default: that of the runs)")
    parser.add_argument("--data-dir", type=Path, default=None, help="folder that holds data sets (default: as in runs)")
    parser.add_argument("--images", type=Path, default=None, help="class folders of ImageNet-50, in place of TFDS")
    parser.add_argument("--collect", action="store_true", help="run nothing: write the table of what is there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is not finished yet, then writes the table; 0, or 1 if a cell failed."""
    options = parse(argv)
    kind = ("ablations" if options.ablations else "table") + ("-quick" if options.quick else "")
    runs = options.runs or Path("runs") / kind
    chosen = options.methods or (["joint", *cells.ABLATIONS] if options.ablations else list(cells.METHODS))
    seeds = parse_seeds(options.seeds or ("0" if options.quick else "0,1,2"), 0)
    for folder in (options.data_dir, options.images):
        if folder is not None and not folder.is_dir() and not options.collect:
            raise UserError(f"{folder}: no such folder; expected one with data sets")
    plan = [
        cells.Cell(data, method, seed, runs, options.quick, options.data_dir, options.images)
        for data in options.data or ["digits", "mnist-500"]
        for method in chosen
        for seed in seeds
    ]
    results = cells.collect(plan, run=not options.collect)
    out = options.out or runs
    sheets.write(
        results,
        out,
        command="python -m experiments.table " + shlex.join(argv or sys.argv[1:]),
        ablations=options.ablations,
    )
    print((out / "table.md").read_text())
    failed = [result for result in results if "error" in result]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_status(main, interrupted="interrupted; run the same command to go on"))
