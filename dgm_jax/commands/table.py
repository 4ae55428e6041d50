"""The table: methods x data sets x seeds, with published numbers beside ours.

Each entry is a run in its own folder, as `dgm-jax learn DATA --method METHOD` makes it. Stop with Ctrl-C at any time;
run the same command again to resume. Finished runs are only read. If a run fails, the table shows why in its place. The
command writes `table.md`, `table.csv`, `table.json` and figures.

    dgm-jax table --quick --data-dir DIR                # digits and MNIST-500: 30 minutes
    dgm-jax table --quick --data-dir DIR --jobs 2       # two runs at once, which share out the cores
    dgm-jax table --data mnist --data-dir DIR --launcher slurm   # each run is a job of a Slurm cluster
    dgm-jax table --data cifar10 --methods dgmw mergan --seeds 0,1,2 --data-dir DIR
    dgm-jax table --data digits mnist-500 --seeds 0,1,2,3,4,5 --orders --data-dir DIR   # seeds are orders, too
    dgm-jax table --budgets --data fashion --orders --seeds 0,1 --data-dir DIR   # accuracy against bytes
    dgm-jax table --ablations --data digits             # what each part of the method contributes
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from dgm_jax.commands import table_rows, table_runs
from dgm_jax.commands.arguments import Switch, as_called, did_you_mean, parse_options, program, shown
from dgm_jax.commands.options import check_jobs, parse_seeds
from dgm_jax.commands.table_runs import TableRun
from dgm_jax.errors import UserError, exit_status
from dgm_jax.reporting import table
from dgm_jax.reporting.jobs import JobsProgress
from dgm_jax.system import jobs

_METHODS = tuple(dict.fromkeys((*table_rows.COMPARED, *table_rows.BUDGETS, *table_rows.ABLATIONS)))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Options of the table."""

    data: Annotated[
        tuple[str, ...], arg(metavar="DATA [DATA ...]", help=f"Data sets: {', '.join(table_rows.DATA)}")
    ] = ("digits", "mnist-500")
    methods: Annotated[
        tuple[str, ...],
        shown("METHOD [METHOD ...]", "all; with --quick, those without '-as-'"),
        arg(help=f"Methods: {', '.join(table_rows.COMPARED)}; or a change of the method, such as 'dgma: no masks'"),
    ] = ()
    budgets: Switch = False
    """Compare DGM with generators of three sizes, and other methods with as many bytes."""
    ablations: Switch = False
    """Compare DGM with itself, one part changed at a time."""
    seeds: Annotated[str | None, shown("N,N,...", "0,1,2; with --quick, 0")] = None
    """Seeds."""
    orders: Switch = False
    """Each seed also has its own order of classes, and on digits its own fold (seed s: fold s mod 5 + 1 of 5)."""
    precision: Annotated[
        Literal["float32", "tf32", "bf16"] | None, shown("{float32,tf32,bf16}", "that of the device")
    ] = None
    """Precision of the matrix products of training, in all runs that train."""
    quick: Switch = False
    """Train less, for a table in half an hour on two cores."""
    runs: Annotated[Path | None, shown("DIR", "runs/table, runs/table-quick, ...")] = None
    """Folder of the runs."""
    out: Annotated[Path | None, shown("DIR", "that of the runs")] = None
    """Folder to write the table to."""
    data_dir: Annotated[Path | None, shown("DIR", "as in a single run")] = None
    """Folder that holds the data sets."""
    images: Annotated[Path | None, shown("DIR", "none")] = None
    """Class folders of imagenet50; imagenet50-stand-in reads imagenet_resized/32x32 in --data-dir."""
    collect: Switch = False
    """Train nothing; write the table of the runs that are there, or of --methods."""
    jobs: Annotated[int | None, shown("N", "1 here, all in the queue of Slurm")] = None
    """At most N runs at once; on this machine they share out the cores (docs/cluster.md)."""
    launcher: Literal["local", "slurm"] = "local"
    """slurm: each run is a job of the cluster."""
    slurm: Annotated[tuple[str, ...], shown("NAME=VALUE [NAME=VALUE ...]", "time=60 cpus-per-task=1")] = ()
    """With --launcher slurm: options of sbatch, e.g. partition=gpu gpus=1 time=120."""

    def run(self, command: str) -> int:
        """Trains what is not finished yet and writes the table, which names `command`; returns 1 if a run failed."""
        self._check()
        runs = self.runs or Path("runs") / (
            ("ablations" if self.ablations else "budgets" if self.budgets else "table")
            + ("-quick" if self.quick else "")
            + ("-orders" if self.orders else "")
        )
        compared = [name for name, method in table_rows.COMPARED.items() if method.in_quick or not self.quick]
        every = ("joint", *table_rows.ABLATIONS) if self.ablations else table_rows.BUDGETS if self.budgets else compared
        seeds = parse_seeds(self.seeds or ("0" if self.quick else "0,1,2"), 0)
        plan = [
            TableRun(data, method, seed, runs, self.quick, self.data_dir, self.images, self.orders, self.precision)
            for data in self.data
            for method in self.methods or every
            for seed in seeds
        ]
        if self.collect and not self.methods:
            begun = {(run.data, run.method) for run in plan if run.workdir.exists()}
            plan = [run for run in plan if (run.data, run.method) in begun]
            if not plan:
                raise UserError(f"--collect: {runs} holds no run of {', '.join(self.data)}")
        failed, unmeasured = ({}, {}) if self.collect else self._train(plan, runs)
        results = table_runs.collect(plan, failed, unmeasured)
        out = self.out or runs
        table.write(results, out, command=command, ablations=self.ablations)
        print((out / "table.md").read_text("utf-8"))
        print(f"written to {out}: table.md (this page), table.csv, table.json and figures", flush=True)
        return 1 if any(result.summary is None for result in results) else 0

    def _train(self, plan: Sequence[TableRun], runs: Path) -> tuple[dict[TableRun, str], dict[TableRun, str]]:
        """Trains what is not finished, then measures what is not measured; each is a job. Returns what went wrong."""
        launcher = jobs.Launcher(self.launcher, self.jobs, parse_slurm(self.slurm))
        begins = "in the queue" if self.launcher == "slurm" else "begins"

        def run_all(chosen: dict[jobs.Job, TableRun], outcome: Callable[[TableRun], str]) -> dict[TableRun, str]:
            progress = JobsProgress(len(chosen), lambda job: outcome(chosen[job]), begins=begins)
            failed = jobs.run(list(chosen), launcher, runs, progress)
            return {chosen[job]: failure for job, failure in failed.items()}

        if finished := sum(run.is_finished for run in plan):
            print(f"{finished} of {len(plan)} runs are finished already", flush=True)
        failed = run_all({run.job: run for run in plan if not (run.sized_by or run.is_finished)}, TableRun.outcome)
        sized = []
        for run in plan:
            try:
                run.find_size()
                sized += [run] if run.sized_by and not run.is_finished else []
            except (UserError, OSError) as error:
                failed[run] = str(error)
        failed |= run_all({run.job: run for run in sized}, TableRun.outcome)
        unmeasured = run_all({run.measuring: run for run in plan if run.must_be_measured}, lambda run: "measured")
        return failed, unmeasured

    def _check(self) -> None:
        for option, words, known in (("--data", self.data, table_rows.DATA), ("--methods", self.methods, _METHODS)):
            for word in words:
                if word not in known:
                    hint = did_you_mean(word, tuple(known)) if option == "--methods" else ""  # Too many for a line.
                    if set(word.split(",")) <= set(known):
                        hint = "put spaces between names"
                    raise UserError(f"{option} {word}: unknown; {hint or 'choose from ' + ', '.join(known)}")
        if "imagenet50" in self.data and self.images is None:
            raise UserError("--data imagenet50 needs --images, its class folders; or take imagenet50-stand-in")
        for option, folder, content in (
            ("--data-dir", self.data_dir, "data sets"),
            ("--images", self.images, "a folder of images for each class"),
        ):
            if folder is not None and not folder.is_dir() and not self.collect:
                raise UserError(f"{option} {folder}: no such folder; expected one with {content}")
        check_jobs(self.jobs)
        if self.slurm and self.launcher != "slurm":
            raise UserError("--slurm needs --launcher slurm")


def parse_slurm(words: Sequence[str]) -> dict[str, str | bool]:
    """Reads `--slurm`: options of sbatch as NAME=VALUE, or NAME alone."""
    found: dict[str, str | bool] = {}
    for word in words:
        name, equals, value = word.partition("=")
        found[name.lstrip("-").replace("-", "_")] = value if equals else True
    return found


def parse(argv: Sequence[str], *, called: str | None = None) -> Table:
    """Reads the command line; raises UserError for an unknown option."""
    called = called or f"{program()} table"
    return parse_options(Table, argv, program=called, description=as_called(__doc__ or "", "dgm-jax table", called))


def run(argv: Sequence[str], *, called: str | None = None) -> int:
    """Makes the table.

    Args:
      argv: the arguments.
      called: how the program was called; None: as the command `table`.

    Returns:
      The exit status: 0; 1 if a run failed; 2 after a user's error; 130 after Ctrl-C; 143 after SIGTERM.
    """
    command = " ".join([called or f"{program()} table", *map(shlex.quote, argv)])
    return exit_status(
        lambda: parse(argv, called=called).run(command),
        resume="run the same command to resume",
    )
