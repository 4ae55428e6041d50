"""Runs of seconds on real digits, made once and shared."""

import fcntl
import functools
import hashlib
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dgm_jax import Learner, Memory, data, load_memory
from dgm_jax.config import FROZEN, Config, all_facts
from dgm_jax.data import Dataset, TaskStream
from dgm_jax.methods import METHODS, classifying
from dgm_jax.runs import checkpoints
from dgm_jax.runs.events import Callback, TaskEnd
from dgm_jax.system import checkpoint
from dgm_jax.training.task import Networks
from dgm_jax.training.trainer import Trainer
from support import programs


def trainer(
    config: Config,
    devices: Sequence[jax.Device] = (),
    *,
    n_classes: int = 3,
    max_heads: int = 1,
    backend: str = "pmap",
    channels: int = 1,
) -> Trainer:
    """The programs of a run on grey images, or vectors of `channels`, on one device unless others are given."""
    networks = Networks(config, channels=channels, n_classes=n_classes, max_heads=max_heads)
    return Trainer(networks, devices or jax.local_devices()[:1], backend=backend)


LABELS = (0, 1, 2)


SMALL = Config().with_changes(
    image_size=16,
    noise_dim=8,
    generator_width=3,
    discriminator_width=4,
    epochs=3,
    batch_size=8,
    scale_max=100.0,
    headroom=4,
    consolidation_steps=6,
    consolidation_samples=16,
    checkpoint_seconds=0,
)
"""A run of seconds; what does not change its programs (epochs, replay, ...) may be changed for free."""


def small(variant: str = "dgma", method: str = "dgm", **changes: Any) -> Config:
    """`SMALL` with changes; for a baseline without those that it does not read."""
    config = SMALL.for_method(method, METHODS[method].settings())  # type: ignore[arg-type]
    changes |= {"variant": variant}
    read = {name for name, facts in all_facts(type(config.method_settings)).items() if facts.is_used_by(method)}
    return config.with_changes(**{name: value for name, value in changes.items() if method == "dgm" or name in read})


def residual(variant: str = "dgma", **changes: Any) -> Config:
    """A run of seconds of the residual pair, with all that ImageNet adds: D goes on, aux_G, L1."""
    own = {"network": "resnet", "image_size": 8, "auxiliary_generator": True, "reconstruction_weight": 0.5}
    return small(variant, **own, reinitialise_discriminator=False, **changes)


def beyond(variant: str = "dgma", **changes: Any) -> Config:
    """A run of seconds with all that goes beyond the paper at once."""
    own = {
        "generator_average": 0.9,
        "warm_start": True,
        "critic_condition": "projection",
        "generator_width": 8,  # So wide that no draw of the gates closes all of them.
        "consolidation_flip": True,
        "consolidation_noise": 0.3,
        "consolidation_means": True,
        "consolidation_smoothing": 0.1,
        "consolidation_width": 6,
    }
    return small(variant, **({"image_size": 8} | own | changes))


def vectors(variant: str = "dgma", method: str = "dgm", **changes: Any) -> Config:
    """A run of seconds on vectors: the 64 pixels of real digits, as floats."""
    config = SMALL.with_changes(network="mlp", image_size=1, generator_width=8, variant=variant)
    config = config.for_method(method, METHODS[method].settings())  # type: ignore[arg-type]
    return config.with_changes(**changes)


@functools.cache
def digits(size: int, labels: Sequence[int] = LABELS, per_class: int = 24, names: Sequence[int] = ()) -> Dataset:
    """Real digits of some classes, as vectors if the size is 1; `names` are labels to use in place of their own."""
    whole = data.load("digits")
    whole = whole if size == 1 else whole.resized(size)
    train, test = np.isin(whole.y_train, labels), np.isin(whole.y_test, labels)
    table = np.arange(10)
    table[list(labels)] = names or labels
    y_train, y_test = table[whole.y_train[train]], table[whole.y_test[test]]
    x_train, x_test = whole.x_train[train], whole.x_test[test]
    if size == 1:  # Vectors, of any scale.
        x_train, x_test = (3 + x.reshape(len(x), -1) / 255 for x in (x_train, x_test))
    some = data.from_arrays(x_train, y_train, x_test, y_test, name="digits")
    return some.first_per_class(per_class)


def stream(config: Config, labels: Sequence[int] = LABELS, names: Sequence[int] = (), **options: Any) -> TaskStream:
    """A stream of real digits, 24 training images a class besides those held out."""
    per_class = round(24 / (1 - config.data.held_out))
    dataset = digits(config.data.image_size, tuple(labels), per_class, tuple(names))
    return data.class_incremental(dataset, held_out=config.data.held_out, protocol=config.protocol, **options)


def fit(config: Config, workdir: Path, *callbacks: Callback, resume_anyway: bool = False, **options: Any) -> dict:
    """One run on one device."""
    learner = Learner(config, devices=1, callbacks=callbacks)
    return learner.fit(stream(config, **options), workdir, resume_anyway=resume_anyway)


class Watch(Callback):
    """Loads the memory at the end of every task, as a stranger would, and draws every class that it knows."""

    N = 5

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.drawn: list[dict[int, np.ndarray]] = []  # By task, then label.
        self.memories: list[Memory] = []

    def on_task_end(self, event: TaskEnd) -> None:
        memory = load_memory(self.workdir)
        self.memories.append(memory)
        self.drawn.append(draw_all(memory))


def draw_all(memory: Memory) -> dict[int, np.ndarray]:
    """A few images of every class the memory knows, for fixed keys."""
    known = memory.labels[: memory.n_classes]
    return {label: np.asarray(memory.sample(label, Watch.N, jax.random.key(label))) for label in known}


@functools.cache
def finished(config: Config, **options: Any) -> Watch:
    """A whole run, made once for all workers; its folder is not to be written into. For the options see `stream`."""
    told = f"{config} {sorted(options.items())} {classifying._STEPS_PER_EPOCH}"
    folder = programs.scratch() / hashlib.sha256(told.encode()).hexdigest()
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = folder.with_suffix(".pickle")
        if not kept.exists():
            watch = Watch(folder)
            fit(config, folder, *[watch] if config.method in FROZEN else [], **options)
            kept.write_bytes(pickle.dumps(watch))
    return pickle.loads(kept.read_bytes())


SIX = (0, 1, 2, 3, 4, 5)


def unequal() -> Watch:
    """A run with tasks of three, two and one classes, whose labels are any numbers, in an order of their own."""
    config = small("dgma", image_size=8, headroom=2)
    names, order = (70, -3, 12, 5, 900, 41), (12, 900, -3, 70, 5, 41)
    return finished(config, labels=SIX, names=names, class_order=order, classes_per_task=(3, 2, 1))


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def newest(workdir: Path) -> checkpoint.Checkpoint:
    """The newest checkpoint, which must be whole."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    restored = checkpoints.restore(workdir / "checkpoints", on_damage=refuse)
    assert restored is not None
    return restored
