"""The cells of the table: what is run for each, and what is read from its folder."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgm_jax.errors import UserError

DATA = {  # name -> (experiment, arguments, arguments of the quick table)
    "digits": ("digits", (), ()),
    "mnist-500": ("mnist", ("--train-per-class", "500"), ("--epochs", "10", "--checkpoint-epochs", "5")),
    "mnist": ("mnist", (), ("--epochs", "1")),
    "svhn": ("svhn", (), ("--epochs", "5")),
    "cifar10": ("cifar10", (), ("--epochs", "5")),
    "imagenet50": ("imagenet50", ("--classes", "first:50"), ("--epochs", "1")),
}
METHODS = {
    "joint": ("--method", "joint"),
    "dgma": ("--variant", "dgma"),
    "dgmw": ("--variant", "dgmw"),
    "mergan": ("--method", "mergan"),
    "mergan-jtr": ("--method", "mergan-jtr"),
    "dgr": ("--method", "dgr"),
    "er": ("--method", "er"),
    "icarl": ("--method", "icarl"),
    "ewc": ("--method", "ewc"),
    "finetune": ("--method", "finetune"),
}
_GENERATIVE = ("dgma", "dgmw", "mergan", "mergan-jtr", "dgr")
# What the paper claims, one part changed at a time.
ABLATIONS = {
    f"{variant}: {what}": ("--variant", variant, *arguments)
    for variant in ("dgma", "dgmw")
    for what, arguments in {
        "as it is": (),
        "no expansion": ("--no-expansion",),
        "random masks": ("--masks", "random"),
        "no re-use": ("--no-reuse",),
        "masks learnt to the end": ("--mask-share", "1"),
        "no sparsity": ("--sparsity-weight", "0"),
        "twice the sparsity": ("--sparsity-weight", "0.4" if variant == "dgma" else "0.16"),
        "slope up to 100": ("--scale-max", "100"),
        "slope up to 10,000": ("--scale-max", "10000"),
        "slope anneals within epochs": ("--anneal-within-epoch",),
        "gate gradient: product": ("--gate-gradient", "product"),
        "fresh replay": ("--replay", "fresh"),
        **({"gate before norm": ("--gate-position", "before_norm")} if variant == "dgma" else {}),
    }.items()
} | {"no masks": ("--method", "mergan", "--alignment-weight", "0")}  # One generator that goes on learning.


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    data: str
    method: str  # Of METHODS or ABLATIONS.
    seed: int
    runs: Path
    quick: bool = False
    data_dir: Path | None = None

    @property
    def workdir(self) -> Path:
        """Its folder."""
        name = self.method.replace(":", "").replace(",", "").replace(" ", "-")
        return self.runs / self.data / f"{name}-seed{self.seed}"

    @property
    def command(self) -> list[str]:
        """What comes after `python`, but for folders."""
        experiment, arguments, quick = DATA[self.data]
        method = METHODS.get(self.method) or ABLATIONS[self.method]
        budget = quick if self.quick else ()
        return ["-m", f"experiments.{experiment}", *arguments, *budget, *method, "--seed", str(self.seed)]

    def run(self) -> None:
        """Runs it, or goes on with it; what it says goes to a file beside its folder.

        Raises:
          UserError: if it fails; with its own words.
        """
        where = ["--workdir", str(self.workdir)]
        if self.data_dir is not None and self.data != "digits":
            where += ["--data-dir", str(self.data_dir)]
        self.workdir.parent.mkdir(parents=True, exist_ok=True)
        log = self.workdir.with_suffix(".log")
        with log.open("w") as file:
            process = subprocess.Popen([sys.executable, *self.command, *where], stdout=file, stderr=file)
            try:
                status = process.wait()
            except KeyboardInterrupt:
                process.wait()  # It heard the same Ctrl-C, and saves.
                raise
        if status:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            said = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "")
            raise UserError(f"{said.removeprefix('error: ')[:300]} (status {status}; {log} has all it said)")

    def read(self) -> dict[str, Any]:
        """Its figures.

        Raises:
          UserError: if it is not finished, or belongs to another configuration.
        """
        file = self.workdir / "summary.json"
        if not file.exists():
            raise UserError("not run yet")
        summary = json.loads(file.read_text())
        if not summary["finished"]:
            raise UserError(f"not finished: {summary['finished_tasks']} of {len(summary['tasks'])} tasks")
        quality = self.workdir / "quality.json"
        return {"summary": summary, "quality": json.loads(quality.read_text()) if quality.exists() else None}

    def judge(self, by: Path) -> None:
        """Measures what its memory draws, in the eyes of the `joint` run in folder `by`; once."""
        file = self.workdir / "quality.json"
        if file.exists() or not (by / "summary.json").exists():
            return
        import jax

        from dgm_jax import quality
        from dgm_jax.files import write_json
        from dgm_jax.workdir import Workdir
        from experiments import cli

        experiment = DATA[self.data][0]
        arguments = [*self.command[2:], *(("--data-dir", str(self.data_dir)) if self.data_dir else ())]
        kind = cli.ImageNetOptions if experiment == "imagenet50" else cli.Options
        options = cli.parse(experiment, None, kind=kind, argv=arguments)
        (stream,) = cli.make_streams(experiment, options, [self.seed], quiet=True)
        last = stream.n_tasks - 1
        stream.begin(last)
        images, labels = stream.test(last)
        judge = quality.Judge.of(Workdir(by), stream.n_classes)
        memory, label = _memory(self.workdir, options.settings, stream)
        measured = quality.measure(memory, judge, images, labels, jax.random.key(self.seed), label=label)
        write_json(file, measured)


def _memory(workdir: Path, config: Any, stream: Any) -> tuple[Any, Any]:
    """What the run remembers, as something that draws; and what labels its images, if they cannot be asked for."""
    from dgm_jax.baselines.generative import UnmaskedGenerator
    from dgm_jax.baselines.learner import load_method
    from dgm_jax.memory import load_memory

    if config.method == "dgm":
        return load_memory(workdir), None
    method = load_method(config, stream, workdir)
    assert isinstance(method, UnmaskedGenerator)
    solver = None if method.conditional else lambda drawn: method.logits(stream.n_tasks - 1, drawn).argmax(axis=1)
    return method.memory, solver


def collect(plan: Sequence[Cell], *, run: bool) -> list[dict[str, Any]]:
    """Runs the cells that are not finished (if `run`), and reads all.

    Returns:
      For each cell "data", "method", "seed", "command" and "summary" and "quality", or "error".
    """
    results = []
    begun = time.perf_counter()
    for number, cell in enumerate(plan, start=1):
        result: dict[str, Any] = {"data": cell.data, "method": cell.method, "seed": cell.seed}
        result["command"] = " ".join(["python", *cell.command])
        try:
            if run:
                print(f"{number} of {len(plan)}: {result['command']}", end=" ... ", flush=True)
                cell.run()
            if cell.method in _GENERATIVE:
                cell.judge(dataclasses.replace(cell, method="joint").workdir)
            result |= cell.read()
        except UserError as error:
            result["error"] = str(error)
        if run:
            spent = time.perf_counter() - begun
            left = spent / number * (len(plan) - number) / 60
            print(result.get("error") or f"A_final {_final(result):.1f} %; about {left:.0f} minutes left", flush=True)
        results.append(result)
    return results


def _final(result: dict[str, Any]) -> float:
    summary = result["summary"]
    reading = next(iter(summary["forgetting"]))
    return 100 * summary[f"A_{summary['final']}"][reading]["macro"]
