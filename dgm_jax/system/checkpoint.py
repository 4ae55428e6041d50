"""Checkpoints: Orbax writes the arrays, and a description with checksums beside them shows whether they are intact.

A checkpoint is one folder, as Orbax itself writes it: its item `state` is the tree, nested as it was saved, and its
custom metadata are the caller's. Orbax can restore a flipped byte without an error, and it accepts an empty folder as a
checkpoint. Therefore `checkpoint.json` beside the arrays holds the shape, dtype and SHA-256 of every array, the size
and SHA-256 of every file, the metadata, and a SHA-256 of itself.

Only one run at a time writes to a folder (`lock.RunLock`), and only its first process; anyone may read it.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dgm_jax.errors import NewerFormat, UserError, naming_extras
from dgm_jax.system import files, processes
from dgm_jax.system.interruption import uninterrupted

with naming_extras():
    from orbax.checkpoint import v1 as ocp

FORMAT_VERSION = 2

Tree = Any  # Nested dicts and lists with arrays at the leaves.

_DESCRIPTION = "checkpoint.json"
_STATE = "state"  # The item that Orbax's readers expect if none is named.


class DamagedCheckpoint(UserError, RuntimeError):
    """A checkpoint is damaged; the message says which file or array, what was expected and what was found."""


class UnreadableCheckpoint(UserError, RuntimeError):
    """A checkpoint is intact, but this environment cannot read it."""


class _Damage(Exception):
    """What is damaged in a folder."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    The tree has NumPy arrays (on the host) at its leaves, equal bit for bit to those that were saved.
    """

    folder: Path
    tree: Tree
    metadata: dict[str, Any]


def save(folder: files.PathLike, tree: Tree, metadata: dict[str, Any]) -> None:
    """Writes a checkpoint atomically, and replaces an older one in this folder.

    In a run of several processes, all must call this with the same tree, because Orbax waits for all of them; only the
    first process writes. Ctrl-C takes effect after the checkpoint is written.

    Args:
      folder: to be made; those above it are created if they are missing.
      tree: a nested dict or list, not empty, with NumPy or JAX arrays of any shape at the leaves; the keys of a dict
        are text without "." and "/". Save a random key as `jax.random.key_data(key)`; plain numbers and text belong in
        `metadata`.
      metadata: values that JSON can hold; no NaN, no infinity.

    Raises:
      TypeError: if a node is not a dict, a list or an array (the message names it), or `metadata` is not JSON.
      ValueError: if the tree is empty, a key has a "." or "/", or a number in `metadata` is NaN or infinite.
      OSError: if the disk is full or cannot be written; other checkpoints are unchanged.
    """
    folder = Path(folder)
    arrays = _flatten(tree)
    content = {
        "format_version": FORMAT_VERSION,
        "metadata": metadata,
        "leaves": {name: _describe_leaf(array) for name, array in arrays.items()},
    }
    metadata = _seal(content)["metadata"]  # Raises now, before anything is written, if metadata is not JSON.
    # Orbax refuses arrays without numbers, and keeps None. Their shapes and dtypes are in the description.
    stored = jax.tree.unflatten(jax.tree.structure(tree), [array if array.size else None for array in arrays.values()])

    partial = folder.with_name(f".{folder.name}.partial")
    # Orbax writes in background threads. Interrupted, they would write on to a deleted folder and log many errors.
    with uninterrupted():
        processes.on_first(_make_room, partial, sum(array.nbytes for array in arrays.values()))
        try:
            _save_arrays(partial, stored, metadata)
            processes.on_first(_complete, partial, folder, content)
        finally:
            if processes.is_first():
                _sweep(folder.parent)


def read(folder: files.PathLike) -> Checkpoint:
    """Reads a checkpoint and verifies every array.

    Raises:
      DamagedCheckpoint: if anything in the folder is not what was written, or is missing.
      NewerFormat: if a later version of this package wrote it.
      UnreadableCheckpoint, OSError, MemoryError: if it cannot be read although its checksums do not differ.
    """
    folder = Path(folder)
    try:
        return _read(folder)
    except _Damage as damage:
        raise DamagedCheckpoint(f"{folder} is damaged: {damage}") from damage


def is_described(folder: files.PathLike) -> bool:
    """Whether the folder has a description; an empty folder, or what another program wrote, has none."""
    return (Path(folder) / _DESCRIPTION).is_file()


def delete(folder: files.PathLike) -> None:
    """Deletes a checkpoint, or a folder of checkpoints.

    Raises:
      FileNotFoundError: if there is no such folder.
    """
    folder = Path(folder)
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
    if content["format_version"] == 1:
        tree, arrays = _load_format_1(folder, content)
    else:
        tree, arrays = _load_arrays(folder, content["leaves"])
    if arrays.keys() != content["leaves"].keys():
        raise _Damage(f"expected the arrays {list(content['leaves'])}, found {list(arrays)}")
    for name, facts in content["leaves"].items():
        if damaged := _differences(f"leaf {name}", facts, _describe_leaf(arrays[name])):
            raise _Damage(damaged[0])
    return Checkpoint(folder, tree, content["metadata"])


def _make_room(partial: Path, size: int) -> None:
    """Makes the folder above, removes remains, and raises OSError if the disk has too little space.

    If Orbax runs out of space, its threads log many errors.
    """
    files.make_folder(partial.parent)
    _sweep(partial.parent)
    disk = os.statvfs(partial.parent)
    needed = 2 * size + 2**17  # Orbax writes twice the size; descriptions have less than 2^17 bytes.
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < needed:  # Without f_blocks the space is unknown.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))


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


def _save_arrays(folder: Path, stored: Tree, metadata: dict[str, Any]) -> None:
    # All processes must make this call: Orbax synchronises them when it checks the name of the folder.
    try:
        with _quiet():
            ocp.save(folder.absolute(), stored, checkpointable_name=_STATE, custom_metadata=metadata)
    except ValueError as error:  # The C++ code of Orbax raises it if the disk is full or missing.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error


def _load_arrays(folder: Path, leaves: dict[str, dict[str, Any]]) -> tuple[Tree, dict[str, np.ndarray]]:
    """The tree of a folder, and its arrays by name; Orbax has None for arrays without numbers."""
    found, structure = jax.tree.flatten_with_path(_load(folder, _STATE), is_leaf=lambda node: node is None)
    arrays = {}
    for path, array in found:
        name = _name(path)
        if array is None:
            facts = leaves.get(name, {"shape": None})
            if 0 not in (facts["shape"] or ()):
                raise _Damage(f"leaf {name}: expected shape {facts['shape']}, found nothing")
            array = np.zeros(facts["shape"], facts["dtype"])
        arrays[name] = array
    return jax.tree.unflatten(structure, arrays.values()), arrays


def _load(folder: Path, item: str) -> Tree:
    """What Orbax reads: NumPy arrays, as they were saved, on the host."""
    processes.require_device()
    try:
        with _quiet(), _without_other_processes():
            return ocp.load(folder.absolute(), checkpointable_name=item)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # For example, Orbax has another version.
        raise UnreadableCheckpoint(
            f"{folder} is intact, but Orbax cannot read it here ({type(error).__name__}: {error})"
        ) from error


def _load_format_1(folder: Path, content: dict[str, Any]) -> tuple[Tree, dict[str, np.ndarray]]:
    """As `_load_arrays`: in format 1, Orbax has a flat dict without empty arrays, and the description the nesting."""
    leaves = content["leaves"]
    empty = {name: np.zeros(leaf["shape"], leaf["dtype"]) for name, leaf in leaves.items() if 0 in leaf["shape"]}
    arrays = empty if len(empty) == len(leaves) else empty | _load(folder, "arrays")

    def rebuilt(structure: dict[str, Any]) -> Tree:
        ((kind, value),) = structure.items()
        if kind == "dict":
            return {key: rebuilt(child) for key, child in value.items()}
        return [rebuilt(child) for child in value] if kind == "list" else arrays[value]

    return rebuilt(content["structure"]), arrays


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


def _flatten(tree: Tree) -> dict[str, np.ndarray]:
    """The arrays of a tree by name, in the order of its leaves; raises an error that names what is not to be saved."""
    if type(tree) not in (dict, list):
        raise TypeError(f"the tree: expected a dict, a list or an array, got {type(tree).__name__}.")
    if not tree:
        raise ValueError("the tree is empty; a checkpoint needs an array.")
    arrays = {}
    # Empty dicts and lists are leaves here, so that the keys on the way to them are checked as well.
    for path, node in jax.tree.leaves_with_path(tree, is_leaf=lambda node: type(node) not in (dict, list) or not node):
        name = _name(path)
        for key in (entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)):
            if not isinstance(key, str):
                raise TypeError(f"{name}: the keys of a dict must be text, got {key!r}.")
            if "." in key or "/" in key:  # For Orbax, "a.b" is b below a.
                raise ValueError(f"{name}: the keys of a dict must not hold '.' or '/', got {key!r}.")
        if type(node) not in (dict, list):
            arrays[name] = _as_array(name, node)
    return arrays


def _as_array(name: str, node: Any) -> np.ndarray:
    if isinstance(node, jax.Array) and jax.dtypes.issubdtype(node.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name}: a random key is saved as its data; pass jax.random.key_data(key).")
    if not isinstance(node, np.ndarray | np.generic | jax.Array):
        raise TypeError(f"{name}: expected a dict, a list or an array, got {type(node).__name__}.")
    array = np.asarray(node, order="C")
    if not (array.dtype.isnative and (array.dtype.kind in "biufc" or array.dtype == jax.numpy.bfloat16)):
        raise TypeError(f"{name}: arrays of dtype {array.dtype} are not saved.")
    return array


def _name(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


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
