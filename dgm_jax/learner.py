"""The door to learn: checks the machine, opens the run's folder, runs the session, leaves a page."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import jax

from dgm_jax.config import TRAINS, Config
from dgm_jax.data import TaskStream
from dgm_jax.data.stream import describe
from dgm_jax.errors import ConfigError
from dgm_jax.methods import METHODS, with_method_settings
from dgm_jax.methods.method import Method
from dgm_jax.reporting import page
from dgm_jax.runs import opening
from dgm_jax.runs import seeds as of_seeds
from dgm_jax.runs.events import Callback, Callbacks
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.session import Session, new_method
from dgm_jax.runs.summary import Summary
from dgm_jax.system import files, processes
from dgm_jax.system.lock import RunLock
from dgm_jax.system.pinned import pinned
from dgm_jax.training.devices import check_batch, check_precision, choose_devices, most_devices


class Learner:
    """Learns a stream of tasks with the method that the settings name."""

    def __init__(
        self,
        config: Config,
        *,
        devices: int | Literal["all"] | None = None,
        backend: str = "pmap",
        callbacks: Sequence[Callback] = (),
        show_real: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
        by_images: Collection[str] = (),
    ) -> None:
        """Checks that the settings fit the machine; computes nothing.

        Args:
          config: the settings.
          devices: how many devices to train on, of all processes together, or "all"; None: one of each process.
            Devices share each mini-batch; those of one process train whole seeds instead, if there are several.
          backend: what maps over devices, "pmap" or "shard_map"; results do not depend on it.
          callbacks: hear of every event; with several processes, only those of the first one do.
          show_real: keep three real images of each class in the run's folder, for its page; otherwise it keeps none.
          should_stop: asked at the end of each epoch of a task; if True, the run is saved there and ends with
            `errors.Terminated`. Of several processes, JAX's own notice of preemption decides instead.
          by_images: names of settings that were chosen by the number of images, as `config.best` does
            (`config.BY_IMAGES`). In the folder of an earlier run, those that last are the run's, and the others may be
            different for a new stage.

        Raises:
          ConfigError: if there are fewer devices, they lack the precision, or the method does not know the protocol or
            does not read a setting that is given.
        """
        protocols = METHODS[config.method].protocols
        if config.protocol not in protocols:
            raise ConfigError(
                f"protocol={config.protocol!r} is not for method {config.method!r}; use {' or '.join(protocols)}"
            )
        if show_real and METHODS[config.method].memory is Method.memory:
            raise ConfigError(f"show_real=True has no effect for method {config.method!r}: it has no memory to show")
        self.config = with_method_settings(config)
        self.devices = choose_devices(devices)
        check_precision(config.gan.precision, self.devices[0])
        self.backend = backend
        self.show_real = show_real
        self.should_stop = should_stop
        self.by_images = by_images
        self.callback = Callbacks(callbacks if processes.is_first() else ())

    def fit(
        self, stream: TaskStream, workdir: str | Path, *, resume_anyway: bool = False, more_of_known: bool = False
    ) -> dict[str, Any]:
        """Learns all tasks of the stream; resumes an interrupted run of the same settings.

        In the folder of a finished run, a stream of new classes continues that run; no image of its classes is needed.
        Old classes without test images are then left out of the accuracies. With `more_of_known`, such a stream may
        also have more images of classes that the run knows by name: the memory gives each a further mode.

        With several processes (`processes.join`), all call this alike, with a folder that they share; the first writes.

        Args:
          stream: the tasks.
          workdir: the folder to leave results in; made if missing.
          resume_anyway: resume in a folder whose run had other settings.
          more_of_known: a stream that continues a finished run may have more images of classes that it knows.

        Returns:
          The summary, as in summary.json.

        Raises:
          ConfigError: if settings and stream do not fit each other, or are not the same in all processes, or the batch
            does not split over the devices.
          OtherConfiguration, WorkdirInUse, WorkdirError, DamagedCheckpoint, NewerFormat: about the folder.
          NotFinite: if training breaks down.
          OtherProcessFailed: if one of these errors came up in another process.
        """
        return self._fit([self.config.seed], [stream], [Path(workdir)], resume_anyway, more_of_known)[0].to_json()

    def fit_seeds(
        self,
        seeds: Sequence[int],
        streams: Sequence[TaskStream],
        workdir: str | Path,
        *,
        resume_anyway: bool = False,
        more_of_known: bool = False,
    ) -> dict[str, Any]:
        """Learns a stream with several seeds at once, as one vectorised program.

        Several devices of one process train whole seeds, equally many each: as many devices as that is possible for.
        Each seed's results are those of a single run, to rounding (and to what `training.subnetwork` says of free
        weights of closed units), and lie in a folder of their own, `seed<number>`. Beside these folders, `summary.json`
        has mean and standard deviation, and `report.html` shows them. What ends one seed, such as a loss that is not
        finite any more, ends all; each can be resumed by itself in its folder.

        Args:
          seeds: different from each other; the seed in the settings does not count.
          streams: the tasks, one stream for each seed, alike except for the images that are held out and the order of
            the classes.
          workdir: the folder above those of the seeds; made if missing.
          resume_anyway: as in `fit`.
          more_of_known: as in `fit`; seeds whose classes have another order must then be trained each by itself.

        Returns:
          The summary of all seeds.

        Raises:
          ConfigError: as in `fit`, and if a seed is there twice or the streams are not alike.
          OtherConfiguration: as in `fit`, and if the workdir is the folder of a single run.
          Others: as in `fit`.
        """
        _check_seeds(seeds, streams)
        folders = of_seeds.folders(Path(workdir), seeds)
        summary = of_seeds.finish(Path(workdir), self._fit(seeds, streams, folders, resume_anyway, more_of_known))
        processes.on_first(page.write_at_the_end, Workdir(workdir), self.callback.on_note)
        return summary

    @pinned()
    def _fit(
        self,
        seeds: Sequence[int],
        streams: Sequence[TaskStream],
        workdirs: Sequence[Path],
        resume_anyway: bool,
        more_of_known: bool,
    ) -> list[Summary]:
        folders = [Workdir(workdir) for workdir in workdirs]
        for folder in folders:
            processes.on_first(folder.settle)
        begun = next((folder for folder in folders if folder.config.exists()), folders[0])
        is_misplaced = more_of_known and not begun.config.exists()
        settled = opening.with_lasting(self.config, begun, self.by_images)
        settled = opening.with_precision(settled, begun, self.devices[0])
        configs = [settled.with_changes(seed=seed) for seed in seeds]
        placed = [
            opening.place_in(folder, stream, more_of_known=more_of_known)
            for folder, stream in zip(folders, streams, strict=True)
        ]
        streams = [placement.stream for placement in placed]
        if any(stream.tasks != streams[0].tasks for stream in streams):  # Known classes have the number they came in.
            raise ConfigError(
                "the seeds learnt their classes in different orders, and more images of known classes come now; train "
                "each by itself (learn --seeds N,N,... --jobs N)"
            )
        paths = [str(folder.path.absolute()) for folder in folders]
        settings = [[dataclasses.asdict(config) for config in configs], len(self.devices), self.backend, paths]
        processes.check_equal("settings", settings)
        processes.check_equal("data", [describe(stream) for stream in streams])
        for config, stream in zip(configs, streams, strict=True):
            opening.check_fit(config, stream)
        runs_apart = len(seeds) > 1 and len(self.devices) > 1 and jax.process_count() == 1
        devices = self.devices[: most_devices(len(seeds), len(self.devices))] if runs_apart else self.devices
        if not runs_apart and self.config.method in TRAINS:
            check_batch(self.config.gan.batch_size, len(devices))
        # It refuses settings that cannot work.
        method = new_method(configs[0], streams[0], devices, self.backend, runs_apart=runs_apart)
        with ExitStack() as held:
            changes: list[str] = []

            def claim() -> None:
                for config, placement, folder in zip(configs, placed, folders, strict=True):
                    held.enter_context(RunLock(folder.path))
                    changes.extend(
                        opening.claim(folder, config, placement, resume_anyway=resume_anyway, by_images=self.by_images)
                    )
                    files.make_folder(folder.checkpoints)

            processes.on_first(claim)
            if is_misplaced:
                self.callback.on_note(
                    f"more_of_known has no effect: {begun.path} is a new run, which knows no class yet"
                )
            for change in dict.fromkeys(changes):
                self.callback.on_note(f"{change}: chosen by the number of images, which is another one now")
            for dropped in {placement.dropped for placement in placed if placement.dropped}:
                self.callback.on_note(
                    f"dropped {', '.join(dropped)}: announced earlier, but not learnt before other classes came"
                )
            texts = [folder.config.read_text("utf-8") if folder.config.exists() else None for folder in folders]
            processes.check_equal("folder", texts)
            session = Session(
                configs,
                streams,
                folders,
                method,
                callback=self.callback,
                show_real=self.show_real,
                should_stop=self.should_stop,
            )
            return session.finish(on_end=lambda run: page.write_at_the_end(run.folder, self.callback.on_note))


def _check_seeds(seeds: Sequence[int], streams: Sequence[TaskStream]) -> None:
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={','.join(map(str, seeds))} names a seed twice; give each once")
    if len(streams) != len(seeds):
        raise ConfigError(f"{len(streams)} streams for {len(seeds)} seeds; give one for each")
    for seed, stream in zip(seeds, streams):
        mine, first = _shared(stream), _shared(streams[0])
        if different := [name for name in mine if mine[name] != first[name]]:
            raise ConfigError(
                f"the streams of seeds {seeds[0]} and {seed} differ in {', '.join(different)}, which seeds that are "
                "trained side by side share; train each by itself (learn --seeds N,N,... --jobs N)"
            )


def _shared(stream: TaskStream) -> dict[str, Any]:
    """What the streams of seeds that are trained side by side must have in common."""
    return {
        "data set": stream.name,
        "classes": sorted(zip(stream.classes, stream.class_names)),
        "sizes of tasks": list(map(len, stream.tasks)),
        "size of images": stream.image_shape,
        "numbers of training images": [stream.train_counts(task) for task in range(stream.n_tasks)],
    }
