"""The runs of the table: the command of each, and what is read from its folder."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.commands import learn
from dgm_jax.commands.experiments import find
from dgm_jax.commands.options import Options
from dgm_jax.commands.parsing import parse
from dgm_jax.commands.table_rows import ABLATIONS, BUDGETS, COMPARED, DATA, QUICK, Compared
from dgm_jax.config import FROZEN, GENERATIVE, Config, all_facts, flattened, require_none_removed, upgraded
from dgm_jax.data import TaskStream, fold_name, parse_class_order, parse_fold
from dgm_jax.errors import OtherConfiguration, UserError, exit_status
from dgm_jax.metrics.intervals import Answers
from dgm_jax.reporting.table import Result
from dgm_jax.runs.comparing import bytes_of_reading
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import read_answers, read_summary
from dgm_jax.runs.summary import Summary
from dgm_jax.system.files import write_json
from dgm_jax.system.jobs import Job

_FOLDS = 5

# What can be wrong with a single run. The last three come from files that were edited or cut short.
_MISTAKES = (UserError, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class TableRun:
    """One run of the table."""

    data: str
    method: str  # A key of COMPARED, BUDGETS or ABLATIONS.
    seed: int
    runs: Path
    quick: bool = False
    data_dir: Path | None = None
    images: Path | None = None  # Class folders of ImageNet-50.
    orders: bool = False  # Whether the seed also chooses the order of classes, and of digits the fold.
    precision: str | None = None  # None: that of the device.

    @property
    def name(self) -> str:
        """What the run is called, e.g. digits/dgma-seed0."""
        method = self.method.replace(":", "").replace(",", "").replace(" ", "-")
        return f"{self.data}/{method}-seed{self.seed}"

    @property
    def workdir(self) -> Path:
        """The folder of the run."""
        return self.runs / self.name

    @property
    def command(self) -> list[str]:
        """What comes after `python` in the command of the run, without folders."""
        data, method = DATA[self.data], self._compared.arguments
        called = method[method.index("--method") + 1] if "--method" in method else "dgm"
        facts = all_facts()
        settings: dict[str, Any] = {**QUICK, **data.quick} if self.quick else {}
        settings |= {"precision": self.precision} if self.precision else {}
        read = {name: value for name, value in settings.items() if facts[name].is_used_by(called)}
        budget = [word for name, value in read.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        order = ("--class-order", "seed", *(("--fold", self.fold) if self.fold else ())) if self.orders else ()
        chosen = data.chosen.get(self.method.partition("-as-")[0], ())  # A method of any size.
        words = [*data.arguments, *budget, *method, *chosen, *self._size(), *order, "--seed", str(self.seed)]
        if self._compared.at_once:  # Of options given twice, the last counts.
            words += ["--classes-per-task", str(data.classes), "--consolidation-steps", str(data.ceiling_steps)]
        if self._compared.wider != 1:
            width = parse(find(data.experiment), [*words, *self._sources]).settings.networks.generator_width
            words += ["--generator-width", str(round(self._compared.wider * width))]
        return ["-m", "dgm_jax", "learn", data.experiment, *words]

    @property
    def _compared(self) -> Compared:
        return (COMPARED | BUDGETS | ABLATIONS)[self.method]

    @property
    def sized_by(self) -> "TableRun | None":
        """The run whose bytes this one gets; it must be finished first."""
        as_large_as = self._compared.as_large_as
        return None if as_large_as is None else replace(self, method=as_large_as[0])

    def _size(self) -> tuple[str, ...]:
        if self.sized_by is None or not self._size_file.exists():
            return ()
        return tuple(json.loads(self._size_file.read_text("utf-8"))["option"])

    @property
    def _size_file(self) -> Path:
        return self.workdir.with_suffix(".size.json")

    def find_size(self) -> None:
        """Finds how large this run must be to have as many bytes as another one, if it is made to have them.

        If the other one has other bytes now, this run gets another size, and what its folder holds does not fit it.

        Raises:
          UserError: if the other one is not finished.
        """
        if self._compared.as_large_as is None or self.sized_by is None:
            return
        from dgm_jax.commands.table_sizes import size_option

        try:
            memory = self.sized_by.read().bytes["memory"]
        except UserError as error:
            raise UserError(f"needs the bytes of {self.sized_by.name}: {error}") from error
        n_bytes = bytes_of_reading(memory, self._compared.as_large_as[1])
        if self._size_file.exists() and json.loads(self._size_file.read_text("utf-8"))["bytes"] == n_bytes:
            return
        options = self.options
        (stream,) = learn.make_streams(DATA[self.data].experiment, options, [self.seed])
        write_json(self._size_file, {"bytes": n_bytes, "option": size_option(options.settings, stream, n_bytes)})

    @property
    def fold(self) -> str | None:
        """The fold of digits, whose 360 test images cannot show half a point."""
        return f"{self.seed % _FOLDS + 1}/{_FOLDS}" if self.orders and self.data == "digits" else None

    @property
    def options(self) -> Options:
        """The options of the command, as the experiment reads them."""
        _, _, _, experiment, *arguments = self.command
        return parse(find(experiment), [*arguments, *self._sources])

    @property
    def _sources(self) -> list[str]:
        if self.data == "imagenet50":
            return ["--data", str(self.images)]
        return ["--data-dir", str(self.data_dir)] if self.data_dir is not None and self.data != "digits" else []

    @property
    def job(self) -> Job:
        """Runs or resumes the command; its output goes to a file beside the folder of the run."""
        _, _, _, experiment, *arguments = self.command
        words = [*arguments, "--workdir", str(self.workdir), *self._sources]
        function = functools.partial(learn.run, experiment, words)
        return Job(self.name, function, self.workdir.with_suffix(".log"), Workdir(self.workdir).saved)

    @property
    def measuring(self) -> Job:
        """Measures the images that the memory draws, for `collect` to read."""
        return Job(f"{self.name}: images", functools.partial(_measure, self), self.workdir.with_suffix(".quality.log"))

    def read(self) -> Summary:
        """The summary of the run.

        Raises:
          UserError: if the run is not finished, or its summary cannot be read.
          OtherConfiguration: if the folder holds a run with other settings or data.
        """
        summary = read_summary(Workdir(self.workdir))
        if summary is None:
            raise UserError("not run yet")
        if not summary.finished:
            raise UserError(f"not finished: {summary.finished_tasks} of {len(summary.tasks)} tasks")
        if summary.forgotten:
            names = ", ".join(one["class"] for one in summary.forgotten)
            raise OtherConfiguration(f"{self.workdir} holds a run that has forgotten {names}; choose other --runs")
        if self.sized_by is not None and not self._size():
            raise UserError("not run yet")
        options = self.options
        # Settings added in later versions had their default value when the summary was written.
        settings = upgraded(summary.config)
        require_none_removed(settings, self.workdir)
        found = Config(method_settings=type(options.settings.method_settings)()).flat() | flattened(settings)
        expected: dict[str, Any] = options.settings.flat()
        name = DATA[self.data].experiment
        if name != "imagenet50":  # The data set of ImageNet-50 is named after its folder.
            expected["dataset"] = fold_name(name, *parse_fold(self.fold)) if self.fold else name
            found["dataset"] = summary.dataset
        found["classes_per_task"] = ",".join(dict.fromkeys(str(len(task)) for task in summary.tasks))
        expected["classes_per_task"] = options.classes_per_task
        found["order of classes"] = tuple(label for task in summary.tasks for label in task)
        labels = sorted(found["order of classes"])
        expected["order of classes"] = parse_class_order(options.class_order, labels, seed=self.seed)
        if expected["precision"] == "auto":  # Any device may have made the run.
            del expected["precision"]
        for name, value in expected.items():
            if found[name] != value:
                raise OtherConfiguration(
                    f"{self.workdir} holds another run, with {name}={found[name]!r} instead of {value!r}; choose other "
                    "--runs"
                )
        return summary

    def read_answers(self) -> dict[str, Answers]:
        """Which test images each reading has right; raises as `read`."""
        return read_answers(Workdir(self.workdir), self.read())

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds this run, finished."""
        try:
            self.read()
        except _MISTAKES:
            return False
        return True

    def outcome(self) -> str:
        """What has come out, in a few words."""
        try:
            return f"A_final {100 * self.read().final_accuracy():.1f} %"
        except _MISTAKES as error:
            return _message(error)

    @property
    def joint(self) -> "TableRun":
        """The run whose classifier, trained on all real images, measures those of this run's memory."""
        return replace(self, method="joint")

    @property
    def must_be_measured(self) -> bool:
        """Whether this run draws images that can be measured and are not yet."""
        if not (self.is_finished and self.joint.is_finished and self.options.settings.method in GENERATIVE):
            return False
        try:
            return self._known_quality() is None
        except _MISTAKES:  # `collect` says in the table what is wrong.
            return False

    def read_quality(self) -> dict[str, float]:
        """What was measured of the images that the memory draws.

        Raises:
          UserError: as `read`, for the run of `joint`; or if they were not measured.
        """
        self.joint.read()
        if (known := self._known_quality()) is None:
            raise UserError("not measured yet; the same command without --collect measures them")
        return known

    def measure_memory(self) -> dict[str, float]:
        """Measures the images that the memory draws with the classifier of `joint`.

        Raises:
          UserError: as `read`, for either run; or if the data cannot be used.
        """
        self.joint.read()
        from dgm_jax.loading import load_method
        from dgm_jax.metrics import quality
        from dgm_jax.system.pinned import new_key

        options = self.options
        (stream,) = learn.make_streams(DATA[self.data].experiment, options, [self.seed])
        last = stream.n_tasks - 1
        stream.begin(last)
        images, labels = stream.test(last)
        method, state = load_method(self.joint.options.settings, stream, self.joint.workdir)
        classifier = method.classifier(last, state)  # type: ignore[attr-defined]  # Every `joint` has one.
        memory, label = _load_memory(self.workdir, options.settings, stream)
        measured = quality.measure(memory, classifier, images, labels, new_key(self.seed), label=label)
        write_json(self._quality, measured | {"of": self._both_summaries()})
        return measured

    @property
    def _quality(self) -> Path:
        return self.workdir / "quality.json"

    def _both_summaries(self) -> str:
        summaries = [Workdir(run.workdir).summary.read_bytes() for run in (self, self.joint)]
        return hashlib.sha256(b"".join(summaries)).hexdigest()

    def _known_quality(self) -> dict[str, Any] | None:
        """What was measured of these two runs, as they are."""
        if not self._quality.exists():
            return None
        known: dict[str, Any] = json.loads(self._quality.read_text("utf-8"))
        return known if known.pop("of", None) == self._both_summaries() else None


def _measure(run: TableRun) -> int:
    """Measures the images of a run; this is all that its process does."""
    from dgm_jax.system.compilation import keep_programs

    keep_programs()
    return exit_status(lambda: print(run.measure_memory()))


def _load_memory(
    workdir: Path, config: Config, stream: TaskStream
) -> tuple[Any, Callable[[np.ndarray], np.ndarray] | None]:
    """The memory of a run, and what labels its images if it cannot draw a given class."""
    from dgm_jax.loading import load_memory, load_method
    from dgm_jax.methods.generative import UnmaskedGenerator

    if config.method in FROZEN:
        return load_memory(workdir), None
    method, state = load_method(config, stream, workdir)
    assert isinstance(method, UnmaskedGenerator)
    solver = None if method.conditional else lambda images: state.classifier.logits(images).argmax(axis=1)
    return state.generator, solver


def collect(
    plan: Sequence[TableRun], failed: Mapping[TableRun, str], unmeasured: Mapping[TableRun, str]
) -> list[Result]:
    """Reads all runs, and what was measured of their memories; computes nothing.

    A mistake in one run is written into its result and does not stop the others; `failed` has what went wrong when it
    was trained, `unmeasured` when its memory was measured.
    """
    results = []
    for run in plan:
        result = Result(run.data, run.method, run.seed, " ".join(["python", *run.command]), error=failed.get(run, ""))
        if not result.error:
            try:
                result = replace(result, summary=run.read(), answers=run.read_answers())
            except _MISTAKES as error:
                result = replace(result, error=_message(error))
        if result.summary is not None and result.summary.method in GENERATIVE:
            try:
                result = replace(result, quality=run.read_quality())
            except _MISTAKES as error:
                result = replace(result, not_measured=unmeasured.get(run) or _message(error))
        results.append(result)
    return results


def _message(error: Exception) -> str:
    if isinstance(error, UserError | OSError):
        return str(error)
    return f"a file cannot be read ({type(error).__name__}: {error})"
