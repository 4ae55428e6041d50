"""The options of a run besides its settings; a kind of options for each kind of data."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from dgm_jax import data
from dgm_jax.commands.arguments import Flag, shown
from dgm_jax.config import NAMED_PRESETS, Config, Networks
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError
from dgm_jax.reporting.output import LogFormat, Output, output

_IMAGENET50 = 50  # classes


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run needs besides its settings."""

    preset: Annotated[str, shown(f"{{{','.join(NAMED_PRESETS)}}}")]
    """Named set of settings; with --variant it decides the defaults listed here. best: what goes beyond the paper and
    measured best, by size, colour and number of the images; its defaults are known once the images are read."""
    config: Annotated[Path | None, shown("FILE", "none")] = None
    """File of settings, JSON or TOML, such as a run's config.json. It overrides the preset; options override both."""
    class_order: str = "natural"
    """Order in which the classes arrive: natural, random:SEED, seed (each seed has its own, random:SEED), legacy:SEED
    (NumPy's old generator, as published orders have it), all labels or names, e.g. 3,1,4,0,2, or @FILE with a name a
    line."""
    classes_per_task: str = "1"
    """Classes in every task, e.g. 2, or in each, e.g. 5,3,2."""
    workdir: Annotated[Path | None, shown("DIR", "runs/EXPERIMENT[-PRESET]-VARIANT-seedSEED")] = None
    """Folder of the run; a run that was interrupted continues there."""
    from_workdir: Annotated[Path | None, arg(aliases=("--from",)), shown("WORKDIR", "none")] = None
    """Go on in a new folder from what the run in WORKDIR knew after the task of --after-task (docs/own-images.md)."""
    after_task: Annotated[int | None, shown("K", "none")] = None
    """With --from: the task; 0 is the first."""
    data_dir: Annotated[Path | None, shown("DIR", "$TFDS_DATA_DIR, or else ~/tensorflow_datasets")] = None
    """Folder that holds the data sets of TensorFlow Datasets; digits and arrays need none."""
    evaluate_on: Literal["test", "training"] = "test"
    """training: a quarter of each class's training images takes the place of the test images, to choose settings by."""
    seeds: Annotated[str | None, shown("N,N,...", "--seed alone")] = None
    """Train several seeds at once, side by side in one program, e.g. 0,1,2; each gets a folder in that of the run."""
    jobs: Annotated[int | None, shown("N", "side by side")] = None
    """With --seeds: train each seed in a separate process, N at once, which share out the cores (docs/cluster.md)."""
    devices: Annotated[int | Literal["all"] | None, shown("N|all", "1, or one of each process")] = None
    """Train on N devices, equally many of each process, or on all. They share each mini-batch; several seeds are shared
    out among the devices of one process instead."""
    backend: Literal["pmap", "shard_map"] = "pmap"
    """What maps training over devices; results do not depend on it."""
    distributed: Flag = False
    """Be one of several processes of a run (docs/devices.md); Slurm, Kubernetes and TPU pods say which."""
    coordinator: Annotated[str | None, shown("HOST:PORT", "found")] = None
    """With --distributed: where the first process listens."""
    num_processes: Annotated[int | None, shown("N", "found")] = None
    """With --distributed: how many processes there are."""
    process_id: Annotated[int | None, shown("I", "found")] = None
    """With --distributed: the number of this process, from 0."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder (or $JAX_COMPILATION_CACHE_DIR), and use those kept there."""
    show_real: Flag = False
    """Keep three real images of each class in the workdir, to be shown beside generated ones on the page of the run."""
    tensorboard: Flag = False
    """Write the run's numbers and pictures for TensorBoard too, into the workdir's folder tensorboard/."""
    quiet: Flag = False
    """Print results, notes and errors only."""
    log_format: LogFormat = "text"
    """json: print one JSON object a line, for programs that start runs (docs/run.md)."""
    debug: Flag = False
    """Show where an error comes from."""
    resume_anyway: Flag = False
    """Continue in a workdir although its settings differ from those given now."""
    more_of_known: Flag = False
    """In the workdir of a finished run: learn these images although the run knows some of their classes, as more images
    of these classes (docs/own-images.md)."""
    settings: Config
    """Settings: from the options, the file, the preset, and the defaults."""

    @property
    def output(self) -> Output:
        """What prints the events of the run."""
        return output(self.log_format, quiet=self.quiet)

    @property
    def where(self) -> Path | None:
        """What the data are read from; None if they come with this package."""
        return self.data_dir or data.default_folder()

    @property
    def decoded_per_class(self) -> int | None:
        """How many training images of each class are read; None: all, of which the last ones may be judged by."""
        return None if self.evaluate_on == "training" else self.settings.data.train_per_class

    def usual_preset(self, name: str) -> str:
        """The preset of the experiment `name` if none is given."""
        return name

    def load(self, name: str) -> Dataset:
        """Loads the data set of the experiment `name`; raises UserError if it cannot be used."""
        return data.load(name, self.where, train_per_class=self.decoded_per_class)

    def loaded(self, name: str) -> Dataset:
        """As `load`, which is not done again if it was the last."""
        settings, network = self.settings, Networks(network=self.settings.networks.network)
        read = Config(method=settings.method, data=settings.data, networks=network)  # What decides how they are read.
        return _load(dataclasses.replace(self, preset="", settings=read), name)

    def learnt(self, name: str) -> Dataset:
        """Those of the images loaded that are learnt and judged by."""
        dataset, per_class = self.loaded(name), self.settings.data.train_per_class
        if self.evaluate_on == "training":
            dataset = dataset.for_choosing()
        return dataset if per_class is None else dataset.first_per_class(per_class)


@functools.lru_cache(maxsize=1)
def _load(options: Options, name: str) -> Dataset:
    return options.load(name)


@dataclass(frozen=True, kw_only=True)
class DigitsOptions(Options):
    """Options of the experiment on digits, whose test images are few."""

    fold: Annotated[str | None, shown("K/N", "the 360 test images of the data set")] = None
    """Divide all images into N parts with equal shares of each class; part K has the test images, e.g. 1/5."""

    @property
    def where(self) -> None:
        """They come with this package."""

    def load(self, name: str) -> Dataset:
        """Loads the digits, or a fold of them."""
        dataset = data.load(name)
        return dataset if self.fold is None else data.fold(dataset, *data.parse_fold(self.fold))


@dataclass(frozen=True, kw_only=True)
class FileOptions(Options):
    """Options of an experiment on a person's own arrays."""

    npz: Annotated[Path, shown("FILE")]
    """File with the arrays x_train, y_train, x_test, y_test: images uint8 [n, h, w] or [n, h, w, c], of any size, or
    vectors, floats [n, d]."""

    @property
    def where(self) -> Path:
        """The file."""
        return self.npz

    def usual_preset(self, name: str) -> str:
        """That of vectors, if the file holds vectors."""
        return "vectors" if data.holds_vectors(self.npz) else name

    def load(self, name: str) -> Dataset:
        """Loads the arrays; they are called after the file, not `name`."""
        return data.from_npz(self.npz)


@dataclass(frozen=True, kw_only=True)
class TfdsOptions(Options):
    """Options of an experiment on any data set of TensorFlow Datasets."""

    name: Annotated[str, shown("NAME")]
    """The data set, as TensorFlow Datasets calls it, e.g. beans, or with a configuration, e.g. emnist/letters."""

    def load(self, name: str) -> Dataset:
        """Loads it, at the size that the networks see; it is called by its own name, not `name`."""
        size = self.settings.data.image_size
        return data.load(self.name, self.where, train_per_class=self.decoded_per_class, size=size)


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """Options of experiments on files of images."""

    grey: Literal["convert", "refuse"] = "convert"
    """With --data: what becomes of grey images (by their file's mode) among colour ones."""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """With --data: what becomes of files that cannot be read as images."""
    data: Annotated[Path | None, shown("PATH", "imagenet_resized/32x32 in --data-dir")] = None
    """Folder of images: PATH/train/<class>/ and PATH/val/<class>/, or PATH/<class>/ (the last fifth are for tests)."""
    parts: Annotated[str | None, shown("TRAIN,TEST", "found by their names")] = None
    """With --data: the folders in PATH of training and of test images, e.g. train,test."""
    classes: Annotated[str | None, shown("A,B,...|first:N|@FILE", "all, by name")] = None
    """Classes to learn: names, the first N by name, or a file with a name a line; they are numbered in this order."""

    @property
    def where(self) -> Path | None:
        """The folder of images, or that of the data sets of TensorFlow Datasets."""
        return self.data or super().where

    def load(self, name: str) -> Dataset:
        """Loads the chosen classes; a folder's are called after the folder, not `name`."""
        parts = None if self.parts is None else data.parse_parts(self.parts)
        there = data.folder_classes(self.data, parts) if self.data else data.class_names("imagenet32", self.where)
        self.check_classes(there)
        chosen = None if self.classes is None else data.parse_classes(self.classes, there)
        # This refuses an order or sizes of tasks that do not fit before the minutes that reading images takes.
        names = dict(enumerate(chosen or there))
        data.parse_class_order(self.class_order, tuple(names), names)
        data.task_sizes(data.parse_classes_per_task(self.classes_per_task), len(chosen or there))
        if not self.data:
            return data.load("imagenet32", self.where, classes=chosen or there, train_per_class=self.decoded_per_class)
        return data.from_folder(
            self.data,
            size=self.settings.data.image_size,
            classes=chosen,
            grey=self.grey,
            unreadable=self.unreadable,
            parts=parts,
            train_per_class=self.decoded_per_class,
        )

    def check_classes(self, there: Sequence[str]) -> None:
        """Refuses classes that the experiment is not about."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions(ImageOptions):
    """Options of an experiment on a person's own images, a folder for each class."""

    data: Annotated[Path, shown("PATH")] = dataclasses.field()  # It has to be given.


@dataclass(frozen=True, kw_only=True)
class ImageNetOptions(ImageOptions):
    """Options of an experiment on 50 classes of ImageNet, or on any class folders of images."""

    classes_per_task: str = "10"
    classes: Annotated[str | None, shown("A,B,...|first:N|@FILE", "all, which have to be 50")] = None

    def load(self, name: str) -> Dataset:
        """Loads the chosen classes."""
        if self.data and self.data_dir:
            raise UserError("--data and --data-dir are two places to read from; give one of them")
        if not self.data and (self.grey, self.unreadable, self.parts) != ("convert", "refuse", None):
            raise UserError("--grey, --unreadable and --parts are about files of images; they need --data")
        return super().load(name)

    def check_classes(self, there: Sequence[str]) -> None:
        """Refuses another number of classes than 50 if none are chosen."""
        if self.classes is None and len(there) != _IMAGENET50:
            choice = f"--classes first:{min(len(there), _IMAGENET50)}"
            raise UserError(f"{self.where} has {len(there):,} classes, expected {_IMAGENET50}; choose, e.g. {choice}")


@dataclass(frozen=True, kw_only=True)
class JoinedOptions(Options):
    """Options of an experiment on several data sets as one."""

    of: Annotated[str, shown("A,B,...")] = "digits,mnist"
    """The data sets to join, in this order, e.g. digits,mnist,svhn,cifar10."""

    def load(self, name: str) -> Dataset:
        """Loads them, at the size that the networks see."""
        names = [part.strip() for part in self.of.split(",")]
        parts = [data.load(part, self.where, train_per_class=self.decoded_per_class) for part in names]
        return data.join(parts, self.settings.data.image_size)


def check_jobs(jobs: int | None) -> None:
    """Raises UserError for `--jobs` of less than one."""
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: expected a whole number of at least 1")


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
