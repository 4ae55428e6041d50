"""Reads `memory.dgm`, the binary format that earlier versions of this package exported (its versions 1 and 2).

After the header come, for each task, its masks and its parameters, and then the shared weights: the same bytes as those
of the arrays in the present format.
"""

import hashlib
import json
import struct

import numpy as np

from dgm_jax.errors import NewerFormat
from dgm_jax.memory import memory_section
from dgm_jax.memory.container import DamagedMemoryFile, Section
from dgm_jax.memory.memory import Memory
from dgm_jax.system.pinned import KEYS

MAGIC = b"\x89DGM\r\n\x1a\n"
_START = struct.Struct("<8sII")  # The magic, the format version, the bytes of the header.
_SEAL = hashlib.sha256().digest_size
_VERSIONS = (1, 2)  # Version 1 did not name the generator of random numbers; it was the same.


def decode(content: bytes) -> Memory:
    """The memory in a file that begins with `MAGIC`.

    Raises:
      DamagedMemoryFile: if anything in it is not as it was written.
    """
    if len(content) < _START.size + _SEAL or hashlib.sha256(content[:-_SEAL]).digest() != content[-_SEAL:]:
        raise DamagedMemoryFile("its SHA-256 differs from the one at its end: it is damaged or cut short")
    _, version, size = _START.unpack_from(content)
    if version > max(_VERSIONS):
        raise NewerFormat(f"has format version {version}, which this dgm_jax does not know; upgrade dgm_jax")
    body = content[_START.size : -_SEAL]
    if version not in _VERSIONS or size > len(body):
        raise DamagedMemoryFile(f"format version {version} with a header of {size} bytes is not valid")
    try:
        found = {**json.loads(body[:size].decode("ascii"))}
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedMemoryFile(f"its header cannot be read ({type(error).__name__})") from error
    if version == 1:
        found["keys"] = KEYS
    tensors, taken = {}, size
    for name, n in memory_section.Header.from_json(found).tensor_sizes().items():
        dtype = np.dtype(np.uint8 if name.endswith("masks") else "<f4")
        if taken + n * dtype.itemsize > len(body):
            raise DamagedMemoryFile(f"its header announces more than its {len(body):,} bytes")
        tensors[name] = np.frombuffer(body, dtype, n, taken)
        taken += n * dtype.itemsize
    if (len(body) - taken) % 4:
        raise DamagedMemoryFile(f"{len(body) - taken:,} bytes of shared weights are no whole numbers")
    tensors["weights"] = np.frombuffer(body, "<f4", offset=taken)
    return memory_section.decode(Section(found, tensors))
