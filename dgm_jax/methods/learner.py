"""The loop over tasks for baselines: the same stream, files, measures and resuming as DGM's, a task at a time."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.data.stream import describe
from dgm_jax.errors import ConfigError, NotFinite
from dgm_jax.methods import METHODS, new_method
from dgm_jax.methods.method import Watch
from dgm_jax.reporting import page as report
from dgm_jax.runs.events import Callback, EpochEnd, Progress, RunEnd, RunStart, TaskEnd, TaskStart
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.opening import check_fit
from dgm_jax.runs.record import Record, timed
from dgm_jax.runs.summary import summarise
from dgm_jax.system import checkpoint, files, processes
from dgm_jax.system.compilation import BuildClock
from dgm_jax.training.devices import check_precision, choose_devices

READING = "classifier"  # A baseline has one.


class BaselineLearner:
    """Learns a stream of tasks with one of the baselines; as `dgm_jax.Learner`, of one process."""

    def __init__(
        self,
        config: Config,
        *,
        devices: int | None = None,
        backend: str = "pmap",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Checks the settings; computes nothing.

        Raises:
          ConfigError: if the method is no baseline, or the machine does not fit.
        """
        if config.method not in METHODS:
            raise ConfigError(f"method={config.method!r} is no baseline; choose one of {', '.join(METHODS)}")
        if config.protocol != "strict":
            raise ConfigError(f"protocol={config.protocol!r}: baselines know strict alone")
        if processes.count() > 1:
            raise ConfigError(f"method={config.method!r} runs in one process; leave out --distributed")
        self.config = config
        self.devices = choose_devices(devices, config.batch_size)
        check_precision(config.precision, self.devices[0])
        self.backend, self.callbacks = backend, tuple(callbacks)

    def fit(self, stream: TaskStream, workdir: str | Path, *, resume_anyway: bool = False) -> dict[str, Any]:
        """Learns all tasks, or goes on after the last that was finished; see `Learner.fit`.

        Raises:
          NotFinite: if training breaks down.
          Others: as `Learner.fit`.
        """
        check_fit(self.config, stream)
        folder = Workdir(workdir)
        with files.RunLock(folder.path):
            folder.claim(self.config, describe(stream), stream.class_names, resume_anyway=resume_anyway)
            folder.checkpoints.mkdir(exist_ok=True)
            return _Run(self, stream, folder).finish()






class _Run:
    def __init__(self, learner: BaselineLearner, stream: TaskStream, folder: Workdir) -> None:
        self.learner, self.config, self.stream, self.folder = learner, learner.config, stream, folder
        self.method = new_method(self.config, stream, learner.devices, learner.backend)
        self.record = Record(accuracy={READING: []}, micro={READING: []})
        self.building = BuildClock()
        self.key = jax.random.key(self.config.seed)
        restored = checkpoint.restore(folder.checkpoints, on_damage=lambda text: self.tell("on_note", text))
        if restored is not None:
            self.record = Record(**restored.metadata["record"])
            self.method.restore(restored.tree, self.record.finished_tasks)
        done = self.record.finished_tasks
        files.truncate_jsonl(folder.metrics, lambda line: line["task"] < done)

    def finish(self) -> dict[str, Any]:
        begun = self.record.finished_tasks
        if begun < self.stream.n_tasks:
            self._announce()
            with self.building:
                for task in range(begun, self.stream.n_tasks):
                    self._learn(task)
        summary = self._summary()
        files.write_json(self.folder.summary, summary)
        report.write_at_the_end(self.folder, lambda text: self.tell("on_note", text))
        named = {"summary": self.folder.summary, "accuracy": self.folder.accuracy, "page": self.folder.report}
        self.tell(
            "on_run_end",
            RunEnd(
                summary, self.folder.path, begun == self.stream.n_tasks, {name: str(p) for name, p in named.items()}
            ),
        )
        return summary

    def _learn(self, task: int) -> None:
        stream, begun = self.stream, time.perf_counter()
        self.tell("on_task_start", self._task_start(task))
        stream.begin(task)
        key = jax.random.fold_in(self.key, task + 1)
        with timed("train", self.building, [self.record]):
            watch = _Teller(self, task)
            self.method.learn(task, *stream.train(task), key, watch)
        self._require_finite(task)
        with timed("evaluate", self.building, [self.record]):
            pixels, labels = stream.test(task)
            self.record.evaluate(READING, self.method.logits(task, pixels).argmax(axis=1), labels, stream.n_seen(task))
        self.record.end_task([])
        average = {READING: self.record.average(READING, task)}
        names = [str(label) for label in stream.classes]
        self.folder.write_accuracy({READING: self.record.matrix(READING, stream.n_classes)}, names, "strict")
        self.log({"kind": "task", "task": task, "protocol": "strict", "average": average, **watch.metrics})
        files.write_json(self.folder.summary, self._summary())
        older = checkpoint.steps(self.folder.checkpoints)
        checkpoint.save(
            self.folder.checkpoints, task, self.method.to_tree(), {"record": dataclasses.asdict(self.record)}
        )
        for step in older:
            checkpoint.delete(self.folder.checkpoints, step)
        self.tell("on_task_end", self._task_end(task, average, watch.metrics, time.perf_counter() - begun))

    def _require_finite(self, task: int) -> None:
        for path, leaf in jax.tree.leaves_with_path(self.method.to_tree()):
            if not np.all(np.isfinite(leaf)):
                raise NotFinite(
                    f"{self.config.method}: {jax.tree_util.keystr(path)} is not finite after task {task}, seed "
                    f"{self.config.seed}; the tasks before are saved. Try a smaller step size."
                )

    def _summary(self) -> dict[str, Any]:
        further = {"paper": self.method.paper}
        return summarise(
            self.record, self.stream, self.config, self.learner.devices, self.method.memory_bytes(), further
        )

    def _task_start(self, task: int) -> TaskStart:
        epochs, steps = self.method.plan(task)
        return TaskStart(
            task=task,
            classes=self._names(self.stream.tasks[task]),
            epochs=epochs,
            first_epoch=0,
            steps=steps,
            images_per_step=self.config.batch_size,
            widths=(),
            physical_widths=(),
        )

    def _task_end(self, task: int, average: dict[str, Any], metrics: dict[str, float], seconds: float) -> TaskEnd:
        return TaskEnd(
            task=task,
            seed=self.config.seed,
            accuracy={READING: self.record.accuracy[READING][task]},
            average=average,
            forgetting={READING: self.record.forgetting(READING, self.stream)},
            class_names=self._names(range(self.stream.n_seen(task))),
            capacity=[],
            widths=(),
            seconds=seconds,
            protocol="strict",
            metrics=metrics,
        )

    def _announce(self) -> None:
        stream = self.stream
        done = self.record.position
        self.tell(
            "on_run_start",
            RunStart(
                config=self.config,
                seeds=(self.config.seed,),
                workdir=self.folder.path,
                devices=[str(device) for device in self.learner.devices],
                platform=self.learner.devices[0].platform,
                dataset=stream.name,
                tasks=tuple(self._names(task) for task in stream.tasks),
                train_counts=tuple(sum(stream.train_counts(t)) for t in range(stream.n_tasks)),
                test_count=stream.test_count,
                estimated_seconds=None,
                resumed_from=done if any(done) else None,
            ),
        )

    def _names(self, indices: Sequence[int] | range) -> tuple[str, ...]:
        return tuple(self.stream.class_names[i] for i in indices)

    def log(self, line: dict[str, Any]) -> None:
        files.append_line(self.folder.metrics, json.dumps(line))

    def tell(self, event: str, record: Any) -> None:
        for callback in self.learner.callbacks:
            getattr(callback, event)(record)


class _Teller(Watch):
    """Passes on what a method says of a task, to the callbacks and, at the end of an epoch, to metrics.jsonl."""

    def __init__(self, run: _Run, task: int) -> None:
        self._run, self._task = run, task
        self.metrics: dict[str, float] = {}  # Of the classifier, once it is learnt.

    def moved(
        self,
        phase: str,
        done: float,
        total: float,
        *,
        epoch: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self._run.tell("on_progress", Progress(self._task, phase, done, total, epoch, metrics))

    def epoch_ended(self, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        self._run.log({"kind": "epoch", "task": self._task, "epoch": epoch, "protocol": "strict", **metrics})
        self._run.tell("on_epoch_end", EpochEnd(self._task, epoch, dict(metrics), seconds))

    def consolidated(self, metrics: Mapping[str, float]) -> None:
        self.metrics = dict(metrics)
