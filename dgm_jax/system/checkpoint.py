"""Checkpoints: Orbax writes the arrays; a sealed description beside them tells whether they come back as they were.

Orbax may restore a flipped byte silently and takes an empty folder for a checkpoint, hence the description:
`<step>/checkpoint.json` holds the nesting of the tree, the shape, dtype and SHA-256 of every leaf, the size and SHA-256
of every file, the caller's metadata, and a SHA-256 of itself. The folder is an ordinary Orbax checkpoint too:
`orbax.checkpoint.v1.load(folder)` gives a flat `{"generator/0/kernel": array}`.

One run at a time writes a directory (`files.RunLock`), the first of its processes; anyone may read it.
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
from orbax.checkpoint import v1 as ocp

from dgm_jax.errors import NewerFormat, UserError
from dgm_jax.system import files, processes
from dgm_jax.system.interruption import uninterrupted

FORMAT_VERSION = 1

Tree = Any  # nested dicts and lists, arrays at the leaves

_DESCRIPTION = "checkpoint.json"
_ARRAYS = "arrays"
_SLACK = 2**17  # Bytes for descriptions, at most.


class DamagedCheckpoint(UserError, RuntimeError):
    """No whole checkpoint where there should be one."""


class _Damage(Exception):
    """What is wrong with one step: which file or leaf, what was expected, what was found."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that came back whole.

    Attributes:
      step: its number.
      tree: dicts and lists nested as they were saved, NumPy arrays (on the host) at the leaves, bit for bit.
      metadata: the JSON that was saved with it.
    """

    step: int
    tree: Tree
    metadata: dict[str, Any]


def save(directory: files.PathLike, step: int, tree: Tree, metadata: dict[str, Any]) -> Path:
    """Writes `directory/<step>`, whole or not at all, in place of an older one of that number.

    In a run of several processes all call it with the same tree, for Orbax waits for all; only the first writes. Ctrl-C
    is held back until it is written.

    Args:
      directory: the folder of all steps, made if missing.
      step: at least 0.
      tree: dicts (with text keys) and lists, empty ones included, with NumPy or JAX arrays of any shape at the leaves.
        Random keys go in as `jax.random.key_data`; plain numbers and text belong in `metadata`.
      metadata: what JSON can hold; no NaN, no infinity.

    Returns:
      The folder of the step.

    Raises:
      TypeError: if a node is neither dict, list nor array, or `metadata` is not JSON; the text names the node.
      ValueError: if `step` is negative, or a number in `metadata` is NaN or infinite.
      OSError: if the disk is full or cannot be written; what was there before is untouched.
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
    _seal(content)  # refuses metadata that is not JSON before anything is written

    folder = _folder(directory, step)
    partial = folder.with_name(f".{folder.name}.partial")
    # Orbax writes in threads of its own: cut off, they would go on into a folder that is gone, and complain at length.
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
    """The steps with a complete-looking folder, ascending; what a killed save or delete left over is not among them."""
    return [step for step in _numbered(directory) if (_folder(directory, step) / _DESCRIPTION).is_file()]


def restore(
    directory: files.PathLike, step: int | None = None, *, on_damage: Callable[[str], None]
) -> Checkpoint | None:
    """Reads the newest whole checkpoint, or exactly `step`, and verifies every leaf of it.

    Args:
      directory: the folder of all steps.
      step: the one to read, without falling back; None reads the newest that is whole.
      on_damage: told of each damaged step that was passed over: which file or leaf, what was expected and found, and
        which step is used in its place.

    Returns:
      The checkpoint; None if `step` is None and there are no steps at all.

    Raises:
      DamagedCheckpoint: if there are steps but none is whole, or if the `step` asked for is damaged.
      FileNotFoundError: if there is no such `step`; the text lists those there are.
      NewerFormat: if a later version of this package wrote it: to pass over that one would lose work silently.
    """
    there = _numbered(directory)
    if step is not None:
        folder = _folder(directory, step)
        if step not in there:
            raise FileNotFoundError(f"there is no {folder}; the steps there are {steps(directory)}.")
        try:
            return _read(folder)
        except _Damage as damage:
            others = [other for other in steps(directory) if other != step]
            raise DamagedCheckpoint(f"{folder} is damaged: {damage}; other steps there are {others}.") from damage

    damaged: list[str] = []
    for candidate in reversed(there):
        folder = _folder(directory, candidate)
        try:
            checkpoint = _read(folder)
        except _Damage as damage:
            if not folder.exists():  # A live run has deleted it, and written a newer one, since the folder was listed.
                return restore(directory, on_damage=on_damage)
            damaged.append(f"{folder} is damaged: {damage}")
            continue
        for text in damaged:
            on_damage(f"{text}; step {candidate} is used in its place.")
        return checkpoint
    if damaged:
        raise DamagedCheckpoint(
            f"no whole checkpoint is left in {directory}; bring one back from a copy, or start in another folder:\n  "
            + "\n  ".join(damaged)
        )
    return None


def delete(directory: files.PathLike, step: int) -> None:
    """Removes a step.

    Args:
      directory: the folder of all steps.
      step: the one to remove.

    Raises:
      FileNotFoundError: if it is not there.
    """
    folder = _folder(directory, step)
    _sweep(folder.parent)
    folder.rename(folder.with_name(f".{folder.name}.deleted"))  # first of all, or a half-deleted one could look whole
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
        raise _Damage(f"{_DESCRIPTION}: expected step {int(folder.name)}, after the folder, found {content['step']}")
    # Before Orbax parses anything: it meets damage with any of a dozen errors, and tasks that complain long afterwards.
    try:
        damaged = _damaged_files(folder, content["files"])
    except OSError as error:
        raise _Damage(f"expected files that can be read, found {error}") from error
    if damaged:
        raise _Damage("; ".join(damaged))
    arrays = _load_arrays(folder, content["leaves"])
    for name, expected in content["leaves"].items():
        found = _describe_leaf(arrays[name])
        for what, value in expected.items():
            if found[what] != value:
                raise _Damage(f"leaf {name}: expected {what} {value}, found {found[what]}")
    return Checkpoint(content["step"], _rebuild(content["structure"], arrays), content["metadata"])


def _make_room(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    _sweep(directory)


def _complete(partial: Path, folder: Path, content: dict[str, Any]) -> None:
    """Describes the arrays that were saved, and gives their folder its name."""
    described = _seal({**content, "files": _describe_files(partial)})
    files.write_json(partial / _DESCRIPTION, described)
    _sync_tree(partial)
    if folder.exists():  # no folder can be renamed onto a full one; killed between the two, the step before serves
        folder.rename(folder.with_name(f".{folder.name}.deleted"))
    partial.rename(folder)
    files.sync(folder.parent)


def _save_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    # Orbax refuses arrays of size zero, and trees without arrays; their shape and dtype say all there is to say.
    stored = {name: array for name, array in arrays.items() if array.size}
    if not stored:
        processes.on_first(folder.mkdir)
        return
    processes.on_first(_require_room, folder, sum(array.nbytes for array in stored.values()))
    # Its check of the folder's name speaks to every process, whichever are said to be active: all must be here.
    try:
        with _quiet():
            ocp.save(folder.absolute(), stored, checkpointable_name=_ARRAYS)
    except ValueError as error:  # What its C++ says of a disk that is full, or gone.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error


def _require_room(folder: Path, size: int) -> None:
    """Refuses a disk that is about to be full: where Orbax meets it, its threads complain at length."""
    disk = os.statvfs(folder.parent)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < 2 * size + _SLACK:  # It writes all twice; some say nothing.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _load_arrays(folder: Path, leaves: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    arrays = {name: np.zeros(leaf["shape"], leaf["dtype"]) for name, leaf in leaves.items() if 0 in leaf["shape"]}
    stored = [name for name in leaves if name not in arrays]
    if not stored:
        return arrays
    try:
        with _quiet(), _alone():  # np.ndarray: what it restores stays on the host, in the dtype that is in the file
            return arrays | ocp.load(folder.absolute(), dict.fromkeys(stored, np.ndarray), checkpointable_name=_ARRAYS)
    except Exception as error:  # the files are whole: another version of Orbax, or an array that someone took out
        raise _Damage(f"{_ARRAYS}: Orbax cannot read what it wrote ({type(error).__name__}: {error})") from error


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


def _damaged_files(folder: Path, expected: dict[str, dict[str, Any]]) -> list[str]:
    found = _describe_files(folder)
    damaged = []
    for name, facts in expected.items():
        if name not in found:
            damaged.append(f"{name}: expected {facts['bytes']} bytes, found no file")
            continue
        differ = [what for what in facts if found[name][what] != facts[what]]
        if differ:
            damaged.append(f"{name}: expected {differ[0]} {facts[differ[0]]}, found {found[name][differ[0]]}")
    return damaged


def _describe(node: Tree, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The nesting of a tree as JSON; the leaves go into `arrays`, by names that no two of them can share."""
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
    """The description as JSON will give it back (text for every key, lists for tuples), with its digest."""
    try:
        content = json.loads(json.dumps(content, allow_nan=False))
    except ValueError as error:
        raise ValueError(f"metadata: {error}; save None, or text, in place of NaN and infinity.") from error
    return {**content, "sha256": _digest_json(content)}


def _unseal(path: Path) -> dict[str, Any]:
    """The description without its seal. Later formats must keep the seal, or damage could pass for a newer version."""
    try:
        text = path.read_bytes()
        content = json.loads(text)
        # Two texts can mean the same: a digit that is one too many for a float may be any.
        if text != files.to_json(content).encode():
            raise ValueError("a text that is not in the form in which it was written")
        expected = content.pop("sha256")
        found = _digest_json(content)
    except FileNotFoundError:
        raise _Damage(f"{path.name}: expected a description, found no file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Damage(f"{path.name}: expected a description, found {type(error).__name__}: {error}") from error
    if found != expected:
        raise _Damage(f"{path.name}: expected sha256 {expected}, found {found}")
    return content


def _digest_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _folder(directory: files.PathLike, step: int) -> Path:
    return Path(directory) / f"{step:010d}"


def _numbered(directory: files.PathLike) -> list[int]:
    """All steps with a folder, complete-looking or not, ascending."""
    if not Path(directory).is_dir():
        return []
    return sorted(int(p.name) for p in Path(directory).iterdir() if re.fullmatch(r"[0-9]{10,}", p.name) and p.is_dir())


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            files.sync(path)


def _sweep(directory: Path) -> None:
    """Removes what a killed save or delete left over, Orbax's own temporary folders included."""
    for pattern in (".*.partial*", ".*.deleted"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _alone() -> ocp.Context:
    """Lets a process read without waiting for the others of its run, which may not read at all."""
    context = ocp.Context()
    own = jax.process_index()
    context.multiprocessing.primary_host = own
    context.multiprocessing.active_processes = {own}
    context.multiprocessing.barrier_sync_key_prefix = f"process_{own}"
    return context


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from telling, in some forty lines a save, how it is doing."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)
