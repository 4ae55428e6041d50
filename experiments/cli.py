"""The command line that all experiments share: options, settings, data, and then the learner."""

import argparse
import dataclasses
import difflib
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from dgm_jax import data
from dgm_jax.config import NAMED_PRESETS, Config, Method, preset, preset_for
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, user_message
from dgm_jax.reporting.console import ConsoleProgress
from dgm_jax.runs.events import Callback, EpochEnd, Progress, RunStart
from dgm_jax.runs.folder import Workdir
from dgm_jax.system import files
from dgm_jax.system.interruption import CtrlC

_IMAGENET50 = 50  # classes


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is told besides its settings; `settings` come last in the help, being many."""

    preset: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(NAMED_PRESETS)}}}")]
    """Named set of settings; with --variant it decides the defaults listed below. best: what goes beyond the paper and
    measured best, of digits, mnist and cifar10."""
    class_order: str = "natural"
    """Order in which the classes arrive: natural, random:SEED, or all labels, e.g. 3,1,4,0,2."""
    classes_per_task: str = "1"
    """Classes in every task, e.g. 2, or in each, e.g. 5,3,2."""
    workdir: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/EXPERIMENT[-PRESET]-VARIANT-seedSEED)"),
    ] = None
    """Folder of the run; a run that was interrupted goes on there."""
    data_dir: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets)"),
    ] = None
    """Folder that holds the data sets of TensorFlow Datasets; digits and arrays need none."""
    evaluate_on: Literal["test", "training"] = "test"
    """training: a quarter of each class's training images takes the place of the test images, to choose settings by."""
    seeds: Annotated[str | None, tyro.conf.arg(metavar="N,N,...", help_behavior_hint="(default: --seed alone)")] = None
    """Train several seeds at once, side by side in one program, e.g. 0,1,2; each gets a folder in that of the run."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Use only N devices, the first ones; of several processes, equally many of each."""
    backend: Literal["pmap", "shard_map"] = "pmap"
    """What maps training over devices; results do not depend on it."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Be one of several processes of a run (docs/devices.md); Slurm, Kubernetes and TPU pods say which."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="(default: found)")] = None
    """With --distributed: where the first process listens."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: found)")] = None
    """With --distributed: how many processes there are."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="I", help_behavior_hint="(default: found)")] = None
    """With --distributed: the number of this process, from 0."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder (or $JAX_COMPILATION_CACHE_DIR), and use those kept there."""
    show_real: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep three real images of each class in the workdir, to be shown beside generated ones on the page of the run."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the run's numbers and pictures for TensorBoard too, into the workdir's folder tensorboard/."""
    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show where an error comes from."""
    resume_anyway: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on in a workdir although its settings differ from those given now."""
    settings: tyro.conf.OmitArgPrefixes[Config]
    """Settings, with the defaults of this preset and variant."""

    @property
    def where(self) -> Path:
        """What the data are read from."""
        return self.data_dir or data.default_folder()

    def load(self, name: str) -> Dataset:
        """Loads the data set of the experiment `name`; raises UserError if it cannot be used."""
        return data.load(name, self.where)


@dataclass(frozen=True, kw_only=True)
class FileOptions(Options):
    """Options of an experiment on a person's own arrays."""

    npz: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File with the arrays x_train, y_train, x_test, y_test: images uint8 [n, h, w] or [n, h, w, c], of any size."""

    @property
    def where(self) -> Path:
        """The file."""
        return self.npz

    def load(self, name: str) -> Dataset:
        """Loads the arrays; they are called after the file, not `name`."""
        return data.from_npz(self.npz)


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """Options of experiments on files of images."""

    grey: Literal["convert", "refuse"] = "convert"
    """With --data: what becomes of grey images (by their file's mode) among colour ones."""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """With --data: what becomes of files that cannot be read as images."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions(ImageOptions):
    """Options of an experiment on a person's own images, a folder for each class."""

    data: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """Folder of images: PATH/train/<class>/ and PATH/val/<class>/, or PATH/<class>/ (the last fifth are for tests)."""
    classes: Annotated[
        str | None,
        tyro.conf.arg(metavar="A,B,...|first:N|@FILE", help_behavior_hint="(default: all, by name)"),
    ] = None
    """Classes to learn: names, the first N by name, or a file with a name a line; they are numbered in this order."""

    @property
    def where(self) -> Path:
        """The folder of images."""
        return self.data

    def load(self, name: str) -> Dataset:
        """Loads the chosen classes; they are called after the folder, not `name`."""
        there = data.folder_classes(self.data)
        chosen = None if self.classes is None else data.parse_classes(self.classes, there)
        _check_tasks(self, len(chosen or there))
        size = self.settings.image_size
        return data.from_folder(self.data, size=size, classes=chosen, grey=self.grey, unreadable=self.unreadable)


@dataclass(frozen=True, kw_only=True)
class ImageNetOptions(ImageOptions):
    """Options of an experiment on 50 classes of ImageNet, or on any class folders of images."""

    classes_per_task: str = "10"
    """Classes in every task, e.g. 2, or in each, e.g. 5,3,2."""
    data: Annotated[
        Path | None,
        tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: imagenet_resized/32x32 in --data-dir)"),
    ] = None
    """Folder of images: PATH/train/<class>/ and PATH/val/<class>/, or PATH/<class>/ (the last fifth are for tests)."""
    classes: Annotated[
        str | None,
        tyro.conf.arg(metavar="A,B,...|first:N|@FILE", help_behavior_hint="(default: all, which have to be 50)"),
    ] = None
    """Classes to learn: names, the first N by name, or a file with a name a line; they are numbered in this order."""

    @property
    def where(self) -> Path:
        """The folder of images, or that of the data sets of TensorFlow Datasets."""
        return self.data or super().where

    def load(self, name: str) -> Dataset:
        """Loads the chosen classes."""
        if self.data and self.data_dir:
            raise UserError("--data and --data-dir are two places to read from; give one of them")
        if not self.data and (self.grey, self.unreadable) != ("convert", "refuse"):
            raise UserError("--grey and --unreadable are about files of images; they need --data")
        there = data.folder_classes(self.data) if self.data else data.class_names("imagenet32", self.where)
        if self.classes is None and len(there) != _IMAGENET50:
            choice = f"--classes first:{min(len(there), _IMAGENET50)}"
            raise UserError(f"{self.where} has {len(there):,} classes, expected {_IMAGENET50}; choose, e.g. {choice}")
        chosen = None if self.classes is None else data.parse_classes(self.classes, there)
        _check_tasks(self, len(chosen or there))
        if not self.data:
            return data.load("imagenet32", self.where, classes=chosen or there)
        size = self.settings.image_size
        return data.from_folder(self.data, size=size, classes=chosen, grey=self.grey, unreadable=self.unreadable)


@dataclass(frozen=True, kw_only=True)
class JoinedOptions(Options):
    """Options of an experiment on several data sets as one."""

    of: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = "digits,mnist"
    """The data sets to join, in this order, e.g. digits,mnist,svhn,cifar10."""

    def load(self, name: str) -> Dataset:
        """Loads them, at the size that the networks see."""
        names = [part.strip() for part in self.of.split(",")]
        return data.join([data.load(part, self.where) for part in names], self.settings.image_size)


def _check_tasks(options: Options, n_classes: int) -> None:
    """Refuses an order or sizes of tasks that do not fit, before the minutes that reading images takes."""
    data.parse_class_order(options.class_order, range(n_classes))
    data.task_sizes(data.parse_classes_per_task(options.classes_per_task), n_classes)


def run(name: str, description: str | None, *, kind: type[Options] = Options, argv: Sequence[str] | None = None) -> int:
    """Runs an experiment from the command line.

    Args:
      name: names the data set, the preset used by default, and the folder.
      description: what `--help` begins with.
      kind: the options; they decide where the data come from.
      argv: the arguments; those of the process by default.

    Returns:
      The exit status: 0; 2 after an error that the user can mend; 130 after an interrupt.
    """
    progress = ConsoleProgress()
    debug = False
    ctrl_c = CtrlC()
    try:
        options = parse(name, description, kind=kind, argv=argv)
        debug = options.debug
        seeds = parse_seeds(options.seeds, options.settings.seed)
        settings = options.settings
        which = f"seed{seeds[0]}" if options.seeds is None else f"seeds{'-'.join(map(str, seeds))}"
        learnt_by = settings.variant if settings.method == "dgm" else settings.method
        called = name if options.preset == name else f"{name}-{options.preset}"
        workdir = options.workdir or Path("runs") / f"{called}-{learnt_by}-{which}"
        arguments = sys.argv[1:] if argv is None else argv
        command = f"{_program(name)} {shlex.join(arguments)}".strip()
        callbacks: list[Callback] = [progress, _Command(command), _Heeding(ctrl_c)]
        if options.tensorboard:
            from dgm_jax.reporting.tensorboard import TensorBoard

            callbacks.append(TensorBoard())
        from dgm_jax.system import (
            processes,  # It imports JAX, which is slow: not before the command line is found right.
        )

        _join(options)
        streams = processes.call_on_all(lambda: make_streams(name, options, seeds, quiet=not processes.is_first()))

        from dgm_jax.learner import Learner  # Slower still: not before the data are found right.
        from dgm_jax.system.compilation import keep_no_programs, keep_programs

        if options.compilation_cache:
            keep_programs()
        else:
            keep_no_programs()
        learner = processes.call_on_all(
            lambda: Learner(
                settings,
                devices=options.devices,
                backend=options.backend,
                callbacks=callbacks,
                show_real=options.show_real,
            )
        )
        with ctrl_c:
            if options.seeds is None:
                learner.fit(streams[0], workdir, resume_anyway=options.resume_anyway)
            else:
                summary = learner.fit_seeds(seeds, streams, workdir, resume_anyway=options.resume_anyway)
                if processes.is_first():
                    print(*seeds_report(summary, workdir), sep="\n")
    except (UserError, OSError) as error:  # Also a full disk, or a folder that vanished.
        progress.close()
        if debug:
            raise
        print(user_message(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        progress.close()
        print("interrupted; run the same command to resume", file=sys.stderr)
        return 130
    finally:
        progress.close()
    return 0


def parse(
    name: str, description: str | None, *, kind: type[Options] = Options, argv: Sequence[str] | None = None
) -> Options:
    """Reads the command line of an experiment; `--help` and mistakes in it end the process (status 0, 2).

    Args:
      name: as for `run`.
      description: as for `run`.
      kind: as for `run`.
      argv: as for `run`.

    Raises:
      UserError: if the preset, the variant or an option is unknown; names the valid ones.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # First what decides the defaults, then everything with these defaults.
    first = argparse.ArgumentParser(prog=_program(name), add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=name)
    first.add_argument("--variant", default="dgma")
    first.add_argument("--method", default="dgm")
    chosen, _ = first.parse_known_args(arguments)
    settings = preset(preset_for(chosen.preset, name), chosen.variant)
    if chosen.method in get_args(Method):  # What a preset has for DGM alone does not count for another method.
        settings = settings.for_method(chosen.method)
    known: dict[str, Any] = {"preset": chosen.preset, "settings": settings}
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    default = kind(**{field: known.get(field, tyro.MISSING) for field in required})

    options, unknown = tyro.cli(
        kind, prog=_program(name), description=description, args=arguments, default=default, return_unknown_args=True
    )
    if unknown:
        raise UserError(_unknown(unknown[0], kind))
    return options


def parse_seeds(text: str | None, seed: int) -> tuple[int, ...]:
    """Reads `--seeds`, e.g. "0,1,2"; without it, the one seed of the settings.

    Raises:
      UserError: if it is no list of different whole numbers of at least 0.
    """
    if text is None:
        return (seed,)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise UserError(f"--seeds {text!r} is not a list of different whole numbers; e.g. 0,1,2")
    return tuple(map(int, parts))


def seeds_report(summary: dict[str, Any], workdir: Path) -> list[str]:
    """What a person is told of several seeds: the last accuracy, mean and standard deviation."""
    average = summary[f"A_{summary['final']}"]

    def percent(of: dict[str, Any]) -> str:
        return f"{100 * of['mean']:.1f} +- {100 * (of['sd'] or 0):.1f} %"

    seeds = ", ".join(map(str, summary["seeds"]))
    readings = ", ".join(f"{reading} {percent(of['macro'])}" for reading, of in average.items())
    return [
        f"seeds {seeds}: A_{summary['final']}, {summary['protocol']} protocol: {readings}",
        f"summary of all seeds: {workdir / 'summary.json'}",
    ]


class _Command(Callback):
    """Writes the command into the folder of each run that it begins or goes on with."""

    def __init__(self, command: str) -> None:
        self.command = command.replace("\n", " ")

    def on_run_start(self, event: RunStart) -> None:
        several = len(event.seeds) > 1
        for folder in [event.workdir / f"seed{seed}" for seed in event.seeds] if several else [event.workdir]:
            files.append_line(Workdir(folder).commands, self.command)


class _Heeding(Callback):
    """Ends the run where a Ctrl-C that was lost should have."""

    def __init__(self, ctrl_c: CtrlC) -> None:
        self._ctrl_c = ctrl_c

    def on_progress(self, event: Progress) -> None:
        self._ctrl_c.raise_if_heard()

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._ctrl_c.raise_if_heard()


def _join(options: Options) -> None:
    """Makes this process one of several, if it is to be."""
    given = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed:
        from dgm_jax.system import processes

        processes.join(*given)
    elif any(value is not None for value in given):
        raise UserError("--coordinator, --num-processes and --process-id need --distributed")


def make_streams(name: str, options: Options, seeds: Sequence[int], *, quiet: bool = False) -> list[data.TaskStream]:
    """Loads the data, says (unless `quiet`) what they are, and splits them into tasks, for each seed.

    The streams differ in the images that are held out, if any.

    Raises:
      UserError: if the data cannot be used, or the order or the sizes of the tasks do not fit them.
    """
    settings = options.settings
    try:
        sizes = data.parse_classes_per_task(options.classes_per_task)
        if isinstance(options, ImageOptions) and not quiet:
            print(f"reading images from {options.where}, which takes minutes if they are many", flush=True)
        dataset = options.load(name)
        if not quiet:
            print(_found(dataset, options.where), flush=True)
            if dataset.notes:
                print(f"note: {'; '.join(dataset.notes)}", flush=True)
        if options.evaluate_on == "training":
            dataset = dataset.for_choosing()
        order = data.parse_class_order(options.class_order, dataset.labels)
        if settings.train_per_class is not None:
            dataset = dataset.first_per_class(settings.train_per_class)
        resized = dataset.resized(settings.image_size)
        return [
            data.class_incremental(
                resized,
                classes_per_task=sizes,
                class_order=order,
                held_out=settings.held_out,
                protocol=settings.protocol,
                seed=seed,
            )
            for seed in seeds
        ]
    except UserError:
        raise
    except ValueError as error:  # The stream's own words for arguments that do not fit.
        raise UserError(str(error)) from error


def _found(dataset: Dataset, where: Path) -> str:
    size = "x".join(map(str, dataset.x_train.shape[1:]))
    source = "" if dataset.name == "digits" else f", from {where}"
    return (
        f"found {dataset.name}: {len(dataset.x_train):,} training and {len(dataset.x_test):,} test images, {size}, "
        f"{len(dataset.labels)} classes{source}"
    )


def _unknown(argument: str, kind: type[Options]) -> str:
    fields = [*kind.__dataclass_fields__, *Config.__dataclass_fields__]
    names = [f"--{field.replace('_', '-')}" for field in fields if field != "settings"]
    close = difflib.get_close_matches(argument.partition("=")[0].replace("_", "-"), names, n=1)
    if close:
        return f"unknown option {argument}; did you mean {close[0]}? --help explains all options"
    valid = textwrap.fill(
        " ".join(sorted(names)), width=100, break_on_hyphens=False, initial_indent="  ", subsequent_indent="  "
    )
    return f"unknown option {argument}\nThe options, which --help explains, are\n{valid}"


def _program(name: str) -> str:
    return f"python -m experiments.{name}"
