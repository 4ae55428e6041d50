"""The table: methods x data sets x seeds, with published numbers beside ours.

Each entry is a run in its own folder, as `python -m experiments.DATA --method METHOD` makes it. Stop with Ctrl-C at any
time; run the same command again to resume. Finished runs are only read. If a run fails, the table shows why in its
place. The command writes `table.md`, `table.csv`, `table.json` and figures.

    python -m experiments.table --quick --data-dir DIR                # digits and MNIST-500, all methods: 30 minutes
    python -m experiments.table --data cifar10 --methods dgmw mergan --seeds 0,1,2 --data-dir DIR
    python -m experiments.table --ablations --data digits             # what each part of the method contributes
"""

import sys

from dgm_jax.commands import table

if __name__ == "__main__":
    sys.exit(table.main(description=__doc__))
