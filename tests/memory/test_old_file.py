"""`memory.dgm`, which versions before 0.2.0 exported, is still read. The fixture was written by one of them."""

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checks, damage, small_runs

from dgm_jax import load_memory
from dgm_jax.errors import NewerFormat
from dgm_jax.memory import old_file
from dgm_jax.memory.file import DamagedMemoryFile, decode, encode

CONTENT = (Path(__file__).parents[1] / "fixtures" / "format-1" / "memory.dgm").read_bytes()


def parts() -> tuple[dict[str, Any], bytes]:
    """The header, and what comes after it."""
    (size,) = struct.unpack_from("<I", CONTENT, 12)
    return json.loads(CONTENT[16 : 16 + size]), CONTENT[16 + size : -32]


def joined(header: Any, rest: bytes, version: int = 1) -> bytes:
    """With the right checksum."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    content = old_file.MAGIC + struct.pack("<II", version, len(text)) + text + rest
    return content + hashlib.sha256(content).digest()


def test_it_is_the_memory_of_its_run_and_can_be_exported_again(tmp_path):
    memory = decode(CONTENT).memory
    of_run = load_memory(Path(__file__).parents[1] / "fixtures" / "format-1" / "run")
    assert encode(memory) == encode(of_run)
    again = decode(encode(memory)).memory
    drawn = small_runs.draw_all(memory)
    checks.assert_equal_trees(drawn, small_runs.draw_all(again))
    checks.assert_equal_trees(drawn, small_runs.draw_all(of_run))
    (tmp_path / "memory.dgm").write_bytes(CONTENT)
    checks.assert_equal_trees(drawn, small_runs.draw_all(load_memory(tmp_path / "memory.dgm")))


def test_version_2_names_its_random_numbers():
    header, rest = parts()
    assert encode(decode(joined(header | {"keys": "threefry2x32"}, rest, 2)).memory) == encode(decode(CONTENT).memory)
    for version, change, said in (
        (2, {}, "cannot be read .TypeError"),
        (2, {"keys": "rbg"}, "random numbers of 'rbg', only"),
        (0, {}, "format version 0 with a header of"),
    ):
        with pytest.raises(DamagedMemoryFile, match=said):
            decode(joined(header | change, rest, version))
    with pytest.raises(NewerFormat, match="has format version 7, which this dgm_jax does not know"):
        decode(joined(header, rest, 7))


def test_damage_is_noticed():
    rng = random.Random(0)
    for _ in range(2_000):
        changed = damage.damaged(CONTENT, rng)
        if changed != CONTENT:
            with pytest.raises(DamagedMemoryFile):
                decode(changed)


def test_what_the_header_does_not_announce():
    header, rest = parts()
    for more, said in ((b"\0" * 4, "weights is float32"), (b"\0", "are no whole numbers")):
        with pytest.raises(DamagedMemoryFile, match=said):
            decode(joined(header, rest + more))
    with pytest.raises(DamagedMemoryFile, match="announces more than its"):
        decode(joined(header, rest[:100]))
    with pytest.raises(DamagedMemoryFile, match="not finite"):
        decode(joined(header, rest[:-4] + np.float32(np.nan).tobytes()))
    for text in (b"[" * 100_000, b"null", b"[]", b"\xff", b'{"network":', b"", b"1" * 5000):
        with pytest.raises(DamagedMemoryFile, match="header cannot be read"):
            decode(joined(text, rest))
    with pytest.raises(DamagedMemoryFile, match="with a header of 9999 bytes is not valid"):
        content = old_file.MAGIC + struct.pack("<II", 1, 9999) + rest
        decode(content + hashlib.sha256(content).digest())


def test_a_hostile_header_is_refused_or_is_a_memory():
    rng, (header, rest) = random.Random(1), parts()
    for _ in range(1_000):
        changed = joined(header | {rng.choice(list(header)): damage.value(rng)}, rest)
        try:
            memory = decode(changed).memory
        except (DamagedMemoryFile, NewerFormat):
            continue
        assert encode(decode(encode(memory)).memory) == encode(memory)
