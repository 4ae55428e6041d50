"""The door to use what a run has learnt: its memory, its classifier, its method."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dgm_jax.errors import NoMemory, UserError
from dgm_jax.memory import demos
from dgm_jax.memory import file as memory_file
from dgm_jax.memory.classifier import CONFIDENCE, Classifier, Predicting
from dgm_jax.memory.memory import Memory
from dgm_jax.system.pinned import pinned
from dgm_jax.types import DiscriminatorParams, statistics_from_tree

if TYPE_CHECKING:  # An exported file is read without Orbax, which the rest needs.
    from dgm_jax.config import Config
    from dgm_jax.data import TaskStream
    from dgm_jax.methods.method import Method
    from dgm_jax.runs.folder import Workdir

# Reading -> its places in a checkpoint.
_READINGS = {
    "consolidated": ("classifier",),
    "auxiliary": ("auxiliary",),
    "combined": ("classifier", "features"),
}
_NETWORKS = ("joint", "finetune", "er", "gdumb", "ewc")  # Methods without a memory whose classifier is a network.


def load_memory(path: str | Path, *, after_task: int | None = None) -> Memory:
    """Loads a memory; needs no training code and no special device.

    Args:
      path: the folder of a run, finished or not, or a file that `python -m dgm_jax export` wrote, which needs no other
        packages than jax, numpy and safetensors; or a demo, "demo:digits" or "demo:mnist": a file of this package.
      after_task: the memory as it was after this task (0 is the first); None: the newest.

    Raises:
      NoMemory: if there is no memory, or none after that task; only runs of dgm and separate have one.
      DamagedMemoryFile, DamagedCheckpoint, NewerFormat: if what is there cannot be read.
    """
    path = demos.located(path)
    if path.is_file():
        found = memory_file.read(path).memory
        if found is None:
            raise NoMemory(f"{path} holds a classifier and no memory; export it with --what memory or --what both")
        memory = found
    elif path.is_dir():
        memory = _memory_of_run(path)
    else:
        raise NoMemory(f"{path} is not there; expected the workdir of a run, or a file that was exported from one")
    _require_finished(after_task, len(memory.tasks), path)
    return memory if after_task is None else memory.as_of(after_task + 1)


def _memory_of_run(path: Path) -> Memory:
    from dgm_jax.runs import checkpoints
    from dgm_jax.runs.folder import Workdir

    folder = Workdir(path)
    folder.settle()
    restored = checkpoints.restore(folder.checkpoints, on_damage=_warn)
    if restored is None and folder.seeds():
        raise NoMemory(f"{path} holds the runs of several seeds; choose one: {', '.join(folder.seeds())}")
    if restored is None:
        raise NoMemory(f"{path} holds no checkpoint yet; expected the workdir of a run with a finished task")
    if "memory" not in restored.tree:
        raise NoMemory(f"{path} is the run of a baseline; only memories of dgm and separate can be drawn from")
    memory = Memory.from_tree(restored.tree["memory"], restored.metadata["memory"])
    if not memory.tasks:
        raise NoMemory(f"{path} has not finished its first task yet; continue the run")
    return memory.as_of(len(memory.tasks))  # Without the classes of tasks that are still to come.


@overload
def load_classifier(path: str | Path, *, after_task: int | None = None, reading: str) -> Classifier: ...


@overload
def load_classifier(path: str | Path, *, after_task: int | None = None, reading: str | None = None) -> Predicting: ...


def load_classifier(path: str | Path, *, after_task: int | None = None, reading: str | None = None) -> Predicting:
    """Loads the classifier of all classes that a run has learnt so far.

    Args:
      path: the folder of a run, finished or not, or a file that `python -m dgm_jax export --what classifier` (or both)
        wrote, which needs no other packages than jax, numpy and safetensors; or a demo, as `load_memory` takes it.
      after_task: of a run, the classifier as it was after this task (0 is the first); None: the newest.
      reading: of a run of dgm or separate, "consolidated" (the default), trained on images that the memory drew,
        "auxiliary", the paper's, or with `--combined` "combined", which joins the first one with sums of features of
        real images.

    Returns:
      A `Classifier`, which is a network; of a run of analytic, one that is read off sums.

    Raises:
      NoMemory: if there is none yet, or none after that task, or the run is of icarl, dgr or mergan, whose classifiers
        need more than a network.
      UserError: if `reading` is unknown or the run has none, or what is there cannot be read.
    """
    path = demos.located(path)
    if reading is not None and reading not in _READINGS:
        raise UserError(f"reading={reading!r} is unknown; choose one of {', '.join(_READINGS)}")
    if not path.is_file():
        return _classifier_of_run(path, after_task, reading)
    classifier = memory_file.read(path).classifier
    if classifier is None:
        raise NoMemory(f"{path} holds a memory and no classifier; export it with --what classifier or --what both")
    if after_task is not None or reading not in (None, "consolidated"):
        raise NoMemory(f"{path} holds one classifier; after_task and reading choose among those of a run's folder")
    return classifier


def _classifier_of_run(path: Path, after_task: int | None, reading: str | None) -> Predicting:
    from dgm_jax.config import FROZEN
    from dgm_jax.runs.folder import Workdir
    from dgm_jax.runs.reading import read_config

    folder = Workdir(path)
    if not folder.path.is_dir():
        raise NoMemory(f"{folder.path} is not a folder; expected the workdir of a run, or an exported file")
    if folder.seeds() and not folder.config.exists():
        raise NoMemory(f"{folder.path} holds the runs of several seeds; choose one: {', '.join(folder.seeds())}")
    folder.settle()
    method = read_config(folder).flat["method"] if folder.config.exists() else "dgm"
    if method in FROZEN:
        return _classifier_of_drawn_images(folder, after_task, reading or "consolidated")
    if reading is not None:
        raise UserError(f"reading={reading!r}: {folder.path} is a run of {method!r}, which has none; leave it out")
    if method not in (*_NETWORKS, "analytic"):
        raise NoMemory(
            f"{folder.path} is a run of {method!r}, whose classifier is more than a network and is not loaded here; in "
            "Python, dgm_jax.loading.load_method(config, stream, workdir) loads the method and its state"
        )
    return _classifier_of_real_images(folder, after_task, method)


def _classifier_of_real_images(folder: "Workdir", after_task: int | None, method: str) -> Predicting:
    from dgm_jax.data.order import classes_of
    from dgm_jax.methods.feature_memory import FeatureMemory, OfSums, classifiers
    from dgm_jax.models.closed_form import ridge_discriminant
    from dgm_jax.runs import checkpoints
    from dgm_jax.runs.reading import read_config, scale_in

    def finished_tasks(found: Any) -> int:
        return int(found.metadata["record"]["finished_tasks"])

    def restored_if(wanted: Callable[[Any], bool]) -> Any:
        return checkpoints.restore(folder.checkpoints, _warn, wanted=wanted)

    restored = restored_if(lambda found: finished_tasks(found) > 0)
    if restored is None:
        raise NoMemory(f"{folder.path} has no whole checkpoint of a finished task; continue the run")
    n_tasks = finished_tasks(restored)
    _require_finished(after_task, n_tasks, folder.path)
    if after_task is not None and after_task < n_tasks - 1:
        restored = restored_if(lambda found: finished_tasks(found) == after_task + 1)
        if restored is None:
            raise NoMemory(
                f"after_task={after_task}: {folder.path} has no whole checkpoint of that time; some methods keep the "
                "newest only"
            )
    stored = read_config(folder)
    assert stored.stream is not None and stored.class_names is not None
    labels = classes_of(stored.stream["tasks"][: finished_tasks(restored)])
    facts: dict[str, Any] = {
        "image_shape": tuple(stored.stream["image_shape"]),
        "labels": tuple(labels),
        "names": stored.class_names[: len(labels)],
        "scale": scale_in(stored.stream),
    }
    if method == "analytic":
        features = FeatureMemory.from_tree(restored.tree, len(labels))
        (own,) = classifiers(features, len(labels), {"analytic": ridge_discriminant}).values()
        return OfSums(classifier=own, **facts)
    return Classifier(
        params=DiscriminatorParams.from_tree(restored.tree["params"]),
        statistics=statistics_from_tree(restored.tree["statistics"]),
        network=stored.flat["consolidation_network"] or stored.flat["network"],
        **facts,
    )


def _classifier_of_drawn_images(folder: "Workdir", after_task: int | None, reading: str) -> Classifier:
    from dgm_jax.data.order import classes_of
    from dgm_jax.runs import checkpoints
    from dgm_jax.runs.reading import read_config, scale_in

    path, places = folder.path, _READINGS[reading]
    restored = checkpoints.restore(folder.checkpoints, _warn, wanted=lambda found: set(places) <= set(found.tree))
    if restored is None or "memory" not in restored.metadata:
        raise NoMemory(
            f"{folder.path} has no classifier {reading!r}; expected the workdir of a run with a finished task (once a "
            "class is forgotten, the auxiliary one is missing until the next task; the combined one needs a run with "
            "--combined)"
        )
    n_tasks = len(restored.metadata["memory"]["tasks"])
    _require_finished(after_task, n_tasks, path)
    if after_task is not None and after_task < n_tasks - 1:
        restored = checkpoints.restore(
            folder.checkpoints,
            _warn,
            wanted=lambda found: (
                set(places) <= set(found.tree) and len(found.metadata["memory"]["tasks"]) == after_task + 1
            ),
        )
        if restored is None:
            raise NoMemory(f"after_task={after_task}: {path} has no whole checkpoint with the classifier of that time")
    own: Any = restored.tree[places[0]]
    stored, memory = read_config(folder), restored.metadata["memory"]
    assert stored.stream is not None
    network, confidence = memory.get("network", "dcgan"), {}
    if reading != "auxiliary":
        network = stored.flat["consolidation_network"] or network
        confidence = {name: restored.metadata[name] for name in CONFIDENCE if name in restored.metadata}
    known = len(classes_of(task["classes"] for task in memory["tasks"]))
    classifier = Classifier(
        params=DiscriminatorParams.from_tree(own["params"]),
        statistics=statistics_from_tree(own["statistics"]),
        network=network,
        image_shape=tuple(stored.stream["image_shape"]),
        labels=tuple(memory["labels"][:known]),
        names=tuple(memory["names"][:known]),
        scale=scale_in(stored.stream),
        **confidence,
    )
    if reading != "combined":
        return classifier
    from dgm_jax.methods.combined import Combined, more_readings
    from dgm_jax.methods.feature_memory import FeatureMemory

    features = FeatureMemory.from_tree(restored.tree["features"], classifier.n_outputs)
    combined = more_readings(classifier, features)["combined"]
    assert isinstance(combined, Combined)
    return combined


@pinned()
def load_method(config: "Config", stream: "TaskStream", workdir: str | Path) -> "tuple[Method, Any]":
    """A method and its state as a run left them after the last finished task.

    Raises:
      NoMemory: if the folder has no checkpoint.
    """
    import jax

    from dgm_jax.methods import with_method_settings
    from dgm_jax.runs import checkpoints
    from dgm_jax.runs.folder import Workdir
    from dgm_jax.runs.session import new_method

    folder = Workdir(workdir)
    folder.settle()
    restored = checkpoints.restore(folder.checkpoints, on_damage=_warn)
    if restored is None:
        raise NoMemory(f"{workdir} holds no checkpoint of {config.method}; run it first")
    method = new_method(with_method_settings(config), stream, jax.local_devices()[:1])
    return method, method.from_tree(restored.tree, restored.metadata, restored.metadata["record"]["finished_tasks"])


def _require_finished(after_task: int | None, n_tasks: int, path: Path) -> None:
    if after_task is not None and not 0 <= after_task < n_tasks:
        raise NoMemory(f"after_task={after_task}, but {path} has {n_tasks} finished tasks, from 0")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
