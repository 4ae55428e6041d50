"""The loop over tasks: the same for every method, for one seed or for several side by side."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.data.classes import few
from dgm_jax.errors import Terminated
from dgm_jax.methods import METHODS
from dgm_jax.methods.method import Learnt, Method, Setting, Watch
from dgm_jax.runs.events import Callback, EpochEnd, Progress, RunEnd, RunStart, TaskStart
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.opening import notes_on_sizes
from dgm_jax.runs.run import Run
from dgm_jax.runs.summary import Summary
from dgm_jax.system import processes
from dgm_jax.system.compilation import BuildClock
from dgm_jax.system.worker import Worker


class Session:
    """One call of `Learner.fit`: the runs of all seeds, and the method that serves them."""

    def __init__(
        self,
        configs: Sequence[Config],
        streams: Sequence[TaskStream],
        folders: Sequence[Workdir],
        method: Method,
        *,
        callback: Callback,
        show_real: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Restores each run, or begins it.

        Settings, streams and folders are those of each seed: settings differ in their seeds only, streams in the images
        that are held out and in the order of classes. Folders are claimed for them. The method serves all seeds.
        """
        self.config, self.stream = configs[0], streams[0]  # What is read from them here holds for all seeds.
        self.method, self.callback, self.building = method, callback, BuildClock()
        self.should_stop, self._epochs_done = should_stop, 0
        self._saved = time.perf_counter()  # When the last checkpoint was written, or this session began.
        self.runs = [
            Run(
                config,
                stream,
                folder,
                method.with_classes(stream.classes, stream.class_names, stream.scale),
                callback.on_note,
                show_real=show_real,
            )
            for config, stream, folder in zip(configs, streams, folders, strict=True)
        ]

    def finish(self, on_end: Callable[[Run], None]) -> list[Summary]:
        """Learns what is left to learn; `on_end` is called for each run, once its results are written."""
        already_finished = all(run.is_finished for run in self.runs)
        if not already_finished:
            self._announce()
            with self.building, self.method.setting.worker:
                while not all(run.is_finished for run in self.runs):
                    self._advance()
        summaries = [run.summary() for run in self.runs]
        for run, summary in zip(self.runs, summaries, strict=True):
            processes.on_first(run.write_summary)
            processes.on_first(on_end, run)
            self.callback.on_run_end(RunEnd(summary, run.folder.path, already_finished, run.folder.named_files()))
        return summaries

    def _advance(self) -> None:
        """Moves the runs that are furthest behind to the end of their task, or to where another run stands in it.

        A kill between two saves, or a damaged checkpoint, can leave one seed behind the others.
        """
        behind = min(run.record.position for run in self.runs)
        group = [run for run in self.runs if run.record.position == behind]
        ahead = min((run.record.position for run in self.runs if run.record.position > behind), default=None)
        task = behind[0]
        self._learn(task, group, until=ahead[1] if ahead and ahead[0] == task else None)

    def _learn(self, task: int, runs: Sequence[Run], *, until: int | None) -> None:
        """Learns a task up to an epoch, or to its end."""
        begun, method = time.perf_counter(), self.method
        plan = method.plan(task, [run.state for run in runs])
        first_epoch = runs[0].record.epochs_done
        classes, batch = self._names(self.stream.tasks[task]), self.config.gan.batch_size * len(runs)
        start = TaskStart(task=task, classes=classes, first_epoch=first_epoch, images_per_step=batch, **vars(plan))
        self.callback.on_task_start(start)
        watch = _SessionWatch(self, task, runs)
        training = method.begin(task, [run.task_input(task) for run in runs], watch)
        for run, state in zip(runs, training.states, strict=True):
            run.state = state
        for epoch in range(first_epoch, plan.epochs if until is None else until):
            epoch_begun = time.perf_counter()
            means = method.train_epoch(training, epoch, watch)
            for run, own in zip(runs, means, strict=True):
                run.end_epoch(task, epoch, own)
            seconds = time.perf_counter() - epoch_begun
            self.callback.on_epoch_end(EpochEnd(task, epoch, _mean(means), seconds))
            self._epochs_done += 1
            stops = processes.must_stop(self.should_stop(), self._epochs_done)
            if stops or epoch + 1 < plan.epochs and self._is_save_due():
                with watch.phase("checkpoint"):
                    for run, tree in zip(runs, method.in_progress(training), strict=True):
                        run.save_in_progress(task, tree)
                self._saved = time.perf_counter()
            if stops:
                raise Terminated
        if until is not None and until < plan.epochs:
            for run, tree in zip(runs, method.in_progress(training), strict=True):
                run.in_progress = tree
        else:
            self._end_task(task, runs, method.end(training, watch), watch, begun)

    def _end_task(
        self, task: int, runs: Sequence[Run], learnt: Sequence[Learnt], watch: "_SessionWatch", begun: float
    ) -> None:
        """What happens between two tasks; the stream drops the task's images when the next one begins."""
        for run, own in zip(runs, learnt, strict=True):
            with watch.phase("evaluate", runs=[run]):
                run.evaluate(task, own)
            state = own.state
            if task + 1 < self.stream.n_tasks:
                with watch.phase("expand", runs=[run]):
                    state = self.method.expand(task, run.key, state)
            with watch.phase("save", runs=[run]):
                run.end_task(task, state, own)
            self.callback.on_task_end(run.task_end(task, own, time.perf_counter() - begun))
        self._saved = time.perf_counter()

    def _is_save_due(self) -> bool:
        """Whether the last checkpoint is old enough for another one; the clock of the first process decides for all."""
        age = time.perf_counter() - self._saved
        return bool(processes.value_of_first(age >= self.config.checkpoint_seconds))

    def _announce(self) -> None:
        stream, devices = self.stream, self.method.setting.devices
        if stream.n_past:
            past = stream.n_seen(stream.n_past - 1)
            again = [name for task in range(stream.n_past, stream.n_tasks) for name in stream.repeated(task)]
            begins = f"continues a run (tasks before: {stream.n_past}, new classes: {stream.n_classes - past})"
            self.callback.on_note(
                f"{begins} with more images of {few(again)}; accuracies are of the new test images only, because "
                "earlier ones are not here"
                if again
                else f"{begins}; there are no test images of earlier classes, so accuracies are of the new ones only"
            )
        position = min(run.record.position for run in self.runs)
        behind = [run.state for run in self.runs if run.record.position == position]
        for text in (*notes_on_sizes(self.config, stream), *self.method.advice(behind)):
            self.callback.on_note(text)
        epochs = self.method.plan(position[0], behind).epochs
        one = len(self.runs) == 1
        self.callback.on_run_start(
            RunStart(
                config=self.config,
                epochs=epochs,
                seeds=tuple(run.config.seed for run in self.runs),
                workdir=self.runs[0].folder.path if one else self.runs[0].folder.path.parent,
                devices=[str(device) for device in devices],
                platform=devices[0].platform,
                dataset=stream.part_name,
                tasks=tuple(map(self._names, stream.tasks)),
                train_counts=tuple(sum(stream.train_counts(t)) for t in range(stream.n_past, stream.n_tasks)),
                test_count=stream.test_count,
                estimated_seconds=self._seconds_left(*position, epochs),
                resumed_from=position if any(position) else None,
            )
        )

    def _names(self, indices: Sequence[int]) -> tuple[str, ...]:
        """The names of classes; where seeds have orders of their own, those of all seeds."""
        return tuple("/".join(dict.fromkeys(of_runs)) for of_runs in zip(*(run.names(indices) for run in self.runs)))

    def _seconds_left(self, finished_tasks: int, epochs_done: int, epochs: int) -> float | None:
        """From the time that finished tasks took, if there are any; else the method's guess."""
        if finished_tasks:
            done = finished_tasks + epochs_done / epochs
            spent = max(sum(run.record.seconds.values()) for run in self.runs)
            return spent * (self.stream.n_tasks - done) / done
        guess = self.method.estimated_seconds(epochs_done)
        return None if guess is None else len(self.runs) * guess


class _SessionWatch(Watch):
    """Tells callbacks of a task's progress, and adds the time of each phase to the records of the runs."""

    def __init__(self, session: Session, task: int, runs: Sequence[Run]) -> None:
        self._session, self._task, self._runs = session, task, runs

    @contextmanager
    def phase(
        self, name: str, total: float = 0, *, epoch: int | None = None, runs: Sequence[Run] | None = None
    ) -> Iterator[Callable[[int], None]]:
        """As `Watch.phase`; what goes into building programs counts as "compile", not as the phase."""
        done, building = 0, self._session.building

        def on_units(n: int) -> None:
            nonlocal done
            done += n
            self._session.callback.on_progress(Progress(self._task, name, done, total, epoch))

        begun, built = time.perf_counter(), building.seconds
        yield on_units
        built = building.seconds - built
        for run in self._runs if runs is None else runs:
            run.record.add_seconds(name, time.perf_counter() - begun - built)
            run.record.add_seconds("compile", built)


def new_method(
    config: Config, stream: TaskStream, devices: Sequence[Any], backend: str = "pmap", *, runs_apart: bool = False
) -> Method:
    """The method that the settings name, for a stream."""
    setting = Setting(
        config=config,
        devices=devices,
        backend=backend,
        runs_apart=runs_apart,
        image_shape=stream.image_shape,
        stored_shape=stream.stored_shape,
        tasks=stream.tasks,
        counts=tuple(stream.train_counts(t) for t in range(stream.n_tasks)),
        labels=stream.classes,
        names=stream.class_names,
        scale=stream.scale,
        worker=Worker(devices),
    )
    return METHODS[config.method](setting)


def _mean(means: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: math.fsum(mean[name] for mean in means) / len(means) for name in means[0]}
