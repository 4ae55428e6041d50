"""The cells of the table: what is run for each, and what is read from its folder."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgm_jax.commands.learn import make_streams
from dgm_jax.commands.options import ImageNetOptions, Options
from dgm_jax.commands.parsing import parse
from dgm_jax.config import GENERATIVE, Config, flattened, require_none_removed, upgraded
from dgm_jax.errors import OtherConfiguration, UserError
from dgm_jax.reporting import table as sheets
from dgm_jax.system.files import write_json

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

_MISTAKES = (UserError, OSError, ValueError, KeyError, TypeError)  # The last three: files edited or cut short.

# What the paper claims, one part changed at a time.
ABLATIONS = {
    f"{variant}: {what}": ("--variant", variant, *arguments)
    for variant in ("dgma", "dgmw")
    for what, arguments in {
        "as it is": (),
        "no expansion": ("--no-expansion",),
        "random masks": ("--masks", "random"),
        "no masks": ("--masks", "none"),
        "no re-use": ("--no-reuse",),
        "masks learnt to the end": ("--mask-share", "1"),
        "no sparsity": ("--sparsity-weight", "0"),
        "strong sparsity": ("--sparsity-weight", "0.4" if variant == "dgma" else "0.16"),  # Twice that of digits.
        "slope up to 100": ("--scale-max", "100"),
        "slope up to 10,000": ("--scale-max", "10000"),
        "slope anneals within epochs": ("--anneal-within-epoch",),
        "gate gradient: product": ("--gate-gradient", "product"),
        "fresh replay": ("--replay", "fresh"),
        **({"gate before norm": ("--gate-position", "before_norm")} if variant == "dgma" else {}),
    }.items()
}


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    data: str
    method: str  # Of METHODS or ABLATIONS.
    seed: int
    runs: Path
    quick: bool = False
    data_dir: Path | None = None
    images: Path | None = None  # Class folders of ImageNet-50.

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
        if "--method" in method and method[-1] not in GENERATIVE and "--epochs" in budget:  # These count steps.
            start = budget.index("--epochs")
            budget = (*budget[:start], *budget[start + 2 :])
        return ["-m", f"experiments.{experiment}", *arguments, *budget, *method, "--seed", str(self.seed)]

    @property
    def options(self) -> Options:
        """The command, read as the experiment reads it."""
        experiment = DATA[self.data][0]
        kind = ImageNetOptions if experiment == "imagenet50" else Options
        words = [*self.command[2:], *self._sources]
        return parse(experiment, None, kind=kind, argv=words)

    @property
    def _sources(self) -> list[str]:
        if self.data == "imagenet50" and self.images is not None:
            return ["--data", str(self.images)]
        return ["--data-dir", str(self.data_dir)] if self.data_dir is not None and self.data != "digits" else []

    def run(self) -> None:
        """Runs it, or goes on with it; what it says goes to a file beside its folder.

        Raises:
          UserError: if it fails; with its own words.
        """
        where = ["--workdir", str(self.workdir), *self._sources]
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
        """Its summary.

        Raises:
          UserError: if it is not finished.
          OtherConfiguration: if what lies in its folder is another run.
          OSError, ValueError, KeyError: if what lies there is damaged.
        """
        file = self.workdir / "summary.json"
        if not file.exists():
            raise UserError("not run yet")
        summary = json.loads(file.read_text())
        if not summary["finished"]:
            raise UserError(f"not finished: {summary['finished_tasks']} of {len(summary['tasks'])} tasks")
        options = self.options
        settings = upgraded(summary["config"])
        require_none_removed(settings, self.workdir)
        defaults = Config(
            own=type(options.settings.own)()
        )  # For settings that did not exist when the file was written.
        found = defaults.flat() | flattened(settings) | {"dataset": summary["dataset"]}
        expected = options.settings.flat() | {"dataset": DATA[self.data][0]}
        if self.data == "imagenet50":  # Called after its folder.
            expected["dataset"] = found["dataset"]
        found["classes_per_task"] = ",".join(dict.fromkeys(str(len(task)) for task in summary["tasks"]))
        expected["classes_per_task"] = options.classes_per_task
        for name, value in expected.items():
            if found[name] != value:
                raise OtherConfiguration(
                    f"{self.workdir} holds another run, of {name}={found[name]!r}, not {value!r}; choose other --runs"
                )
        return summary

    def judge(self, by: "Cell") -> dict[str, Any]:
        """What its memory draws, in the eyes of the `joint` run `by`; measured once for both runs as they are.

        Raises:
          As `read`, of either run; and UserError if the data are not at hand.
        """
        by.read()
        runs = [(cell.workdir / "summary.json").read_bytes() for cell in (self, by)]
        fingerprint = hashlib.sha256(b"".join(runs)).hexdigest()
        file = self.workdir / "quality.json"
        if file.exists():
            known = json.loads(file.read_text())
            if known.pop("of", None) == fingerprint:
                return known
        import jax

        from dgm_jax.loading import load_method
        from dgm_jax.metrics import quality

        options = self.options
        (stream,) = make_streams(DATA[self.data][0], options, [self.seed], quiet=True)
        last = stream.n_tasks - 1
        stream.begin(last)
        images, labels = stream.test(last)
        joint, state = load_method(by.options.settings, stream, by.workdir)
        judge = joint.classifier(last, state)  # type: ignore[attr-defined]  # `joint` has one.
        memory, label = _memory(self.workdir, options.settings, stream)
        measured = quality.measure(memory, judge, images, labels, jax.random.key(self.seed), label=label)
        write_json(file, measured | {"of": fingerprint})
        return measured


def _memory(workdir: Path, config: Config, stream: Any) -> tuple[Any, Any]:
    """The memory of a run, and what labels its images if it cannot be asked for a class."""
    from dgm_jax.loading import load_memory, load_method
    from dgm_jax.methods.generative import UnmaskedGenerator

    if config.method == "dgm":
        return load_memory(workdir), None
    method, state = load_method(config, stream, workdir)
    assert isinstance(method, UnmaskedGenerator)
    solver = None if method.conditional else lambda drawn: state.classifier.logits(drawn).argmax(axis=1)
    return state.generator, solver


def collect(plan: Sequence[Cell], *, run: bool) -> list[dict[str, Any]]:
    """Runs the cells that are not finished (if `run`), and reads all; what is wrong with one stays its own.

    Returns:
      For each cell "data", "method", "seed", "command", and either "summary" and "quality" (None, where there is no
      memory to draw from; then "unjudged" may say why) or "error".
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
            result |= {"summary": cell.read(), "quality": None}
        except _MISTAKES as error:
            result["error"] = _said(error)
        if "summary" in result and result["summary"]["method"] in GENERATIVE:
            try:
                result["quality"] = cell.judge(dataclasses.replace(cell, method="joint"))
            except _MISTAKES as error:
                result["unjudged"] = _said(error)
        if run:
            spent = time.perf_counter() - begun
            left = spent / number * (len(plan) - number) / 60
            said = result.get("error") or f"A_final {sheets.final_accuracy(result['summary']):.1f} %"
            print(f"{said}; about {left:.0f} minutes left", flush=True)
        results.append(result)
    return results


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError | OSError) else f"a damaged file ({type(error).__name__}: {error})"
