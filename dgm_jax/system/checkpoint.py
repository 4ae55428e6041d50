"""Checkpoints: Orbax writes the arrays, and a description with checksums beside them shows whether they are intact.

Orbax can restore a flipped byte without an error, and it accepts an empty folder as a checkpoint. Therefore
`<step>/checkpoint.json` holds the nesting of the tree, the shape, dtype and SHA-256 of every leaf, the size and SHA-256
of every file, the caller's metadata, and a SHA-256 of itself. The folder is an ordinary Orbax checkpoint, too:
`orbax.checkpoint.v1.load(folder)` gives a flat `{"generator/0/kernel": array}`.

Only one run at a time writes to a directory (`lock.RunLock`), and only its first process; anyone may read it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import numpy as np

from dgm_jax.errors import NewerFormat, UserError, naming_extras
from dgm_jax.system import files, processes
from dgm_jax.system.interruption import uninterrupted

with naming_extras():
    from orbax.checkpoint import v1 as ocp

FORMAT_VERSION = 1

Tree = Any  # Nested dicts and lists with arrays at the leaves.

_DESCRIPTION = "checkpoint.json"
_ARRAYS = "arrays"


class DamagedCheckpoint(UserError, RuntimeError):
    """A checkpoint is damaged, and no intact one can replace it."""


class UnreadableCheckpoint(UserError, RuntimeError):
    """A checkpoint is intact, but this environment cannot read it."""


class _Damage(Exception):
    """One step is damaged; the message says which file or leaf, what was expected and what was found."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    The tree has NumPy arrays (on the host) at its leaves, equal bit for bit to those that were saved.
    """

    step: int
    tree: Tree
    metadata: dict[str, Any]


def save(directory: files.PathLike, step: int, tree: Tree, metadata: dict[str, Any]) -> Path:
    """Writes `directory/<step>` atomically, and replaces an older checkpoint with the same number.

    In a run of several processes, all must call this with the same tree, because Orbax waits for all of them; only the
    first process writes. Ctrl-C takes effect after the checkpoint is written.

    Args:
      directory: the folder of all steps, created if it is missing.
      step: number of the checkpoint, at least 0.
      tree: nested dicts (with text keys) and lists, which may be empty, with NumPy or JAX arrays of any shape at the
        leaves. Save a random key as `jax.random.key_data(key)`; plain numbers and text belong in `metadata`.
      metadata: values that JSON can hold; no NaN, no infinity.

    Returns:
      The folder of the step.

    Raises:
      TypeError: if a node is not a dict, a list or an array (the message names it), or `metadata` is not JSON.
      ValueError: if `step` is negative, or a number in `metadata` is NaN or infinite.
      OSError: if the disk is full or cannot be written; earlier checkpoints are unchanged.
    """
    if step < 0:
        raise ValueError(f"step={step} must be at least 0.")
    arrays: dict[str, np.ndarray] = {}
    content = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "metadata": metadata,
        "structure": _describe(tree, (), arrays),
        "leaves": {name: _describe_leaf(array) for name, array in arrays.items()},
    }
    _seal(content)  # Raises now, before anything is written, if metadata is not JSON.

    folder = _folder(directory, step)
    partial = folder.with_name(f".{folder.name}.partial")
    # Orbax writes in background threads. Interrupted, they would write on to a deleted folder and log many errors.
    with uninterrupted():
        processes.on_first(_make_room, folder.parent)
        try:
            _save_arrays(partial, arrays)
            processes.on_first(_complete, partial, folder, content)
        finally:
            if processes.is_first():
                _sweep(folder.parent)
    return folder


def steps(directory: files.PathLike) -> list[int]:
    """The steps whose folder has a description, ascending; remains of a killed `save` or `delete` are not listed."""
    return [step for step in _numbered(directory) if (_folder(directory, step) / _DESCRIPTION).is_file()]


def restore(
    directory: files.PathLike, step: int | None = None, *, on_damage: Callable[[str], None]
) -> Checkpoint | None:
    """Reads the newest intact checkpoint, or exactly `step`, and verifies every leaf.

    Args:
      directory: the folder of all steps.
      step: the step to read, without fallback; None reads the newest intact one.
      on_damage: called with a message for each damaged step that is skipped: which file or leaf, what was expected and
        found, and which step is used instead.

    Returns:
      The checkpoint; None if `step` is None and there are no steps.

    Raises:
      DamagedCheckpoint: if there are steps but none is intact, or if `step` is damaged.
      FileNotFoundError: if there is no such `step`; the message lists the existing ones.
      NewerFormat: if a later version of this package wrote it; skipping it would lose work without notice.
      UnreadableCheckpoint, OSError, MemoryError: if a step cannot be read although its checksums do not differ; an
        older one would lose work, too.
    """
    there = _numbered(directory)
    if step is not None and step not in there:
        raise FileNotFoundError(f"there is no {_folder(directory, step)}; the existing steps are {steps(directory)}.")
    damaged: list[str] = []
    for candidate in reversed(there) if step is None else [step]:
        folder = _folder(directory, candidate)
        try:
            checkpoint = _read(folder)
        except _Damage as damage:
            if step is None and not folder.exists():  # Since it was listed, a running process has replaced it.
                return restore(directory, on_damage=on_damage)
            damaged.append(f"{folder} is damaged: {damage}")
            continue
        for text in damaged:
            on_damage(f"{text}; step {candidate} is used instead.")
        return checkpoint
    if step is not None:
        others = [other for other in steps(directory) if other != step]
        raise DamagedCheckpoint(f"{damaged[0]}; the other existing steps are {others}.")
    if damaged:
        raise DamagedCheckpoint(
            f"no intact checkpoint is left in {directory}; restore one from a backup, or start in another folder:\n  "
            + "\n  ".join(damaged)
        )
    return None


def delete(directory: files.PathLike, step: int) -> None:
    """Deletes a step.

    Raises:
      FileNotFoundError: if there is no such step.
    """
    folder = _folder(directory, step)
    _sweep(folder.parent)
    # Renamed first, so that a half-deleted one is not taken for a checkpoint.
    folder.rename(folder.with_name(f".{folder.name}.deleted"))
    files.sync(folder.parent)
    _sweep(folder.parent)


def _read(folder: Path) -> Checkpoint:
    content = _unseal(folder / _DESCRIPTION)
    if content["format_version"] > FORMAT_VERSION:
        raise NewerFormat(
            f"{folder} has format version {content['format_version']}, this dgm_jax reads up to {FORMAT_VERSION}; "
            "upgrade dgm_jax."
        )
    if content["step"] != int(folder.name):
        raise _Damage(f"{_DESCRIPTION}: expected step {int(folder.name)}, as the folder says, found {content['step']}")
    # Checked before Orbax parses anything: for damaged files it raises a dozen kinds of errors, some in later tasks.
    try:
        found = _describe_files(folder)
    except FileNotFoundError as error:  # A running process replaces it.
        raise _Damage(f"expected files that stay, found {error}") from error
    damaged = []
    for name, facts in content["files"].items():
        if name in found:
            damaged += _differences(name, facts, found[name])[:1]
        else:
            damaged.append(f"{name}: expected {facts['bytes']} bytes, found no file")
    if damaged:
        raise _Damage("; ".join(damaged))
    arrays = _load_arrays(folder, content["leaves"])
    for name, facts in content["leaves"].items():
        if damaged := _differences(f"leaf {name}", facts, _describe_leaf(arrays[name])):
            raise _Damage(damaged[0])
    return Checkpoint(content["step"], _rebuild(content["structure"], arrays), content["metadata"])


def _make_room(directory: Path) -> None:
    files.make_folder(directory)
    _sweep(directory)


def _complete(partial: Path, folder: Path, content: dict[str, Any]) -> None:
    """Writes the description of the saved arrays, then gives the folder its final name."""
    described = _seal({**content, "files": _describe_files(partial)})
    files.write_json(partial / _DESCRIPTION, described)
    for path in (*partial.rglob("*"), partial):
        files.sync(path)
    if folder.exists():  # A rename cannot replace a folder. If killed between the two, the step before is used.
        folder.rename(folder.with_name(f".{folder.name}.deleted"))
    partial.rename(folder)
    files.sync(folder.parent)


def _save_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    # Orbax refuses empty arrays and trees without arrays. The description has their shapes and dtypes, which suffices.
    stored = {name: array for name, array in arrays.items() if array.size}
    if not stored:
        processes.on_first(folder.mkdir)
        return
    processes.on_first(_require_room, folder, sum(array.nbytes for array in stored.values()))
    # All processes must make this call: Orbax synchronises them when it checks the name of the folder.
    try:
        with _quiet():
            ocp.save(folder.absolute(), stored, checkpointable_name=_ARRAYS)
    except ValueError as error:  # The C++ code of Orbax raises it if the disk is full or missing.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error


def _require_room(folder: Path, size: int) -> None:
    """Raises OSError if the disk has too little space. If Orbax runs out of space, its threads log many errors."""
    disk = os.statvfs(folder.parent)
    needed = 2 * size + 2**17  # Orbax writes twice the size; descriptions have less than 2^17 bytes.
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < needed:  # Without f_blocks the space is unknown.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _load_arrays(folder: Path, leaves: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    arrays = {name: np.zeros(leaf["shape"], leaf["dtype"]) for name, leaf in leaves.items() if 0 in leaf["shape"]}
    stored = [name for name in leaves if name not in arrays]
    if not stored:
        return arrays
    processes.require_device()
    try:
        with _quiet(), _without_other_processes():  # np.ndarray keeps arrays on the host, in the dtype of the file.
            return arrays | ocp.load(folder.absolute(), dict.fromkeys(stored, np.ndarray), checkpointable_name=_ARRAYS)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # For example, Orbax has another version.
        raise UnreadableCheckpoint(
            f"{folder} is intact, but Orbax cannot read it here ({type(error).__name__}: {error})"
        ) from error


def _describe_leaf(array: np.ndarray) -> dict[str, Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    content = flat.view(np.uint8).data if flat.size else b""
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": hashlib.sha256(content).hexdigest()}


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    described = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        described[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return described


def _differences(name: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [f"{name}: expected {what} {e}, found {found[what]}" for what, e in expected.items() if found[what] != e]


def _describe(node: Tree, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the nesting of a tree as JSON, and adds the leaves to `arrays` under unique names."""
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise TypeError(f"{_name(path) or 'the tree'}: the keys of a dict must be text, got {list(node)}.")
        return {"dict": {key: _describe(child, (*path, key), arrays) for key, child in node.items()}}
    if isinstance(node, list):
        return {"list": [_describe(child, (*path, str(i)), arrays) for i, child in enumerate(node)]}
    if isinstance(node, jax.Array) and jax.dtypes.issubdtype(node.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{_name(path)}: a random key is saved as its data; pass jax.random.key_data(key).")
    if not (path and isinstance(node, np.ndarray | np.generic | jax.Array)):
        raise TypeError(f"{_name(path) or 'the tree'}: expected a dict, a list or an array, got {type(node).__name__}.")
    array = np.asarray(node, order="C")
    if not (array.dtype.isnative and (array.dtype.kind in "biufc" or array.dtype == jax.numpy.bfloat16)):
        raise TypeError(f"{_name(path)}: arrays of dtype {array.dtype} are not saved.")
    arrays[_name(path)] = array
    return {"leaf": _name(path)}


def _rebuild(structure: dict[str, Any], arrays: dict[str, np.ndarray]) -> Tree:
    ((kind, value),) = structure.items()
    if kind == "dict":
        return {key: _rebuild(child, arrays) for key, child in value.items()}
    if kind == "list":
        return [_rebuild(child, arrays) for child in value]
    return arrays[value]


def _name(path: tuple[str, ...]) -> str:
    return "/".join(quote(key, safe=" ") for key in path)


def _seal(content: dict[str, Any]) -> dict[str, Any]:
    """The description as reading JSON returns it (text keys, lists instead of tuples), with its digest added."""
    try:
        content = json.loads(json.dumps(content, allow_nan=False))
    except ValueError as error:
        raise ValueError(f"metadata: {error}; save None or text instead of NaN and infinity.") from error
    return {**content, "sha256": _digest_json(content)}


def _unseal(path: Path) -> dict[str, Any]:
    """The description without its digest. Later formats must keep it, so that damage never looks like a new version."""
    try:
        text = path.read_bytes()
        content = json.loads(text)
        # Different texts can have the same meaning (a float may have superfluous digits); only one is accepted.
        if text != files.to_json(content).encode():
            raise ValueError("a text that differs from the way it was written")
        expected = content.pop("sha256")
        found = _digest_json(content)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise _Damage(f"{path.name}: expected a description, found no file") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Damage(f"{path.name}: expected a description, found {type(error).__name__}: {error}") from error
    if found != expected:
        raise _Damage(f"{path.name}: expected sha256 {expected}, found {found}")
    return content


def _digest_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _folder(directory: files.PathLike, step: int) -> Path:
    return Path(directory) / f"{step:010d}"


def _numbered(directory: files.PathLike) -> list[int]:
    """All steps that have a folder, with or without a description, ascending."""
    if not Path(directory).is_dir():
        return []
    return sorted(int(p.name) for p in Path(directory).iterdir() if re.fullmatch(r"[0-9]{10,}", p.name) and p.is_dir())


def _sweep(directory: Path) -> None:
    """Deletes what a killed `save` or `delete` left behind, including temporary folders of Orbax."""
    for pattern in (".*.partial*", ".*.deleted"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _without_other_processes() -> ocp.Context:
    """Lets a process read without waiting for the other processes of its run, which perhaps do not read."""
    context = ocp.Context()
    this_process = jax.process_index()
    context.multiprocessing.primary_host = this_process
    context.multiprocessing.active_processes = {this_process}
    context.multiprocessing.barrier_sync_key_prefix = f"process_{this_process}"
    return context


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the log messages of Orbax below warnings: about forty lines per save."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)
