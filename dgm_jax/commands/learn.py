"""Learns a stream of tasks, as the command line says: reads the data, splits them into tasks, starts the learner."""

import dataclasses
import functools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgm_jax import data
from dgm_jax.commands.experiments import find
from dgm_jax.commands.options import ImageOptions, Options, check_jobs, parse_seeds
from dgm_jax.commands.parsing import by_images, parse, program_of
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.reporting.output import Output
from dgm_jax.runs.events import Callback, EpochEnd, Progress, RunStart
from dgm_jax.runs.folder import Workdir
from dgm_jax.system import files
from dgm_jax.system.interruption import Signals


def run(name: str, argv: Sequence[str], *, called: str | None = None) -> int:
    """Runs an experiment from the command line.

    Args:
      name: of the experiment; it also names the data set, the preset used by default, and the folder.
      argv: the arguments.
      called: how the program was called; None: as the command `learn`.

    Returns:
      The exit status: 0; 2 after an error that the user can fix; 130 after Ctrl-C, 143 after SIGTERM.
    """
    command = " ".join([called or program_of(name), *map(shlex.quote, argv)])
    return exit_status(
        lambda: _learn(name, parse(find(name), argv, called=called), command),
        resume="run the same command to resume",
        debug="--debug" in argv,
    )


def _learn(name: str, options: Options, command: str) -> None:
    settings = options.settings
    seeds = parse_seeds(options.seeds, settings.seed)
    which = f"seed{seeds[0]}" if options.seeds is None else f"seeds{'-'.join(map(str, seeds))}"
    method = settings.gates.variant if settings.method == "dgm" else settings.method
    called = name if options.preset == name else f"{name}-{options.preset}"
    workdir = options.workdir or Path("runs") / f"{called}-{method}-{which}"
    if (options.from_workdir is None) != (options.after_task is None):
        raise UserError("--from and --after-task go together: the folder of a run, and the task to go on after")
    if options.jobs is not None:
        _learn_apart(name, options, seeds, workdir, command)
        return
    output, signals = options.output, Signals(sigterm=not options.distributed)
    callbacks: list[Callback] = [output, _Command(command), _RaiseLost(signals)]
    if options.tensorboard:
        from dgm_jax.reporting.tensorboard import TensorBoard

        callbacks.append(TensorBoard())
    from dgm_jax.system import processes  # It imports JAX, which is slow: only once the command line is right.

    _join(options)
    processes.require_device()
    streams = processes.call_on_all(
        lambda: make_streams(name, options, seeds, output if processes.is_first() else None)
    )

    from dgm_jax.learner import Learner  # Slower still: only once the data are right.
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
            should_stop=signals.asked_to_stop,
            by_images=by_images(find(name), options),
        )
    )
    how = {"resume_anyway": options.resume_anyway, "more_of_known": options.more_of_known}
    try:
        with signals:
            _go_back(options, seeds, streams, workdir)
            if options.seeds is None:
                learner.fit(streams[0], workdir, **how)
            else:
                summary = learner.fit_seeds(seeds, streams, workdir, **how)
                if processes.is_first():
                    output.on_seeds_end(summary, seeds_report(summary, workdir))
    finally:
        output.close()


def _go_back(options: Options, seeds: Sequence[int], streams: Sequence[data.TaskStream], workdir: Path) -> None:
    """Makes the folder of each run that continues another run after one of its tasks."""
    if options.from_workdir is None or options.after_task is None:
        return
    from dgm_jax.runs import seeds as of_seeds
    from dgm_jax.runs.branching import branch

    sources, folders = [options.from_workdir], [workdir]
    if options.seeds is not None:
        sources, folders = of_seeds.sources(options.from_workdir, seeds), of_seeds.folders(workdir, seeds)
    for source, stream, folder in zip(sources, streams, folders, strict=True):
        branch(source, options.after_task, stream, folder, more_of_known=options.more_of_known)


def _learn_apart(name: str, options: Options, seeds: Sequence[int], workdir: Path, command: str) -> None:
    """Learns each seed in a separate process."""
    check_jobs(options.jobs)
    if options.seeds is None:
        raise UserError("--jobs is how many seeds are trained at once; it needs --seeds")
    if options.distributed:
        raise UserError("--jobs and --distributed do not go together; leave one away")
    from dgm_jax.reporting import page
    from dgm_jax.reporting.jobs import JobsProgress
    from dgm_jax.runs import reading
    from dgm_jax.runs import seeds as of_seeds
    from dgm_jax.system import jobs

    chosen, output = [], options.output
    folders = of_seeds.folders(workdir, seeds)
    sources: Sequence[Path | None] = [None] * len(seeds)
    if options.from_workdir is not None:
        sources = of_seeds.sources(options.from_workdir, seeds)
    for seed, folder, source in zip(seeds, folders, sources, strict=True):
        settings = options.settings.with_changes(seed=seed)
        own = dataclasses.replace(
            options, seeds=None, jobs=None, workdir=folder, from_workdir=source, settings=settings
        )
        chosen.append(
            jobs.Job(folder.name, functools.partial(_run_seed, name, own, command), folder.with_suffix(".log"))
        )
    progress = JobsProgress(len(chosen), lambda job: "finished", say=output.say)
    failed = jobs.run(chosen, jobs.Launcher(at_once=options.jobs), workdir, progress)
    if failed:
        raise UserError("; ".join(f"{job.name}: {failure}" for job, failure in failed.items()))
    summaries = [reading.read_summary(Workdir(workdir / job.name)) for job in chosen]
    summary = of_seeds.finish(workdir, [found for found in summaries if found is not None], apart=True)
    page.write_at_the_end(Workdir(workdir), output.on_note)
    output.on_seeds_end(summary, seeds_report(summary, workdir))


def _run_seed(name: str, options: Options, command: str) -> int:
    """Learns one seed; this is all that its process does."""
    return exit_status(
        lambda: _learn(name, options, command), resume="run the same command to resume", debug=options.debug
    )


def seeds_report(summary: dict[str, Any], workdir: Path) -> list[str]:
    """The report on several seeds: mean, standard deviation and interval of the last accuracy."""
    from dgm_jax.runs import seeds as of_seeds
    from dgm_jax.runs.reading import NoRun

    average, notes = summary[f"A_{summary['final']}"], []
    try:
        intervals = of_seeds.intervals(workdir, summary["seeds"])
    except NoRun as error:
        intervals, notes = {}, [f"note: no interval: {error}"]

    def percent(reading: str, of: dict[str, Any]) -> str:
        found = intervals.get(reading)
        bounds = f" [{100 * max(found.low, 0):.1f}, {100 * found.high:.1f}]" if found else ""
        return f"{reading} {100 * of['mean']:.1f} +- {100 * (of['sd'] or 0):.1f} %{bounds}"

    seeds = ", ".join(map(str, summary["seeds"]))
    report = Workdir(workdir).report
    page = f"; page: {report}" if report.exists() else ""
    readings = ", ".join(percent(reading, of["macro"]) for reading, of in average.items())
    if intervals:
        notes.append("in brackets: 95 % interval of the mean, over seeds and test images (docs/measures.md)")
    return [
        f"seeds {seeds}: A_{summary['final']}, {summary['protocol']} protocol: {readings}",
        *notes,
        f"summary of all seeds: {workdir / 'summary.json'}{page}",
    ]


class _Command(Callback):
    """Writes the command into the folder of each run that it begins or resumes."""

    def __init__(self, command: str) -> None:
        self.command = command.replace("\n", " ")

    def on_run_start(self, event: RunStart) -> None:
        several = len(event.seeds) > 1
        for folder in [event.workdir / f"seed{seed}" for seed in event.seeds] if several else [event.workdir]:
            files.append_line(Workdir(folder).commands, self.command)


class _RaiseLost(Callback):
    """Ends the run if a Ctrl-C was lost, or too long after SIGTERM."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def on_progress(self, event: Progress) -> None:
        self._signals.raise_if_heard()

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._signals.raise_if_heard()


def _join(options: Options) -> None:
    """Makes this process one of several, if it is to be."""
    given = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed:
        from dgm_jax.system import processes

        processes.join(*given)
    elif any(value is not None for value in given):
        raise UserError("--coordinator, --num-processes and --process-id need --distributed")


def make_streams(
    name: str, options: Options, seeds: Sequence[int], output: Output | None = None
) -> list[data.TaskStream]:
    """Loads the data, says on `output` (if it is given) what they are, and splits them into tasks, for each seed.

    The streams differ in the images that are held out, if any, and in their order with `--class-order seed`.

    Raises:
      UserError: if the data cannot be used, or the order or the sizes of the tasks do not fit them.
    """
    settings = options.settings
    try:
        sizes = data.parse_classes_per_task(options.classes_per_task)
        if isinstance(options, ImageOptions) and output:
            output.say(f"reading images from {options.where}, which takes minutes if they are many")
        dataset = options.loaded(name)
        if output:
            output.say(_found(dataset, options.where))
            if dataset.notes:
                output.on_note("; ".join(dataset.notes))
        dataset = options.learnt(name)
        labels, names = dataset.labels, dataset.class_names
        orders = [data.parse_class_order(options.class_order, labels, names, seed=seed) for seed in seeds]
        resized = dataset.resized(settings.data.image_size)
        return [
            data.class_incremental(
                resized,
                classes_per_task=sizes,
                class_order=order,
                held_out=settings.data.held_out,
                protocol=settings.protocol,
                seed=seed,
            )
            for seed, order in zip(seeds, orders, strict=True)
        ]
    except UserError:
        raise
    except ValueError as error:  # The stream's own words for arguments that do not fit.
        raise UserError(str(error)) from error


def _found(dataset: Dataset, where: Path | None) -> str:
    what, size = "images", "x".join(map(str, dataset.x_train.shape[1:]))
    if dataset.are_vectors:
        what, size = "vectors", f"vectors of {dataset.x_train.shape[3]} numbers"
    source = "" if where is None else f", from {where}"
    return (
        f"found {dataset.name}: {len(dataset.x_train):,} training and {len(dataset.x_test):,} test {what}, {size}, "
        f"{len(dataset.labels)} classes{source}"
    )
