"""One seed's run: its state, its record, its log and its checkpoints. The loop over tasks is in `session.py`."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.errors import NotFinite
from dgm_jax.memory.classifier import Classifier
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.methods.method import Learnt, Method, TaskInput, Tree
from dgm_jax.metrics import privacy
from dgm_jax.runs.checkpoints import RunCheckpoints
from dgm_jax.runs.events import TaskEnd
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.record import Record
from dgm_jax.runs.samples import write_real, write_samples
from dgm_jax.runs.summary import Summary, summarise
from dgm_jax.system import files, processes
from dgm_jax.system.lock import WorkdirError
from dgm_jax.system.pinned import new_key

_COMPARED = 200  # Images of a class that are compared with its training images, at most.


class Run:
    """The position in the stream, the method's state, and what was measured."""

    def __init__(
        self,
        config: Config,
        stream: TaskStream,
        folder: Workdir,
        method: Method,
        note: Callable[[str], None],
        *,
        show_real: bool = False,
    ) -> None:
        """Starts where the folder's newest whole checkpoint stands, or at the beginning.

        The settings have this run's seed; the method serves all seeds. `note` is called with what a person should know.
        With `show_real`, a few real images of each class are kept for the page.
        """
        self.config, self.stream, self.folder, self.method, self.note = config, stream, folder, method, note
        self.show_real = show_real
        self.checkpoints = RunCheckpoints(folder.checkpoints, kept=method.checkpoints_kept)
        self.key = new_key(config.seed)
        self.record = Record.new(method.readings)
        self.state: Any = None
        self.in_progress: Tree | None = None  # Of a task that was interrupted, or that waits for another seed.
        self._restore()

    @property
    def is_finished(self) -> bool:
        """Whether all tasks are learnt."""
        return self.record.finished_tasks == self.stream.n_tasks

    def task_input(self, task: int) -> TaskInput:
        """What this seed brings into a task that begins or continues."""
        self.stream.begin(task)
        images, labels = self.stream.train(task)
        validation = self.stream.validation(task) if self.config.protocol == "paper" else None
        given = TaskInput(self.key, self.state, images, labels, validation, self.in_progress)
        self.in_progress = None
        return given

    def end_epoch(self, task: int, epoch: int, means: Mapping[str, float]) -> None:
        """Writes down an epoch; raises NotFinite if training broke down."""
        self._require_finite(means, f"in task {task}, epoch {epoch}")
        self.record.epochs_done = epoch + 1
        self._log({"kind": "epoch", "task": task, "epoch": epoch, "protocol": self.config.protocol, **means})

    def save_in_progress(self, task: int, tree: Tree) -> None:
        """Saves a task in progress."""
        self.checkpoints.save_in_progress(task, self.record.epochs_done, *self._saved(self.state, tree))

    def evaluate(self, task: int, learnt: Learnt) -> None:
        """Measures the classifiers on the test images of all classes seen, if this is due after the task."""
        if (task + 1) % self.config.evaluate_every == 0 or task + 1 == self.stream.n_tasks:
            pixels, labels = self.stream.test(task)
            scores = {reading: learnt.classifiers[reading].logits(pixels) for reading in self.method.readings}
            for reading, own in scores.items():
                classifier = learnt.classifiers[reading]
                temperature = classifier.temperature if isinstance(classifier, Classifier) else None
                self.record.evaluate(reading, own, labels, self.stream.tasks[: task + 1], temperature)
            predictions = {reading: own.argmax(axis=1) for reading, own in scores.items()}
            processes.on_first(self.folder.write_predictions, labels, predictions)
        else:
            self.record.leave_out_evaluation()
        self._compare_with_training_images(task, learnt)

    def _compare_with_training_images(self, task: int, learnt: Learnt) -> None:
        """Measures how near the images of the newest classes come to their training images, while those are here."""
        memory = self.method.memory(learnt.state)
        if memory is None:
            return
        features = learnt.classifiers[self.method.readings[0]].features
        (real, real_labels), (held_out, held_out_labels) = self.stream.train(task), self.stream.test(task)
        for index in self.stream.tasks[task]:
            mode = len(memory.modes_of(index)) - 1  # What this task learnt of the class.
            training = real[real_labels == index]
            n = min(_COMPARED, len(training))
            drawn = memory.images(index, n, derive_key(self.key, Purpose.COMPARE, index), mode=mode)
            measured = privacy.measure(drawn, training, held_out[held_out_labels == index], features)
            if measured is not None:
                self.record.privacy.append({"class": self.stream.class_names[index], "task": task, **measured})

    def end_task(self, task: int, state: Any, learnt: Learnt) -> None:
        """Writes what is known after a task. The checkpoint comes last: a kill before it repeats the task's end."""
        self.state = state
        tree, _ = self.method.to_tree(state)
        self._require_finite(learnt.metrics, f"in task {task}")
        self._require_finite(tree, f"after task {task}")
        self.record.end_task(learnt.capacity)
        for text in learnt.notes:
            self.note(text)
        processes.on_first(self._write_results, task)
        line: dict[str, Any] = {"kind": "task", "task": task, "protocol": self.config.protocol}
        if average := self.record.averages(task):
            line["average"] = average
        self._log({**line, **learnt.metrics})
        self.checkpoints.save_finished(task, *self._saved(state, {}))

    def task_end(self, task: int, learnt: Learnt, seconds: float) -> TaskEnd:
        """The event at the end of a task."""
        average = self.record.averages(task)
        return TaskEnd(
            task=task,
            seed=self.config.seed,
            accuracy={reading: self.record.accuracy[reading][task] for reading in average},
            average=average,
            forgetting={reading: self.record.forgetting(reading, self.stream) for reading in average},
            class_names=self.names(range(self.stream.n_seen(task))),
            capacity=learnt.capacity,
            widths=tuple(self.method.facts(self.state).get("widths", ())),
            seconds=seconds,
            protocol=self.config.protocol,
            metrics=learnt.metrics,
        )

    def summary(self) -> Summary:
        """What summary.json holds."""
        method = self.method
        bytes_kept, facts = method.memory_bytes(self.state), method.facts(self.state)
        return summarise(self.record, self.stream, self.config, method.setting.devices, bytes_kept, facts)

    def names(self, indices: Sequence[int]) -> tuple[str, ...]:
        """The names of classes."""
        return tuple(self.stream.class_names[i] for i in indices)

    def _write_results(self, task: int) -> None:
        write_tables(self.folder, self.record, self.stream, self.config.protocol)
        memory = self.method.memory(self.state)
        if memory is not None:
            write_samples(self.folder, self.stream, task, memory, self.key, self.note)
            if self.show_real:
                write_real(self.folder, self.stream, task)
        self.write_summary()

    def write_summary(self) -> None:
        """Writes summary.json."""
        files.write_json(self.folder.summary, self.summary().to_json())

    def _saved(self, state: Any, in_progress: Tree) -> tuple[Tree, dict[str, Any]]:
        """What a checkpoint holds, arrays and plain values; the metrics that it counts on are on disk by then."""
        tree, plain = self.method.to_tree(state)
        plain = checkpoint_metadata(self.config, self.record, plain)
        processes.on_first(files.sync, self.folder.metrics)  # No checkpoint may outlive lines lost in a power cut.
        return {**jax.device_get(tree), **in_progress}, plain

    def _restore(self) -> None:
        restored = self.checkpoints.restore(self.note)
        if restored is None:
            self.state = self.method.new_state(self.key)
        else:
            self.record = Record.from_json(restored.metadata["record"])
            done = self.record.finished_tasks
            self.state = self.method.from_tree(restored.tree, restored.metadata, done)
            if self.record.epochs_done:
                self.in_progress = restored.tree
            else:
                if 0 < done < self.stream.n_tasks:  # If it was the last task of its stream, it was not expanded yet.
                    self.state = self.method.expand(done - 1, self.key, self.state)
        processes.check_equal("checkpoints", self.record.position)
        processes.on_first(self._truncate_metrics)

    def _truncate_metrics(self) -> None:
        try:
            files.truncate_jsonl(self.folder.metrics, lambda line: _belongs_before(line, self.record.position))
        except (ValueError, KeyError, TypeError) as error:
            raise WorkdirError(f"{error}; correct that line or move the file away, then run again") from error

    def _require_finite(self, values: Tree, when: str) -> None:
        """Refuses metrics or arrays that are not finite any more."""
        for path, leaf in jax.tree.leaves_with_path(values):
            if not np.all(np.isfinite(leaf)):
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                what = "is not finite" if np.ndim(leaf) else f"became {leaf}"
                raise NotFinite(
                    f"{self.config.method}: {name} {what} {when}, seed {self.config.seed}; the last good checkpoint "
                    f"is {self.checkpoints.newest or 'none'}. Try a smaller step size."
                )

    def _log(self, line: dict[str, Any]) -> None:
        processes.on_first(files.append_line, self.folder.metrics, json.dumps(line))


def write_tables(folder: Workdir, record: Record, stream: TaskStream, protocol: str) -> None:
    """Writes the tables of accuracies and capacity."""
    matrices = {reading: record.matrix(reading, stream.n_classes) for reading in record.accuracy}
    folder.write_accuracy(matrices, [str(label) for label in stream.classes], protocol)
    folder.write_capacity(record.capacity, protocol)


def checkpoint_metadata(config: Config, record: Record, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a checkpoint: those of the method, and what was measured."""
    return {"protocol": config.protocol, "record": dataclasses.asdict(record), **plain}


def _belongs_before(line: dict[str, Any], position: tuple[int, int]) -> bool:
    """Whether a line of metrics.jsonl is from before (finished tasks, epochs done of the next)."""
    finished, epochs_done = position
    return line["task"] < finished or (line["task"] == finished and line.get("epoch", math.inf) < epochs_done)
