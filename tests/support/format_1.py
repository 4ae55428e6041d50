"""Checkpoints as earlier versions wrote them: a flat item `arrays`, packed masks, folders named by ten digits."""

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from orbax.checkpoint import v1 as ocp

from dgm_jax.runs import checkpoints
from dgm_jax.system import checkpoint, files


def save(folder: Path, tree: Any, metadata: dict[str, Any]) -> None:
    """Writes a checkpoint of format 1, in place of what is there."""
    arrays: dict[str, np.ndarray] = {}
    structure = _describe(tree, (), arrays)
    shutil.rmtree(folder, ignore_errors=True)
    if stored := {name: array for name, array in arrays.items() if array.size}:
        ocp.save(folder.absolute(), stored, checkpointable_name="arrays")
    else:
        folder.mkdir()
    content = {
        "format_version": 1,
        "step": int(folder.name),
        "metadata": metadata,
        "structure": structure,
        "leaves": {name: checkpoint._describe_leaf(array) for name, array in arrays.items()},
        "files": checkpoint._describe_files(folder),
    }
    files.write_json(folder / "checkpoint.json", checkpoint._seal(content))


def _describe(node: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if isinstance(node, dict):
        return {"dict": {key: _describe(child, (*path, key), arrays) for key, child in node.items()}}
    if isinstance(node, list):
        return {"list": [_describe(child, (*path, str(i)), arrays) for i, child in enumerate(node)]}
    name = "/".join(quote(key, safe=" ") for key in path)
    arrays[name] = np.asarray(node)
    return {"leaf": name}


def rewrite(directory: Path) -> None:
    """Gives a run's folder of checkpoints the content and the names that earlier versions would have given it."""
    found = [checkpoint.read(path.parent) for path in directory.glob("**/checkpoint.json")]
    shutil.rmtree(directory)
    directory.mkdir()
    for each in found:
        task, epochs_done = checkpoints.position(each)
        number = task * 1_000_000 + (epochs_done or -1)
        tree, metadata = each.tree, each.metadata
        if "memory" in metadata:
            tree = tree | {"memory": _packed(tree["memory"], metadata["memory"])}
        save(directory / f"{number:010d}", tree, metadata)


def _packed(memory: Any, plain: dict[str, Any]) -> Any:
    """The memory's arrays with 8 gates in a byte; adds the shapes of its masks to the plain values."""
    packed = memory | {"reserved": [np.packbits(mask) for mask in memory["reserved"]], "tasks": []}
    plain["mask_shapes"] = [list(mask.shape) for mask in memory["reserved"]]
    for own, facts in zip(memory["tasks"], plain["tasks"], strict=True):
        facts["mask_shapes"] = [list(mask.shape) for mask in own["masks"]]
        packed["tasks"].append(own | {"masks": [np.packbits(mask) for mask in own["masks"]]})
    return packed
