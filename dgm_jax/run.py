"""One seed's run: its memory, its record and its folder. What runs of several seeds share is the learner's business."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from dgm_jax import consolidation, files, images, metrics, privacy, processes, replay
from dgm_jax.callbacks import TaskEnd
from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.errors import NotFinite
from dgm_jax.memory import Memory, TaskMemory
from dgm_jax.models.discriminator import widened
from dgm_jax.record import READINGS, Record, summarise
from dgm_jax.run_checkpoints import RunCheckpoints
from dgm_jax.training.classifier import ClassifierState, predict_features, predict_logits
from dgm_jax.training.epoch import ReplayedImages, TaskImages, padded
from dgm_jax.training.state import Capacity, TrainState, from_tree, to_tree
from dgm_jax.training.task import Trainer
from dgm_jax.training.warm_start import likest
from dgm_jax.workdir import Workdir

_SAMPLES_SHOWN = 12
_REAL_SHOWN = 3
_COMPARED = 200  # Images of a class that are compared with its training images, at most.
_SHOWN_PIXELS = 48  # Side at which each is shown, at least its own.

# What the seed's key is folded with first, so that no two uses share random numbers.
_INIT, _BEGIN, _TRAIN, _REPLAY, _DRAW, _CONSOLIDATE, _EXPAND, _SHOW, _COMPARE = range(9)


class Run:
    """The position in the stream, the memory, and what was measured; each step of a task as a method."""

    def __init__(
        self,
        config: Config,
        stream: TaskStream,
        folder: Workdir,
        trainer: Trainer,
        note: Callable[[str], None],
        *,
        show_real: bool = False,
    ) -> None:
        """Starts where the folder's newest whole checkpoint stands, or at the beginning.

        Args:
          config: the settings.
          stream: the tasks.
          folder: claimed for these settings.
          trainer: the programs.
          note: is told what a person should know.
          show_real: keep a few real images of each class for the page.
        """
        self.show_real = show_real
        self.config, self.stream, self.folder, self.trainer, self.note = config, stream, folder, trainer, note
        self.checkpoints = RunCheckpoints(folder.checkpoints)
        self.key = jax.random.key(config.seed)
        self.record = Record()
        self.memory = self._new_memory()
        self.classifier: Any = None  # Parameters and statistics of the last task's, as a task begins.
        self.discriminator: Any = None  # Of the last task, where the next goes on with it.
        self.resumed: dict[str, Any] = {}  # The training state of a task in progress.
        self.best: Any = {}  # The best state of that task, in the paper protocol.
        self._restore()

    @property
    def is_finished(self) -> bool:
        """Whether all tasks are learnt."""
        return self.record.finished_tasks == self.stream.n_tasks

    def width_history(self) -> list[tuple[int, ...]]:
        """The generator's widths at each task so far, and at the coming one."""
        return [*(earlier.widths for earlier in self.memory.tasks), self.memory.widths]

    def begin_task(self, task: int, physical: Sequence[int]) -> tuple[TrainState, Capacity, TaskImages]:
        """Begins a task or goes on with it: the training state, what is reserved, and the images, on the host."""
        self.stream.begin(task)
        like = () if self.resumed else self._most_alike(task)
        if not self.resumed:
            before = [*self.record.begun_as, *([[]] * task)][:task]
            self.record.begun_as = [*before, [own.classes[0] for own in like]]
        state, capacity = self.trainer.begin(
            self._key(_BEGIN, task),
            self.memory.kernels,
            self.memory.reserved,
            physical=physical,
            classes=self.stream.tasks[task],
            discriminator=self.discriminator,
            like=like,
        )
        if self.resumed:
            state = from_tree(state, self.resumed["state"])
        self.best, self.resumed = self.resumed.get("best", {}), {}
        if list(physical) not in self.record.programs:
            self.record.programs.append(list(physical))
        return state, capacity, self._task_images(*self.stream.train(task))

    def _most_alike(self, task: int) -> list[TaskMemory]:
        """For each class of a task that begins, the earlier one to begin as, with a warm start."""
        if not self.config.warm_start or task == 0 or self.classifier is None:
            return []
        pixels, labels = self.stream.train(task)
        params, statistics = jax.device_put(self.classifier)
        network = self.config.classifier_network
        logits = predict_logits(params, statistics, pixels, self.seen(task - 1), network=network)
        earlier = [own.classes for own in self.memory.tasks]
        begun_as = likest(logits.argmax(axis=1), labels, self.stream.tasks[task], earlier)
        return [self.memory.class_alone(index) for index in begun_as]

    def train_key(self, task: int) -> jax.Array:
        """The key of a task's training."""
        return self._key(_TRAIN, task)

    def consolidation_key(self, task: int) -> jax.Array:
        """The key of the classifier that is consolidated after a task."""
        return self._key(_CONSOLIDATE, task)

    def replay(self, task: int, epoch: int, moved: Callable[[int], None]) -> ReplayedImages:
        """Draws images of each earlier class; `moved` is told of each (`dgm_jax.replay`)."""
        return replay.draw(self.memory, self.config, self.stream, task, self._key(_REPLAY, task, epoch), moved=moved)

    def keep_best(self, task: int, state: TrainState, means: dict[str, float]) -> None:
        """The paper protocol: keeps the epoch with the best accuracy on REAL held-out images of all classes so far."""
        pixels, labels = self.stream.validation(task)
        logits = predict_logits(
            state.discriminator,
            state.discriminator_statistics,
            pixels,
            self.seen(task),
            network=self.config.network,
        )
        per_class = metrics.per_class_accuracy(logits.argmax(axis=1), labels, self.stream.n_seen(task))
        means["validation_accuracy"] = accuracy = metrics.macro_accuracy(per_class)
        if self.record.best_validation is None or accuracy > self.record.best_validation:
            self.record.best_validation = accuracy
            self.best = to_tree(state)

    def end_epoch(self, task: int, epoch: int, means: dict[str, float]) -> None:
        """Writes down an epoch."""
        self._require_finite(task, epoch, means)
        self.record.epochs_done = epoch + 1
        self._log({"kind": "epoch", "task": task, "epoch": epoch, "protocol": self.config.protocol, **means})

    def pause(self, state: TrainState) -> None:
        """Keeps the state of a task in progress, to go on with it later."""
        self.resumed = self._in_progress(state)

    def save_training(self, task: int, state: TrainState) -> None:
        """Saves a task in progress."""
        tree = self._in_progress(state) | self._kept_discriminator()
        self.checkpoints.save_in_progress(task, self.record.epochs_done, *self._saved(tree))

    def end_training(self, task: int, state: TrainState) -> tuple[TrainState, list[dict[str, Any]]]:
        """Binarises the masks, reserves what they use, and freezes what belongs to the task.

        Returns:
          The state that counts, on the host, and what the task used of each layer.
        """
        state = jax.device_get(state)
        if self.best:
            state = from_tree(state, self.best)
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
        reserving = self.config.masks != "none"
        rows = metrics.capacity(own.masks, self.memory.reserved, *self.trainer.gated(own.kernels))
        for row in rows:
            if row["used"] == 0:
                self.note(
                    f"task {task} closed every gate of layer {row['layer']}: its images carry nothing; "
                    f"try a smaller sparsity_weight than {self.config.sparsity_weight}"
                )
        self.memory = dataclasses.replace(
            self.memory,
            kernels=own.kernels,
            reserved=[before | (mask & reserving) for before, mask in zip(self.memory.reserved, own.masks)],
            tasks=(*self.memory.tasks, finished),
        )
        return state, rows

    def draw(self, task: int) -> TaskImages:
        """Draws the images that the consolidated classifier learns from."""
        return consolidation.draw(
            self.memory,
            self.config,
            self._key(_DRAW, task),
            n_classes=self.stream.n_classes,
            image_shape=self.stream.image_shape,
        )

    def seen(self, task: int) -> np.ndarray:
        """The classes met so far, bool [classes]."""
        return np.arange(self.stream.n_classes) < self.stream.n_seen(task)

    def evaluate(self, task: int, classifier: ClassifierState, state: TrainState) -> None:
        """Measures both classifiers on the test images of the classes seen."""
        pixels, labels = self.stream.test(task)
        for reading, params, statistics, network in (
            ("consolidated", classifier.params, classifier.statistics, self.config.classifier_network),
            ("auxiliary", state.discriminator, state.discriminator_statistics, self.config.network),
        ):
            logits = predict_logits(params, statistics, pixels, self.seen(task), network=network)
            self.record.evaluate(reading, logits.argmax(axis=1), labels, self.stream.n_seen(task))
        self.record.privacy += list(self._nearness(task, classifier))

    def _nearness(self, task: int, classifier: ClassifierState) -> Iterator[dict[str, Any]]:
        """How near the images drawn of the newest classes come to their training images, while those are at hand."""
        network = self.config.classifier_network
        features = partial(predict_features, classifier.params, classifier.statistics, network=network)
        (real, real_labels), (held_out, held_out_labels) = self.stream.train(task), self.stream.test(task)
        for index in self.stream.tasks[task]:
            training = real[real_labels == index]
            drawn = self.memory.images(index, min(_COMPARED, len(training)), self._key(_COMPARE, index))
            measured = privacy.measure(drawn, training, held_out[held_out_labels == index], features)
            if measured is not None:
                yield {"class": self.stream.class_names[index], "task": task, **measured}

    def grow(self, task: int, rows: Sequence[dict[str, Any]]) -> None:
        """Expands the generator, so that as much is free as at first; after the last task nothing is gained by it."""
        if task + 1 == self.stream.n_tasks or not self.config.expansion or self.config.masks == "none":
            return
        kernels, reserved = self.trainer.grow(
            self._key(_EXPAND, task),
            self.memory.kernels,
            self.memory.reserved,
            [row["newly_reserved"] for row in rows],
        )
        self.memory = dataclasses.replace(self.memory, kernels=kernels, reserved=reserved)

    def _grow_late(self) -> None:
        """After the last task nothing is grown; where more tasks follow after all, it is made up for."""
        task = self.record.finished_tasks - 1
        if task >= 0 and not self.resumed and self.memory.widths == self.memory.tasks[-1].widths:
            self.grow(task, [row for row in self.record.capacity if row["task"] == task])

    def end_task(
        self, task: int, rows: list[dict[str, Any]], classifier: ClassifierState, state: TrainState, means: Any
    ) -> None:
        """Writes what is known after a task; `means` are of the classifier's metrics while it was consolidated."""
        self._require_finite(task, self.config.epochs, means)
        self.record.end_task(rows)
        self.classifier = jax.device_get((classifier.params, classifier.statistics))
        kept = None if self.config.reinitialise_discriminator else (state.discriminator, state.discriminator_statistics)
        self.discriminator = jax.device_get(kept)
        processes.on_first(self._write_results, task)
        # The checkpoint comes last: whatever a kill leaves behind before it is written again.
        averages = {reading: self.record.average(reading, task) for reading in READINGS}
        self._log({"kind": "task", "task": task, "protocol": self.config.protocol, "average": averages, **means})
        self._save_finished(task, classifier, state)

    def task_end(self, task: int, rows: list[dict[str, Any]], seconds: float, means: dict[str, float]) -> TaskEnd:
        """What a person is told after a task."""
        return TaskEnd(
            task=task,
            seed=self.config.seed,
            accuracy={reading: self.record.accuracy[reading][task] for reading in READINGS},
            average={reading: self.record.average(reading, task) for reading in READINGS},
            forgetting={reading: self.record.forgetting(reading, self.stream) for reading in READINGS},
            class_names=self.names(range(self.stream.n_seen(task))),
            capacity=rows,
            widths=self.memory.widths,
            seconds=seconds,
            protocol=self.config.protocol,
            metrics=means,
        )

    def summary(self) -> dict[str, Any]:
        """What goes into summary.json."""
        further = {
            "widths": list(self.memory.widths),
            "programs": self.record.programs,  # One compiled training iteration for each of these physical widths.
            "parameters": self.memory.parameters(),
            "capacity": self.record.capacity,
            "begun_as": [[self.stream.classes[i] for i in own] for own in self.record.begun_as],
            "privacy": self.record.privacy,
        }
        devices = self.trainer.devices
        return summarise(self.record, self.stream, self.config, devices, self.memory.bytes(), further)

    def names(self, indices: Sequence[int]) -> tuple[str, ...]:
        """The names of classes."""
        return tuple(self.stream.class_names[i] for i in indices)

    def files(self) -> dict[str, str]:
        """What there is to open: name to path."""
        named = {
            "summary": self.folder.summary,
            "accuracy": self.folder.accuracy,
            "capacity": self.folder.capacity,
            "samples": self.folder.samples,
            "page": self.folder.report,
            "metrics": self.folder.metrics,
            "checkpoints": self.folder.checkpoints,
        }
        return {name: str(path) for name, path in named.items()}

    def _task_images(self, pixels: np.ndarray, labels: np.ndarray) -> TaskImages:
        """A task's images, padded to the largest task's number."""
        capacity = max(sum(self.stream.train_counts(t)) for t in range(self.stream.n_tasks))
        return padded(pixels, labels, capacity)

    def _write_results(self, task: int) -> None:
        names = [str(label) for label in self.stream.classes]
        matrices = {reading: self.record.matrix(reading, self.stream.n_classes) for reading in READINGS}
        self.folder.write_accuracy(matrices, names, self.config.protocol)
        self.folder.write_capacity(self.record.capacity, self.config.protocol)
        self.folder.samples.mkdir(exist_ok=True)
        shown = {
            # The key does not depend on the task: exact retention shows as equal rows in all pictures.
            name: self.memory.draw(index, _SAMPLES_SHOWN, self._key(_SHOW, index))
            for index, name in enumerate(self.names(range(self.stream.n_seen(task))))
        }
        files.write_npz(
            self.folder.samples / f"after_task_{task:02d}.npz",
            labels=np.asarray(self.stream.classes[: len(shown)]),
            images=np.rint((np.stack(list(shown.values())) + 1) * 127.5).astype(np.uint8),
        )
        if self.show_real:
            pixels, indices = self.stream.train(task)
            real = {f"class_{index}": pixels[indices == index][:_REAL_SHOWN] for index in self.stream.tasks[task]}
            files.write_npz(self.folder.samples / f"real_{task:02d}.npz", **real)
        try:
            picture = images.labelled_grid(shown, scale=max(1, _SHOWN_PIXELS // self.config.image_size))
            images.write_png(self.folder.samples / f"after_task_{task:02d}.png", picture)
        except ModuleNotFoundError as error:  # A picture is not worth a run.
            self.note(f"no picture of what the memory draws, for {error.name} is not installed")
        files.write_json(self.folder.summary, self.summary())

    def _saved(self, tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a checkpoint holds, arrays and plain values; the metrics that it counts on are on disk by then."""
        memory_tree, memory_plain = self.memory.to_tree()
        plain = {"protocol": self.config.protocol, "record": dataclasses.asdict(self.record), "memory": memory_plain}
        processes.on_first(files.sync, self.folder.metrics)  # No checkpoint may outlive lines lost in a power cut.
        return {"memory": memory_tree, **tree}, plain

    def _in_progress(self, state: TrainState) -> dict[str, Any]:
        tree: dict[str, Any] = {"state": to_tree(state)}
        return tree | ({"best": self.best} if self.best else {})

    def _save_finished(self, task: int, classifier: ClassifierState, state: TrainState) -> None:
        tree = {
            "classifier": {"params": classifier.params, "statistics": classifier.statistics},
            "auxiliary": {"params": state.discriminator, "statistics": state.discriminator_statistics},
        }
        self.checkpoints.save_finished(task, *self._saved(jax.device_get(tree) | self._kept_discriminator()))

    def _kept_discriminator(self) -> dict[str, Any]:
        if self.discriminator is None:
            return {}
        return {"discriminator": {"params": self.discriminator[0], "statistics": self.discriminator[1]}}

    def _restore(self) -> None:
        restored = self.checkpoints.restore(self.note)
        if restored is not None:
            self.record = Record(**restored.metadata["record"])
            memory = Memory.from_tree(restored.tree["memory"], restored.metadata["memory"])
            # Of a run that goes on with new classes, these are known only now.
            labels, names = tuple(self.stream.classes), tuple(self.stream.class_names)
            self.memory = dataclasses.replace(memory, labels=labels, names=names)
            self.resumed = {name: restored.tree[name] for name in ("state", "best") if name in restored.tree}
            kept = restored.tree.get("classifier")
            if kept is not None:
                self.classifier = (widened(kept["params"], self.stream.n_classes), kept["statistics"])
            if "discriminator" in restored.tree:
                kept = restored.tree["discriminator"]
                self.discriminator = (widened(kept["params"], self.stream.n_classes), kept["statistics"])
            self._grow_late()
            if not self.resumed:  # A kill may have come after the task was saved, and before this.
                self.checkpoints.delete_in_progress_before(restored.step)
        processes.check_equal("checkpoints", self.record.position)
        processes.on_first(self._truncate_metrics)

    def _truncate_metrics(self) -> None:
        try:
            files.truncate_jsonl(self.folder.metrics, lambda line: _belongs_before(line, self.record.position))
        except (ValueError, KeyError, TypeError) as error:
            raise files.WorkdirError(f"{error}; mend that line or move the file away, then run again") from error

    def _new_memory(self) -> Memory:
        widths = self.trainer.first_widths
        return Memory(
            kernels=self.trainer.new_kernels(self._key(_INIT), widths),
            reserved=[np.zeros(shape, bool) for shape in self.trainer.mask_shapes(widths)],
            tasks=(),
            noise_dim=self.config.noise_dim,
            network=self.config.network,
            image_size=self.config.image_size,
            labels=tuple(self.stream.classes),
            names=tuple(self.stream.class_names),
            gate_before_norm=self.config.gate_position == "before_norm",
        )

    def _key(self, purpose: int, *numbers: int) -> jax.Array:
        key = jax.random.fold_in(self.key, purpose)
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return key

    def _require_finite(self, task: int, epoch: int, means: dict[str, float]) -> None:
        for name, value in means.items():
            if not math.isfinite(value):
                raise NotFinite(
                    f"{name} became {value} in task {task}, epoch {epoch}, seed {self.config.seed}; the last good "
                    f"checkpoint is {self.checkpoints.newest()}. Try a smaller step size."
                )

    def _log(self, line: dict[str, Any]) -> None:
        processes.on_first(files.append_line, self.folder.metrics, json.dumps(line))


def _belongs_before(line: dict[str, Any], position: tuple[int, int]) -> bool:
    """Whether a line of metrics.jsonl tells of something before (finished tasks, epochs done of the next)."""
    finished, epochs_done = position
    return line["task"] < finished or (line["task"] == finished and line.get("epoch", math.inf) < epochs_done)
