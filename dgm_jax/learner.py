"""The loop over tasks: replay, train, consolidate, evaluate, expand, save. Holds no mathematics."""

import dataclasses
import json
import math
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from dgm_jax import checkpoint, consolidation, files, images, metrics
from dgm_jax.callbacks import Callback, EpochEnd, Progress, RunEnd, RunStart, TaskEnd, TaskStart
from dgm_jax.compilation import BuildClock
from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.errors import ConfigError, NotFinite
from dgm_jax.memory import Memory, TaskMemory
from dgm_jax.training.classifier import predict_logits
from dgm_jax.training.devices import choose_devices
from dgm_jax.training.epoch import ReplayedImages, TaskImages
from dgm_jax.training.estimate import estimated_seconds
from dgm_jax.training.shapes import physical_widths
from dgm_jax.training.state import TrainState
from dgm_jax.training.task import Trainer
from dgm_jax.workdir import Workdir

READINGS = ("consolidated", "auxiliary")  # Two classifiers, both reported; the first is the default reading of A_t.

_STEPS_PER_TASK = 1_000_000  # Checkpoint numbers: task * this + epochs done; a finished task ends in 999999.
_SAMPLES_SHOWN = 12
_SHOWN_PIXELS = 48  # Side at which each is shown, at least its own.

# What the seed's key is folded with first, so that no two uses share random numbers.
_INIT, _BEGIN, _TRAIN, _REPLAY, _DRAW, _CONSOLIDATE, _EXPAND, _SHOW = range(8)


@dataclass
class Record:
    """What has been measured so far; goes into every checkpoint."""

    finished_tasks: int = 0
    epochs_done: int = 0  # Of the task after those.
    accuracy: dict[str, list[list[float]]] = field(default_factory=lambda: {r: [] for r in READINGS})  # [task][class]
    micro: dict[str, list[float]] = field(default_factory=lambda: {r: [] for r in READINGS})
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    capacity: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # By phase.
    programs: list[list[int]] = field(default_factory=list)  # The physical widths that were trained at, each once.
    best_validation: float | None = None  # Of the task in progress, in the paper protocol.

    def matrix(self, reading: str, n_classes: int) -> np.ndarray:
        """Accuracy after each task (rows) on each class (columns), NaN where not seen."""
        rows = self.accuracy[reading]
        matrix = np.full((len(rows), n_classes), np.nan)
        for t, row in enumerate(rows):
            matrix[t, : len(row)] = row
        return matrix


class Learner:
    """Learns a stream of tasks with a generative memory."""

    def __init__(self, config: Config, *, devices: int | None = None, callbacks: Sequence[Callback] = ()) -> None:
        """Checks that the settings fit the machine; computes nothing.

        Args:
          config: the settings.
          devices: how many devices to train on; None: all of this process.
          callbacks: who is told what happens.

        Raises:
          ConfigError: if there are fewer devices, or the batch does not split over them.
        """
        self.config = config
        self.devices = choose_devices(devices, config.batch_size)
        self.callbacks = tuple(callbacks)

    def fit(self, stream: TaskStream, workdir: str | Path, *, resume_anyway: bool = False) -> dict[str, Any]:
        """Learns all tasks of the stream, or goes on where an interrupted run of the same settings stopped.

        Args:
          stream: the tasks.
          workdir: the folder to leave results in; made if missing.
          resume_anyway: go on in a folder whose run had other settings.

        Returns:
          The summary, as in summary.json.

        Raises:
          ConfigError: if settings and stream do not fit each other.
          OtherConfiguration, WorkdirInUse, WorkdirError, DamagedCheckpoint, NewerFormat: about the folder.
          NotFinite: if training breaks down.
        """
        _check_fit(self.config, stream)
        folder = Workdir(workdir)
        with files.RunLock(folder.path):
            folder.claim(self.config, _describe(stream), resume_anyway=resume_anyway)
            return _Run(self, stream, folder).finish()


def _check_fit(config: Config, stream: TaskStream) -> None:
    if stream.protocol != config.protocol:
        raise ConfigError(f"protocol={config.protocol!r}, but the stream was made for {stream.protocol!r}")
    if stream.image_shape[:2] != (config.image_size, config.image_size):
        raise ConfigError(
            f"image_size={config.image_size}, but the images are {stream.image_shape[0]}x{stream.image_shape[1]}; "
            f"resize the data set: dataset.resized({config.image_size})"
        )
    if stream.n_classes >= config.noise_dim:
        raise ConfigError(
            f"noise_dim={config.noise_dim} has no room for the one-hot of {stream.n_classes} classes; make it larger"
        )
    smallest = min(range(stream.n_tasks), key=lambda t: sum(stream.train_counts(t)))
    count = sum(stream.train_counts(smallest))
    if config.batch_size > count:
        raise ConfigError(
            f"batch_size={config.batch_size}, but task {smallest} has only {count} training images; use at most {count}"
        )


def _describe(stream: TaskStream) -> dict[str, Any]:
    return {
        "dataset": stream.name,
        "fingerprint": stream.fingerprint,
        "tasks": [[stream.classes[c] for c in task] for task in stream.tasks],
        "image_shape": list(stream.image_shape),
        "train_counts": [list(stream.train_counts(t)) for t in range(stream.n_tasks)],
    }


class _Run:
    """One call of `fit`: the position in the stream, the memory, and what was measured."""

    def __init__(self, learner: Learner, stream: TaskStream, folder: Workdir) -> None:
        self.config = learner.config
        self.callbacks = learner.callbacks
        self.stream = stream
        self.folder = folder
        self.trainer = Trainer(
            learner.config,
            learner.devices,
            channels=stream.image_shape[2],
            n_classes=stream.n_classes,
            max_heads=max(map(len, stream.tasks)),
        )
        self.building = BuildClock()
        self.key = jax.random.key(learner.config.seed)
        self.record = Record()
        self.memory = self._new_memory()
        self.discriminator: Any = None  # Of the last task, where the next goes on with it.
        self.resumed: dict[str, Any] = {}  # The training state of a task in progress.

    def finish(self) -> dict[str, Any]:
        self._restore()
        already_finished = self.record.finished_tasks == self.stream.n_tasks
        if not already_finished:
            self._announce()
            with self.building:
                for task in range(self.record.finished_tasks, self.stream.n_tasks):
                    self._learn(task)
        summary = self._summarise()
        files.write_json(self.folder.summary, summary)
        self._tell("on_run_end", RunEnd(summary, self.folder.path, already_finished, self._files()))
        return summary

    def _learn(self, task: int) -> None:
        begun = time.perf_counter()
        stream, config = self.stream, self.config
        classes = stream.tasks[task]
        stream.begin(task)
        pixels, labels = stream.train(task)
        steps = len(pixels) // config.batch_size
        physical = physical_widths(
            [*(earlier.widths for earlier in self.memory.tasks), self.memory.widths],
            headroom=config.headroom,
            n_tasks=stream.n_tasks,
        )
        data = self._task_images(pixels, labels)
        with self._timed("begin"):
            state, capacity = self.trainer.begin(
                self._key(_BEGIN, task),
                self.memory.kernels,
                self.memory.reserved,
                physical=physical,
                classes=classes,
                discriminator=self.discriminator,
            )
        best = self.resumed.get("best", {})
        if self.resumed:
            state = self.trainer.place(serialization.from_state_dict(state, self.resumed["state"]))
            self.resumed = {}
        if list(physical) not in self.record.programs:
            self.record.programs.append(list(physical))
        first_epoch = self.record.epochs_done
        self._tell(
            "on_task_start",
            TaskStart(
                task=task,
                classes=self._names(classes),
                epochs=config.epochs,
                first_epoch=first_epoch,
                steps=steps,
                images_per_step=config.batch_size,
                widths=self.memory.widths,
                physical_widths=physical,
                compiles=self.trainer.is_new_shape(physical),
            ),
        )
        replayed = self._replay(task, first_epoch if config.replay == "fresh" else 0)
        for epoch in range(first_epoch, config.epochs):
            if config.replay == "fresh" and epoch > first_epoch:
                replayed = self._replay(task, epoch)
            epoch_begun = time.perf_counter()
            with self._timed("train"):
                state, means = self.trainer.run_epoch(
                    state,
                    data,
                    replayed,
                    capacity,
                    self._key(_TRAIN, task),
                    epoch=epoch,
                    steps=steps,
                    on_steps=self._progress(task, "train", steps, epoch),
                )
            self._require_finite(task, epoch, means)
            if config.protocol == "paper":
                best = self._keep_best(task, state, best, means)
            self.record.epochs_done = epoch + 1
            self._log({"kind": "epoch", "task": task, "epoch": epoch, "protocol": config.protocol, **means})
            self._tell("on_epoch_end", EpochEnd(task, epoch, means, time.perf_counter() - epoch_begun))
            if (epoch + 1) % config.checkpoint_epochs == 0 and epoch + 1 < config.epochs:
                self._save_training(task, state, best)
        if best:
            state = self.trainer.place(serialization.from_state_dict(state, best))
        self._end_task(task, state, pixels, labels, begun)

    def _end_task(self, task: int, state: TrainState, pixels: np.ndarray, labels: np.ndarray, begun: float) -> None:
        rows = self._consolidate_memory(task, state)
        for row in rows:
            if row["used"] == 0:
                self._tell(
                    "on_note",
                    f"task {task} closed every gate of layer {row['layer']}: its images carry nothing; "
                    f"try a smaller sparsity_weight than {self.config.sparsity_weight}",
                )
        with self._timed("consolidate"):
            classifier, means = self.trainer.consolidate(
                self._key(_CONSOLIDATE, task),
                consolidation.draw(
                    self.memory,
                    self.config,
                    self._key(_DRAW, task),
                    n_classes=self.stream.n_classes,
                    real=(pixels, labels),
                    newest=self.stream.tasks[task],
                ),
                self._seen(task),
                on_steps=self._progress(task, "consolidate", self.config.consolidation_steps),
            )
        self._require_finite(task, self.config.epochs, means)
        with self._timed("evaluate"):
            self._evaluate(task, "consolidated", classifier.params, classifier.statistics)
            self._evaluate(task, "auxiliary", state.discriminator, state.discriminator_statistics)
        self.record.capacity += [{"task": task, **row} for row in rows]
        self._grow(task, rows)
        self.record.finished_tasks, self.record.epochs_done, self.record.best_validation = task + 1, 0, None
        kept = None if self.config.reinitialise_discriminator else (state.discriminator, state.discriminator_statistics)
        self.discriminator = jax.device_get(kept)
        averages = {reading: self._average(reading, task) for reading in READINGS}
        with self._timed("report"):
            self._write_results(task)
            files.write_json(self.folder.summary, self._summarise())
        # The checkpoint comes last: whatever a kill leaves behind before it is written again.
        self._log({"kind": "task", "task": task, "protocol": self.config.protocol, "average": averages, **means})
        self._save_finished(task, classifier, state)
        self._tell(
            "on_task_end",
            TaskEnd(
                task=task,
                accuracy={reading: self.record.accuracy[reading][task] for reading in READINGS},
                average=averages,
                forgetting={reading: self._forgetting(reading) for reading in READINGS},
                class_names=self._names(range(self._n_seen(task))),
                capacity=rows,
                widths=self.memory.widths,
                seconds=time.perf_counter() - begun,
                protocol=self.config.protocol,
            ),
        )

    def _consolidate_memory(self, task: int, state: TrainState) -> list[dict[str, Any]]:
        """Binarises the masks, reserves what they use, and freezes what belongs to the task."""
        own = self.trainer.freeze(state, self.memory.widths, n_heads=len(self.stream.tasks[task]))
        finished = TaskMemory(
            classes=self.stream.tasks[task],
            widths=self.memory.widths,
            masks=own.masks,
            norms=own.norms,
            statistics=own.statistics,
            heads=own.heads,
            n_conditioned=self.stream.n_classes,
        )
        rows = metrics.capacity(own.masks, self.memory.reserved, own.kernels)
        self.memory = dataclasses.replace(
            self.memory,
            kernels=own.kernels,
            reserved=[before | mask for before, mask in zip(self.memory.reserved, own.masks)],
            tasks=(*self.memory.tasks, finished),
        )
        return rows

    def _grow(self, task: int, rows: Sequence[dict[str, Any]]) -> None:
        """Expands the generator, so that as much is free as at first; after the last task nothing is gained by it."""
        if task + 1 == self.stream.n_tasks:
            return
        with self._timed("expand"):
            kernels, reserved = self.trainer.grow(
                self._key(_EXPAND, task),
                self.memory.kernels,
                self.memory.reserved,
                [row["newly_reserved"] for row in rows],
            )
        self.memory = dataclasses.replace(self.memory, kernels=kernels, reserved=reserved)

    def _task_images(self, pixels: np.ndarray, labels: np.ndarray) -> TaskImages:
        """Puts a task's images on the devices, padded to the largest task's number."""
        capacity = max(sum(self.stream.train_counts(t)) for t in range(self.stream.n_tasks))
        padded = np.zeros((capacity, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        indices = np.zeros(capacity, np.int32)
        indices[: len(labels)] = labels
        return self.trainer.place(TaskImages(padded, indices, np.int32(len(pixels))))

    def _replay(self, task: int, epoch: int) -> ReplayedImages:
        """Draws, for each earlier class, as many images as the current task has per class (section 6)."""
        stream = self.stream
        per_class = [round(sum(stream.train_counts(t)) / len(stream.tasks[t])) for t in range(stream.n_tasks)]
        capacity = max(per_class) * max(map(len, stream.tasks))
        rows = max(stream.n_tasks - 1, 1)
        pixels = np.zeros((rows, capacity, *stream.image_shape), np.uint8)
        labels = np.zeros((rows, capacity), np.int32)
        counts = np.zeros(rows, np.int32)
        progress = self._progress(task, "replay", self._n_seen(task - 1) if task else 0)
        with self._timed("replay"):
            for u in range(task):
                for index in stream.tasks[u]:
                    place = slice(counts[u], counts[u] + per_class[task])
                    pixels[u, place] = self.memory.images(
                        index, per_class[task], self._key(_REPLAY, task, epoch, index)
                    )
                    labels[u, place] = index
                    counts[u] += per_class[task]
                    progress(1)
            return self.trainer.place(ReplayedImages(pixels, labels, counts, np.int32(task)))

    def _evaluate(self, task: int, reading: str, params: Any, statistics: Any) -> None:
        pixels, labels = self.stream.test(task)
        predictions = predict_logits(params, statistics, pixels, self._seen(task)).argmax(axis=1)
        n_seen = self._n_seen(task)
        accuracy = metrics.per_class_accuracy(predictions, labels, n_seen)
        self.record.accuracy[reading].append([float(a) for a in accuracy])
        self.record.micro[reading].append(metrics.micro_accuracy(predictions, labels))
        self.record.confusion[reading] = metrics.confusion_matrix(predictions, labels, n_seen).tolist()

    def _keep_best(self, task: int, state: TrainState, best: Any, means: dict[str, float]) -> Any:
        """The paper protocol: keeps the epoch with the best accuracy on REAL held-out images of all classes so far."""
        pixels, labels = self.stream.validation(task)
        logits = predict_logits(state.discriminator, state.discriminator_statistics, pixels, self._seen(task))
        accuracy = metrics.macro_accuracy(metrics.per_class_accuracy(logits.argmax(axis=1), labels, self._n_seen(task)))
        means["validation_accuracy"] = accuracy
        if self.record.best_validation is None or accuracy > self.record.best_validation:
            self.record.best_validation = accuracy
            return serialization.to_state_dict(jax.device_get(state))
        return best

    def _average(self, reading: str, task: int) -> dict[str, float]:
        return {
            "macro": metrics.macro_accuracy(np.asarray(self.record.accuracy[reading][task])),
            "micro": self.record.micro[reading][task],
        }

    def _forgetting(self, reading: str) -> float:
        return metrics.forgetting(self.record.matrix(reading, self.stream.n_classes), self.stream.tasks)

    def _summarise(self) -> dict[str, Any]:
        stream, config, record = self.stream, self.config, self.record
        met = sum(sum(stream.train_counts(t)) for t in range(record.finished_tasks))
        replaced = met * math.prod(stream.stored_shape)
        averages = {
            f"A_{self._n_seen(t)}": {reading: self._average(reading, t) for reading in READINGS}
            for t in range(record.finished_tasks)
        }
        return {
            "dataset": stream.name,
            "finished": record.finished_tasks == stream.n_tasks,
            "finished_tasks": record.finished_tasks,
            "protocol": config.protocol,
            "variant": config.variant,
            "seed": config.seed,
            **averages,
            "final": self._n_seen(record.finished_tasks - 1),  # The last of these: A_final.
            "forgetting": {reading: self._forgetting(reading) for reading in READINGS},
            "confusion": record.confusion,  # Rows: true classes; columns: predicted ones.
            "widths": list(self.memory.widths),
            "programs": record.programs,  # One compiled training iteration for each of these physical widths.
            "parameters": self.memory.parameters(),
            "bytes": {"memory": self.memory.bytes(), "images_replaced": replaced},
            "seconds": {name: round(value, 3) for name, value in record.seconds.items()},
            "tasks": [[stream.classes[c] for c in task] for task in stream.tasks],
            "class_names": list(stream.class_names),
            "versions": _versions(),
            "device": f"{len(self.trainer.devices)} x {self.trainer.devices[0].device_kind}",
            "config": dataclasses.asdict(config),
        }

    def _write_results(self, task: int) -> None:
        names = [str(label) for label in self.stream.classes]
        matrices = {reading: self.record.matrix(reading, self.stream.n_classes) for reading in READINGS}
        self.folder.write_accuracy(matrices, names, self.config.protocol)
        self.folder.write_capacity(self.record.capacity, self.config.protocol)
        self.folder.samples.mkdir(exist_ok=True)
        shown = {
            # The key does not depend on the task: exact retention shows as equal rows in all pictures.
            name: self.memory.draw(index, _SAMPLES_SHOWN, self._key(_SHOW, index))
            for index, name in enumerate(self._names(range(self._n_seen(task))))
        }
        try:
            picture = images.labelled_grid(shown, scale=max(1, _SHOWN_PIXELS // self.config.image_size))
            images.write_png(self.folder.samples / f"after_task_{task:02d}.png", picture)
        except ModuleNotFoundError as error:  # A picture is not worth a run.
            self._tell("on_note", f"no picture of what the memory draws, for {error.name} is not installed")

    def _files(self) -> dict[str, str]:
        named = {
            "summary": self.folder.summary,
            "accuracy": self.folder.accuracy,
            "capacity": self.folder.capacity,
            "samples": self.folder.samples,
            "metrics": self.folder.metrics,
            "checkpoints": self.folder.checkpoints,
        }
        return {name: str(path) for name, path in named.items()}

    def _save(self, step: int, tree: dict[str, Any]) -> None:
        memory_tree, memory_plain = self.memory.to_tree()
        plain = {"protocol": self.config.protocol, "record": dataclasses.asdict(self.record), "memory": memory_plain}
        if self.folder.metrics.exists():
            files.sync(self.folder.metrics)  # No checkpoint may outlive a power cut that its lines did not.
        with self._timed("checkpoint"):
            checkpoint.save(self.folder.checkpoints, step, {"memory": memory_tree, **tree}, plain)

    def _save_training(self, task: int, state: TrainState, best: Any) -> None:
        """Saves a task in progress. Of the checkpoints of its earlier epochs the newest stays, should this one fail."""
        tree: dict[str, Any] = {"state": serialization.to_state_dict(jax.device_get(state))}
        if best:
            tree["best"] = best
        step = task * _STEPS_PER_TASK + self.record.epochs_done
        older = [s for s in checkpoint.steps(self.folder.checkpoints) if task * _STEPS_PER_TASK < s < step]
        self._save(step, tree | self._kept_discriminator())
        for old in older[:-1]:
            checkpoint.delete(self.folder.checkpoints, old)

    def _save_finished(self, task: int, classifier: Any, state: TrainState) -> None:
        tree = {
            "classifier": {"params": classifier.params, "statistics": classifier.statistics},
            "auxiliary": {"params": state.discriminator, "statistics": state.discriminator_statistics},
        }
        step = (task + 1) * _STEPS_PER_TASK - 1
        older = [s for s in checkpoint.steps(self.folder.checkpoints) if s > task * _STEPS_PER_TASK - 1]
        self._save(step, jax.device_get(tree) | self._kept_discriminator())
        for old in older:
            if old < step:
                checkpoint.delete(self.folder.checkpoints, old)

    def _kept_discriminator(self) -> dict[str, Any]:
        if self.discriminator is None:
            return {}
        return {"discriminator": {"params": self.discriminator[0], "statistics": self.discriminator[1]}}

    def _restore(self) -> None:
        self.folder.checkpoints.mkdir(exist_ok=True)
        restored = checkpoint.restore(self.folder.checkpoints, on_damage=lambda text: self._tell("on_note", text))
        if restored is not None:
            self.record = Record(**restored.metadata["record"])
            self.memory = Memory.from_tree(restored.tree["memory"], restored.metadata["memory"])
            self.resumed = {name: restored.tree[name] for name in ("state", "best") if name in restored.tree}
            if "discriminator" in restored.tree:
                kept = restored.tree["discriminator"]
                self.discriminator = (kept["params"], kept["statistics"])
        position = (self.record.finished_tasks, self.record.epochs_done)
        try:
            files.truncate_jsonl(self.folder.metrics, lambda line: _belongs_before(line, position))
        except (ValueError, KeyError, TypeError) as error:
            raise files.WorkdirError(f"{error}; mend that line or move the file away, then run again") from error

    def _new_memory(self) -> Memory:
        widths = self.trainer.first_widths
        return Memory(
            kernels=self.trainer.new_kernels(self._key(_INIT), widths),
            reserved=[np.zeros(shape, bool) for shape in self.trainer.mask_shapes(widths)],
            tasks=(),
            noise_dim=self.config.noise_dim,
            labels=tuple(self.stream.classes),
            names=tuple(self.stream.class_names),
            gate_before_norm=self.config.gate_position == "before_norm",
        )

    def _key(self, purpose: int, *numbers: int) -> jax.Array:
        key = jax.random.fold_in(self.key, purpose)
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return key

    def _n_seen(self, task: int) -> int:
        return sum(len(t) for t in self.stream.tasks[: task + 1])

    def _seen(self, task: int) -> np.ndarray:
        return np.arange(self.stream.n_classes) < self._n_seen(task)

    def _names(self, indices: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.stream.class_names[i] for i in indices)

    def _require_finite(self, task: int, epoch: int, means: dict[str, float]) -> None:
        for name, value in means.items():
            if not math.isfinite(value):
                kept = checkpoint.steps(self.folder.checkpoints)
                raise NotFinite(
                    f"{name} became {value} in task {task}, epoch {epoch}; the last good checkpoint is "
                    f"{self.folder.checkpoints / f'{kept[-1]:010d}' if kept else 'none'}. Try a smaller step size."
                )

    def _log(self, line: dict[str, Any]) -> None:
        files.append_line(self.folder.metrics, json.dumps(line))

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Adds the time to a phase; what of it went into building programs counts as "compile"."""
        begun, built = time.perf_counter(), self.building.seconds
        yield
        built = self.building.seconds - built
        for name, spent in ((phase, time.perf_counter() - begun - built), ("compile", built)):
            self.record.seconds[name] = self.record.seconds.get(name, 0.0) + spent

    def _progress(self, task: int, phase: str, total: float, epoch: int | None = None) -> Any:
        done = 0

        def moved(n: int) -> None:
            nonlocal done
            done += n
            self._tell("on_progress", Progress(task, phase, done, total, epoch))

        return moved

    def _announce(self) -> None:
        stream = self.stream
        begun = self.record.finished_tasks or self.record.epochs_done
        self._tell(
            "on_run_start",
            RunStart(
                config=self.config,
                workdir=self.folder.path,
                devices=[str(device) for device in self.trainer.devices],
                platform=self.trainer.devices[0].platform,
                dataset=stream.name,
                tasks=tuple(self._names(task) for task in stream.tasks),
                train_counts=tuple(sum(stream.train_counts(t)) for t in range(stream.n_tasks)),
                test_count=stream.test_count,
                estimated_seconds=self._seconds_left(),
                resumed_from=(self.record.finished_tasks, self.record.epochs_done) if begun else None,
            ),
        )

    def _seconds_left(self) -> float:
        """From the tasks that are over, if any; else from the arithmetic to be done."""
        stream, record = self.stream, self.record
        if record.finished_tasks:
            done = record.finished_tasks + record.epochs_done / self.config.epochs
            return sum(record.seconds.values()) * (stream.n_tasks - done) / done
        return estimated_seconds(
            self.config,
            self.trainer.devices,
            train_counts=[sum(stream.train_counts(t)) for t in range(stream.n_tasks)],
            channels=stream.image_shape[2],
            epochs_done=record.epochs_done,
        )

    def _tell(self, event: str, record: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(record)


def _belongs_before(line: dict[str, Any], position: tuple[int, int]) -> bool:
    """Whether a line of metrics.jsonl tells of something before (finished tasks, epochs done of the next)."""
    finished, epochs_done = position
    return line["task"] < finished or (line["task"] == finished and line.get("epoch", math.inf) < epochs_done)


def _versions() -> dict[str, str]:
    packages = ("dgm-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
