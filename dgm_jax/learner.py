"""The loop over tasks: replay, train, consolidate, evaluate, expand, save; of one seed, or several side by side."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dgm_jax.config import Config
from dgm_jax.data import TaskStream
from dgm_jax.data.stream import describe
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.reporting import page as report
from dgm_jax.runs.continuation import Placed, met_before, place
from dgm_jax.runs.events import Callback, EpochEnd, Progress, RunEnd, RunStart, TaskStart
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.opening import check_fit
from dgm_jax.runs.record import timed
from dgm_jax.runs.run import Run
from dgm_jax.runs.summary import summarise_seeds
from dgm_jax.system import checkpoint, files, processes
from dgm_jax.system.compilation import BuildClock
from dgm_jax.training.devices import check_precision, choose_devices
from dgm_jax.training.estimate import estimated_seconds
from dgm_jax.training.shapes import physical_widths
from dgm_jax.training.trainer import TaskTraining, Trainer

_ALIKE = ("dataset", "tasks", "image_shape", "train_counts")  # What the streams of several seeds share.


class Learner:
    """Learns a stream of tasks with a generative memory."""

    def __init__(
        self,
        config: Config,
        *,
        devices: int | None = None,
        backend: str = "pmap",
        callbacks: Sequence[Callback] = (),
        show_real: bool = False,
    ) -> None:
        """Checks that the settings fit the machine; computes nothing.

        Args:
          config: the settings.
          devices: how many devices to train on, of all processes together; None: all there are.
          backend: what maps over devices, "pmap" or "shard_map"; results do not depend on it.
          callbacks: who is told what happens; of several processes, the first one's are.
          show_real: keep three real images of each class in the folder of the run, for its page; else it keeps none.

        Raises:
          ConfigError: if the method is a baseline, there are fewer devices, the batch does not split over them, or they
            lack the precision.
        """
        if config.method != "dgm":
            raise ConfigError(f"method={config.method!r} is a baseline; run it with BaselineLearner")
        self.config = config
        self.devices = choose_devices(devices, config.batch_size)
        check_precision(config.precision, self.devices[0])
        self.backend = backend
        self.show_real = show_real
        self.callbacks = tuple(callbacks) if processes.is_first() else ()

    def fit(self, stream: TaskStream, workdir: str | Path, *, resume_anyway: bool = False) -> dict[str, Any]:
        """Learns all tasks of the stream, or goes on where an interrupted run of the same settings stopped.

        In the folder of a finished run, a stream of new classes goes on with that run: no image of its classes needs to
        be there any more. Old classes of which there are no test images are then left out of the accuracies.

        Of several processes (`processes.join`), all call this alike, with a folder that they share; the first writes.

        Args:
          stream: the tasks.
          workdir: the folder to leave results in; made if missing.
          resume_anyway: go on in a folder whose run had other settings.

        Returns:
          The summary, as in summary.json.

        Raises:
          ConfigError: if settings and stream do not fit each other, or are not the same in all processes.
          OtherConfiguration, WorkdirInUse, WorkdirError, DamagedCheckpoint, NewerFormat: about the folder.
          NotFinite: if training breaks down.
          OtherProcessFailed: if another process met one of these.
        """
        return self._fit([self.config.seed], [stream], [Path(workdir)], resume_anyway)[0]

    def fit_seeds(
        self, seeds: Sequence[int], streams: Sequence[TaskStream], workdir: str | Path, *, resume_anyway: bool = False
    ) -> dict[str, Any]:
        """Learns a stream with several seeds at once, as one vectorised program.

        Each seed's results are those of a run of its own, to rounding (and to what `training.subnetwork` says of free
        weights of closed units), and lie in a folder of its own, `seed<number>`;
        `summary.json` beside these folders has mean and standard deviation. What ends one seed, such as a loss that is
        not finite any more, ends all; each can go on by itself in its folder.

        Args:
          seeds: different from each other; that of the settings does not count.
          streams: the tasks, one stream for each seed, alike but for the images that are held out.
          workdir: the folder above those of the seeds; made if missing.
          resume_anyway: as in `fit`.

        Returns:
          The summary of all seeds.

        Raises:
          ConfigError: as in `fit`, and if a seed is there twice or the streams are not alike.
          OtherConfiguration: as in `fit`, and if the workdir is the folder of a single run.
          Others: as in `fit`.
        """
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds={','.join(map(str, seeds))} names a seed twice; give each once")
        if len(streams) != len(seeds):
            raise ConfigError(f"{len(streams)} streams for {len(seeds)} seeds; give one for each")
        for seed, stream in zip(seeds, streams):
            different = [name for name in _ALIKE if describe(stream)[name] != describe(streams[0])[name]]
            if different:
                raise ConfigError(
                    f"the streams of seeds {seeds[0]} and {seed} differ in {', '.join(different)}; "
                    "seeds are trained side by side on the same tasks"
                )
        top = Path(workdir)
        if Workdir(top).config.exists():
            raise OtherConfiguration(f"{top} is the folder of a run of one seed; choose another workdir")
        folders = [top / f"seed{seed}" for seed in seeds]
        summary = summarise_seeds(self._fit(seeds, streams, folders, resume_anyway), [f.name for f in folders])
        processes.on_first(files.write_json, top / "summary.json", summary)
        return summary

    def _fit(
        self, seeds: Sequence[int], streams: Sequence[TaskStream], workdirs: Sequence[Path], resume_anyway: bool
    ) -> list[dict[str, Any]]:
        configs = [dataclasses.replace(self.config, seed=seed) for seed in seeds]
        folders = [Workdir(workdir) for workdir in workdirs]
        placed = [placed_in(folder, stream) for folder, stream in zip(folders, streams, strict=True)]
        streams = [own.stream for own in placed]
        described = [describe(stream) for stream in streams]
        paths = [str(folder.path.absolute()) for folder in folders]
        settings = [[dataclasses.asdict(config) for config in configs], len(self.devices), self.backend, paths]
        processes.check_equal("settings", settings)
        processes.check_equal("data", described)
        for config, stream in zip(configs, streams, strict=True):
            check_fit(config, stream)
        with ExitStack() as held:

            def claim() -> None:
                for config, day, own, folder in zip(configs, placed, described, folders, strict=True):
                    held.enter_context(files.RunLock(folder.path))
                    names = day.stream.class_names
                    folder.claim(config, own, names, day.days, fits=day.fits, resume_anyway=resume_anyway)
                    folder.checkpoints.mkdir(exist_ok=True)

            processes.on_first(claim)
            for dropped in {own.dropped for own in placed if own.dropped}:
                for callback in self.callbacks:
                    callback.on_note(
                        f"left out, for another day came first: {', '.join(dropped)}, of which nothing was saved"
                    )
            texts = [folder.config.read_text() if folder.config.exists() else None for folder in folders]
            processes.check_equal("folder", texts)
            return _Session(self, configs, streams, folders).finish()


class _Session:
    """One call of `fit` or `fit_seeds`: the runs, and the programs they share."""

    def __init__(
        self,
        learner: Learner,
        configs: Sequence[Config],
        streams: Sequence[TaskStream],
        folders: Sequence[Workdir],
    ) -> None:
        self.config = learner.config
        self.callbacks = learner.callbacks
        self.stream = streams[0]  # What is said of it here holds for all.
        self.building = BuildClock()
        self.trainer = Trainer(
            learner.config,
            learner.devices,
            channels=self.stream.image_shape[2],
            n_classes=self.stream.n_classes,
            max_heads=max(map(len, self.stream.tasks)),
            backend=learner.backend,
        )
        self.runs = [
            Run(config, stream, folder, self.trainer, self._note, show_real=learner.show_real)
            for config, stream, folder in zip(configs, streams, folders, strict=True)
        ]

    def finish(self) -> list[dict[str, Any]]:
        already_finished = all(run.is_finished for run in self.runs)
        if not already_finished:
            self._announce()
            with self.building:
                while not all(run.is_finished for run in self.runs):
                    self._advance()
        summaries = []
        for run in self.runs:
            summaries.append(run.summary())
            processes.on_first(files.write_json, run.folder.summary, summaries[-1])
            processes.on_first(report.write_at_the_end, run.folder, self._note)
            self._tell("on_run_end", RunEnd(summaries[-1], run.folder.path, already_finished, run.files()))
        return summaries

    def _advance(self) -> None:
        """Moves the runs that are furthest behind to the end of their task, or to where another run stands in it.

        A kill between two saves, or a damaged checkpoint, can leave one seed behind the others.
        """
        behind = min(run.record.position for run in self.runs)
        group = [run for run in self.runs if run.record.position == behind]
        ahead = min((run.record.position for run in self.runs if run.record.position > behind), default=None)
        task = behind[0]
        self._learn(task, group, until=ahead[1] if ahead and ahead[0] == task else self.config.epochs)

    def _learn(self, task: int, runs: Sequence[Run], *, until: int) -> None:
        begun = time.perf_counter()
        config, trainer = self.config, self.trainer
        first_epoch = runs[0].record.epochs_done
        # Planned for the widest: seeds that outgrow their arrays at different tasks still share few shapes.
        histories = zip(*(run.width_history() for run in runs), strict=True)
        widest = [tuple(max(layer) for layer in zip(*widths)) for widths in histories]
        physical = physical_widths(widest, headroom=config.headroom, n_tasks=self.stream.n_tasks)
        steps = sum(self.stream.train_counts(task)) // config.batch_size
        compiles = trainer.is_new_shape(physical, len(runs))
        self._tell("on_task_start", self._task_start(task, runs, first_epoch, steps, physical, compiles))
        with self._timed("begin", runs):
            begun_tasks = [run.begin_task(task, physical) for run in runs]
            keys = [run.train_key(task) for run in runs]
            training = TaskTraining(trainer, begun_tasks, keys, task=task, steps=steps)
        for epoch in range(first_epoch, until):
            if epoch == first_epoch or config.replay == "fresh":
                replayed = self._replay(task, runs, epoch)
            epoch_begun = time.perf_counter()
            with self._timed("train", runs):
                moved = self._progress(task, "train", steps, epoch)
                means = training.run_epoch(replayed, epoch, runs[0].record.programs, moved)
            saves = (epoch + 1) % config.checkpoint_epochs == 0 and epoch + 1 < config.epochs
            states = training.states() if saves or config.protocol == "paper" else []
            if config.protocol == "paper":
                for run, own, mean in zip(runs, states, means):
                    run.keep_best(task, own, mean)
            for run, mean in zip(runs, means):
                run.end_epoch(task, epoch, mean)
            self._tell("on_epoch_end", EpochEnd(task, epoch, _mean(means), time.perf_counter() - epoch_begun))
            if saves:
                with self._timed("checkpoint", runs):
                    for run, own in zip(runs, states):
                        run.save_training(task, own)
        states = training.states()
        if until < config.epochs:
            for run, own in zip(runs, states):
                run.pause(own)
        else:
            self._end_task(task, runs, states, begun)

    def _end_task(self, task: int, runs: Sequence[Run], states: Sequence[Any], begun: float) -> None:
        ended = [run.end_training(task, state) for run, state in zip(runs, states)]
        with self._timed("consolidate", runs):
            classifiers = self.trainer.consolidate(
                [run.consolidation_key(task) for run in runs],
                [run.draw(task) for run in runs],
                runs[0].seen(task),
                on_steps=self._progress(task, "consolidate", self.config.consolidation_steps),
            )
        for run, (state, rows), (classifier, means) in zip(runs, ended, classifiers):
            with self._timed("evaluate", [run]):
                run.evaluate(task, classifier, state)
            with self._timed("expand", [run]):
                run.grow(task, rows)
            with self._timed("save", [run]):
                run.end_task(task, rows, classifier, state, means)
            self._tell("on_task_end", run.task_end(task, rows, time.perf_counter() - begun, means))

    def _replay(self, task: int, runs: Sequence[Run], epoch: int) -> Any:
        epoch = epoch if self.config.replay == "fresh" else 0
        moved = self._progress(task, "replay", len(runs) * self.stream.n_seen(task - 1))
        with self._timed("replay", runs):
            return self.trainer.together([run.replay(task, epoch, moved) for run in runs])

    def _timed(self, phase: str, runs: Sequence[Run]) -> Any:
        return timed(phase, self.building, [run.record for run in runs])

    def _task_start(
        self, task: int, runs: Sequence[Run], first_epoch: int, steps: int, physical: tuple[int, ...], compiles: bool
    ) -> TaskStart:
        return TaskStart(
            task=task,
            classes=runs[0].names(self.stream.tasks[task]),
            epochs=self.config.epochs,
            first_epoch=first_epoch,
            steps=steps,
            images_per_step=self.config.batch_size * len(runs),
            widths=tuple(max(widths) for widths in zip(*(run.memory.widths for run in runs))),
            physical_widths=physical,
            compiles=compiles,
        )

    def _announce(self) -> None:
        stream = self.stream
        if stream.n_past:
            gone = stream.n_seen(stream.n_past - 1)
            self._note(
                f"goes on after {stream.n_past} tasks, with {stream.n_classes - gone} new classes; there are no test "
                f"images of the {gone} earlier ones, so accuracies are of the new classes alone"
            )
        config = self.config
        told_classes = config.auxiliary_generator or config.reconstruction_weight or config.critic_condition != "none"
        if max(map(len, stream.tasks)) > 1 and not told_classes:
            self._note(
                "tasks have several classes, and nothing tells the generator which of them to draw: give it "
                "auxiliary_generator=True or critic_condition='projection'"
            )
        position = min(run.record.position for run in self.runs)
        self._tell(
            "on_run_start",
            RunStart(
                config=self.config,
                seeds=tuple(run.config.seed for run in self.runs),
                workdir=self.runs[0].folder.path if len(self.runs) == 1 else self.runs[0].folder.path.parent,
                devices=[str(device) for device in self.trainer.devices],
                platform=self.trainer.devices[0].platform,
                dataset=stream.part_name,
                tasks=tuple(self.runs[0].names(task) for task in stream.tasks),
                train_counts=tuple(sum(stream.train_counts(t)) for t in range(stream.n_past, stream.n_tasks)),
                test_count=stream.test_count,
                estimated_seconds=self._seconds_left(*position),
                resumed_from=position if any(position) else None,
            ),
        )

    def _seconds_left(self, finished_tasks: int, epochs_done: int) -> float:
        """From the tasks that are over, if any; else from the arithmetic to be done."""
        if finished_tasks:
            done = finished_tasks + epochs_done / self.config.epochs
            spent = max(sum(run.record.seconds.values()) for run in self.runs)
            return spent * (self.stream.n_tasks - done) / done
        return len(self.runs) * estimated_seconds(
            self.config,
            self.trainer.devices,
            train_counts=[sum(self.stream.train_counts(t)) for t in range(self.stream.n_tasks)],
            channels=self.stream.image_shape[2],
            epochs_done=epochs_done,
        )

    def _progress(self, task: int, phase: str, total: float, epoch: int | None = None) -> Callable[[int], None]:
        done = 0

        def moved(n: int) -> None:
            nonlocal done
            done += n
            self._tell("on_progress", Progress(task, phase, done, total, epoch))

        return moved

    def _note(self, text: str) -> None:
        self._tell("on_note", text)

    def _tell(self, event: str, record: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(record)


def placed_in(folder: Workdir, stream: TaskStream) -> Placed:
    """The stream as the run in this folder meets it."""
    plain = Placed(stream, (stream.n_tasks,), False)
    met = met_before(folder.read_config()) if folder.config.exists() else None
    if met is None or (describe(stream) == met.stream and tuple(stream.class_names) == met.names):
        return plain
    restored = checkpoint.restore(folder.checkpoints, on_damage=lambda _: None)  # The run itself tells of damage.
    record = restored.metadata["record"] if restored is not None else {"finished_tasks": 0, "epochs_done": 0}
    try:
        return place(stream, met, record["finished_tasks"], record["epochs_done"])
    except OtherConfiguration as error:
        raise OtherConfiguration(f"{folder.path} {error}") from error


def _mean(means: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: math.fsum(mean[name] for mean in means) / len(means) for name in means[0]}
