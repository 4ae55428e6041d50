"""The container of an exported file: sections of arrays in one safetensors file, with a checksum.

Any program that reads safetensors can open it. Nothing in it is executed. A file is refused unless it is, byte by byte,
what `pack` writes for the sections in it.
"""

import hashlib
import json
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dgm_jax.errors import NewerFormat, UserError

FORMAT_VERSION = 3  # Versions 1 and 2 were no safetensors files; old_file.py reads them.

# safetensors writes several keys of metadata in an order that varies from process to process. So there is one key.
_KEY = "dgm_jax"
_BEGINNING = b'{"__metadata__":{"dgm_jax":"{\\"sha256\\":\\"'
_SIZE = struct.Struct("<Q")  # The bytes of the header, before it.
_SEAL = slice(_SIZE.size + len(_BEGINNING), _SIZE.size + len(_BEGINNING) + 2 * hashlib.sha256().digest_size)
_UNSEALED = "0" * (_SEAL.stop - _SEAL.start)
_MOST_HEADER = 2**24  # The most bytes of a header.


class DamagedMemoryFile(UserError, ValueError):
    """A file that `python -m dgm_jax export` did not write, or not all of one."""


@dataclass(frozen=True)
class Section:
    """A part of a file that can be read by itself."""

    header: dict[str, Any]  # Values that JSON can hold.
    tensors: dict[str, np.ndarray]


def pack(sections: Mapping[str, Section]) -> bytes:
    """The bytes of a file with these sections; the same sections give the same bytes."""
    header = {
        "sha256": _UNSEALED,
        "format": FORMAT_VERSION,
        "sections": {name: section.header for name, section in sections.items()},
    }
    tensors = {
        f"{name}.{key}": np.ascontiguousarray(array)
        for name, section in sections.items()
        for key, array in section.tensors.items()
    }
    content = safetensors.numpy.save(tensors, {_KEY: _compact(header)})
    return content[: _SEAL.start] + _seal(content) + content[_SEAL.stop :]


def is_ours(start: bytes) -> bool:
    """Whether a file with these first bytes, at least 64, begins as `pack` writes it."""
    return start[_SIZE.size : _SEAL.start] == _BEGINNING


def unpack(content: bytes, known: Collection[str]) -> dict[str, Section]:
    """Undoes `pack`.

    Args:
      content: the bytes of a file.
      known: the names of sections that the caller can read. Others are left out if their header says
        `"optional": true`.

    Raises:
      DamagedMemoryFile: if the content is not what `pack` writes; the text says what is wrong.
      NewerFormat: if a later version of this package wrote it, or it has a section that is unknown and not optional.
    """
    if not is_ours(content):
        raise DamagedMemoryFile("it does not begin as a file that `python -m dgm_jax export` wrote")
    # The checksum comes first, so that damage cannot pass for a newer version: those keep it in its place.
    if content[_SEAL] != _seal(content):
        raise DamagedMemoryFile("its SHA-256 differs from the one in its header: it is damaged or cut short")
    (size,) = _SIZE.unpack_from(content)
    if size > min(_MOST_HEADER, len(content) - _SIZE.size):
        raise DamagedMemoryFile(f"a header of {size:,} bytes is not valid")
    try:
        text = json.loads(content[_SIZE.size : _SIZE.size + size])["__metadata__"][_KEY]
        found = json.loads(text)
        _require_known(found, known)
        tensors = safetensors.numpy.load(content)
        is_as_written = _compact(found) == text and safetensors.numpy.save(tensors, {_KEY: text}) == content
        sections = {name: Section(header, {}) for name, header in found["sections"].items()}
        for name, tensor in tensors.items():
            section, _, key = name.partition(".")
            sections[section].tensors[key] = tensor
    except (DamagedMemoryFile, NewerFormat):
        raise
    # What a hostile file can make of it: no JSON, nested too deep, other types, other names.
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedMemoryFile(f"its header cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    if not is_as_written:
        raise DamagedMemoryFile("its header is not in the form in which it is written")
    return {name: section for name, section in sections.items() if name in known}


def _require_known(found: dict[str, Any], known: Collection[str]) -> None:
    version = found["format"]
    if type(version) is int and version > FORMAT_VERSION:
        raise NewerFormat(f"has format version {version}, this dgm_jax reads up to {FORMAT_VERSION}; upgrade dgm_jax")
    if version != FORMAT_VERSION or type(version) is not int or list(found) != ["sha256", "format", "sections"]:
        raise DamagedMemoryFile(f"format version {str(version)[:80]} with {str(list(found))[:80]} is not valid")
    for name, header in found["sections"].items():
        if name not in known and header.get("optional") is not True:
            raise NewerFormat(f"has a section {name[:80]!r}, which this dgm_jax does not know; upgrade dgm_jax")


def _seal(content: bytes) -> bytes:
    """The digits of the SHA-256 of a file in which they themselves are zeros."""
    digest = hashlib.sha256(content[: _SEAL.start] + _UNSEALED.encode())
    digest.update(memoryview(content)[_SEAL.stop :])
    return digest.hexdigest().encode()


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
