"""A memory, a classifier or both in one file: an ordinary safetensors file (docs/formats.md)."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dgm_jax.errors import NewerFormat, UserError
from dgm_jax.memory import classifier_section, memory_section, old_file
from dgm_jax.memory.classifier import Classifier, Predicting, require_network
from dgm_jax.memory.container import DamagedMemoryFile, Section, is_ours, pack, unpack
from dgm_jax.memory.memory import Memory
from dgm_jax.system import files

_LARGEST = 2**31  # The most bytes of a file.


class Contents(NamedTuple):
    """What a file holds."""

    memory: Memory | None = None
    classifier: Classifier | None = None


def write(
    path: files.PathLike, memory: Memory | None = None, classifier: Predicting | None = None, *, note: str = ""
) -> int:
    """Writes a memory, a classifier or both into one file, whole or not at all; the same ones give the same bytes.

    Args:
      path: the file.
      memory: what draws images.
      classifier: what predicts their classes.
      note: a text that the file carries, such as where it comes from and its licence.

    Returns:
      Bytes of the file.

    Raises:
      ValueError: if there is neither a memory nor a classifier.
      UserError: if the classifier is not a network alone.
      OSError: if it cannot be written; an older file is then untouched.
    """
    content = encode(memory, classifier, note=note)
    files.write_atomically(path, content)
    return len(content)


def encode(memory: Memory | None = None, classifier: Predicting | None = None, *, note: str = "") -> bytes:
    """The bytes that `write` writes."""
    sections = {}
    if memory is not None:
        sections["memory"] = memory_section.encode(memory)
        if any(task.conditions is not None for task in memory.tasks):
            sections["noise_entries"] = memory_section.encode_entries(memory)
        if memory.has_modes:
            sections["images_of_modes"] = memory_section.encode_modes(memory)
    if classifier is not None:
        network = require_network(classifier)
        sections["classifier"] = classifier_section.encode(network)
        if network.temperature != 1 or network.threshold is not None:
            sections["confidence"] = classifier_section.encode_confidence(network)
    if not sections:
        raise ValueError("there is nothing to write; give a memory, a classifier or both")
    if note:  # For people: `decode` passes over it.
        sections["note"] = Section({"optional": True, "text": note}, {})
    return pack(sections)


def read(path: files.PathLike) -> Contents:
    """Reads what `write` wrote. The memory draws, and the classifier scores, bit for bit what the exported ones do.

    Raises:
      DamagedMemoryFile: if anything in the file is not as it was written; the text says what.
      NewerFormat: if a later version of this package wrote it.
      OSError: if it cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > _LARGEST:
        raise DamagedMemoryFile(f"{path} has {size:,} bytes; an exported file has at most {_LARGEST:,}")
    try:
        return decode(path.read_bytes())
    except DamagedMemoryFile as error:
        raise DamagedMemoryFile(f"{path} is no whole exported file: {error}; export it again") from error
    except NewerFormat as error:
        raise NewerFormat(f"{path} {error}") from error


def decode(content: bytes) -> Contents:
    """Undoes `encode`; raises what `read` does."""
    if content.startswith(old_file.MAGIC):
        return Contents(memory=old_file.decode(content))
    sections = unpack(content, ("memory", "noise_entries", "images_of_modes", "classifier", "confidence"))
    memory, classifier = sections.get("memory"), sections.get("classifier")
    if classifier is None and "confidence" in sections:
        raise DamagedMemoryFile("it holds a section 'confidence' and no classifier")
    if memory is None and classifier is None:
        raise DamagedMemoryFile("it holds neither a memory nor a classifier")
    return Contents(
        None
        if memory is None
        else memory_section.decode(memory, sections.get("noise_entries"), sections.get("images_of_modes")),
        None if classifier is None else classifier_section.decode(classifier, sections.get("confidence")),
    )


def labels_in(path: Path) -> frozenset[int]:
    """The labels of the classes that an exported file draws or predicts; none if it is another file, or damaged.

    A program (`--to stablehlo`) does not say what it is, and counts as another file.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    try:
        if is_ours(start) or start.startswith(old_file.MAGIC):
            contents = read(path)
            return frozenset(label for one in contents if one is not None for label in one.labels)
        if start.startswith(b"PK"):
            with np.load(path, allow_pickle=False) as arrays:
                if {"labels", "noise_dim", "task_0_heads"} <= set(arrays.files):
                    return frozenset(arrays["labels"].tolist())
    except (UserError, ValueError, zipfile.BadZipFile, EOFError):
        pass
    return frozenset()
