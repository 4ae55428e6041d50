"""The door to use what a run has learnt: its memory, its classifier, its method."""

import warnings
from pathlib import Path


def load_memory(path: str | Path, *, after_task: int | None = None) -> Memory:
    """Loads a memory; needs no training code and no special device.

    Args:
      path: the folder of a run, finished or not, or a file that `python -m dgm_jax export` wrote, which needs no other
        packages than jax and numpy.
      after_task: the memory as it was after this task (0 is the first); None: the newest.

    Raises:
      NoMemory: if there is no memory, or none of that task; a baseline's run has none.
      DamagedMemoryFile, DamagedCheckpoint, NewerFormat: if what is there cannot be read.
    """
    path = Path(path)
    if path.is_file():
        from dgm_jax.memory import file as memory_file  # It knows this module.

        memory = memory_file.read(path)
    elif path.is_dir():
        memory = _of_run(Workdir(path))
    else:
        raise NoMemory(f"{path} is not there; expected the workdir of a run, or a file that was exported from one")
    if after_task is not None and not 0 <= after_task < len(memory.tasks):
        raise NoMemory(f"after_task={after_task}, but {path} has {len(memory.tasks)} finished tasks, from 0")
    return memory if after_task is None else memory.as_of(after_task + 1)

def _of_run(folder: Workdir) -> Memory:
    from dgm_jax.system import checkpoint  # Here, because an exported file is read without Orbax.

    restored = checkpoint.restore(folder.checkpoints, on_damage=_warn) if folder.checkpoints.is_dir() else None
    if restored is None and folder.seeds():
        raise NoMemory(f"{folder.path} holds the runs of several seeds; choose one: {', '.join(folder.seeds())}")
    if restored is None:
        raise NoMemory(f"{folder.path} holds no checkpoint yet; expected the workdir of a run with a finished task")
    if "memory" not in restored.tree:
        raise NoMemory(f"{folder.path} is the run of a baseline; only dgm's memory can be drawn from")
    memory = Memory.from_tree(restored.tree["memory"], restored.metadata["memory"])
    if not memory.tasks:
        raise NoMemory(f"{folder.path} has not finished its first task yet; go on with the run")
    return memory.as_of(len(memory.tasks))  # Without the classes of tasks that are still to come.

def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


READINGS = ("consolidated", "auxiliary")

def load_classifier(workdir: str | Path, *, reading: str = "consolidated") -> Classifier:
    """Loads the classifier of all classes that a run of DGM has learnt so far.

    Args:
      workdir: the folder of the run, finished or not.
      reading: "consolidated", which learnt from images that the memory drew, or "auxiliary", the paper's.

    Raises:
      NoMemory: if there is none yet, or the run is a baseline's.
      UserError: if `reading` is unknown, or what is there cannot be read.
    """
    if reading not in READINGS:
        raise UserError(f"reading={reading!r} is unknown; choose one of {', '.join(READINGS)}")
    folder = Workdir(workdir)
    if not folder.path.is_dir():
        raise NoMemory(f"{folder.path} is not a folder; expected the workdir of a run")
    if folder.seeds() and not folder.config.exists():
        raise NoMemory(f"{folder.path} holds the runs of several seeds; choose one: {', '.join(folder.seeds())}")
    restored = _newest_finished(folder)
    if restored is None:
        raise NoMemory(f"{folder.path} has no classifier; expected the workdir of a run of dgm with a finished task")
    own = restored.tree[{"consolidated": "classifier", "auxiliary": "auxiliary"}[reading]]
    config, memory = folder.read_config(), restored.metadata["memory"]
    network = memory.get("network", "dcgan")
    if reading == "consolidated":
        network = config["config"].get("consolidation_network") or network
    known = sum(len(task["classes"]) for task in memory["tasks"])
    return Classifier(
        params=own["params"],
        statistics=own["statistics"],
        network=network,
        image_shape=tuple(config["stream"]["image_shape"]),
        n_outputs=len(own["params"]["classifier"]["bias"]),
        labels=tuple(memory["labels"][:known]),
        names=tuple(memory["names"][:known]),
    )

def _newest_finished(folder: Workdir) -> checkpoint.Checkpoint | None:
    """Of a task in progress there are checkpoints without a classifier; that of the task before it lies beside them."""
    for step in reversed(checkpoint.steps(folder.checkpoints)):
        try:
            restored = checkpoint.restore(folder.checkpoints, step, on_damage=warnings.warn)
        except FileNotFoundError:  # A live run has just deleted it.
            continue
        except checkpoint.DamagedCheckpoint as error:
            warnings.warn(f"{error} The classifier is that of an earlier task.", stacklevel=3)
            continue
        if restored is not None and "classifier" in restored.tree:
            return restored
    return None


def load_method(config: Config, stream: TaskStream, workdir: str | Path) -> Method:
    """A baseline as its run left it after the last finished task.

    Raises:
      NoMemory: if the folder has no checkpoint.
    """
    folder = Workdir(workdir)
    restored = checkpoint.restore(folder.checkpoints, on_damage=lambda _: None) if folder.path.is_dir() else None
    if restored is None:
        raise NoMemory(f"{folder.path} holds no checkpoint of {config.method}; run it first")
    method = _new_method(config, stream, jax.local_devices()[:1], "pmap")
    method.restore(restored.tree, restored.metadata["record"]["finished_tasks"])
    return method
