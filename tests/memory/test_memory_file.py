"""A memory in one file: it draws what the run's memory draws; whatever is done to the file is noticed."""

import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import checks, children, small_runs

from dgm_jax import Memory, load_memory
from dgm_jax.errors import NewerFormat, NoMemory
from dgm_jax.memory import file as memory_file
from dgm_jax.memory.file import DamagedMemoryFile, decode, encode
from dgm_jax.memory.memory import used_weights

RUNS = {
    "dgma": lambda: small_runs.finished(small_runs.small("dgma")),
    "dgmw": lambda: small_runs.finished(small_runs.small("dgmw")),
    "dgma-several-classes": small_runs.unequal,
    "dgma-gate-before-norm": lambda: small_runs.finished(small_runs.small("dgma", gate_position="before_norm")),
    "dgma-resnet": lambda: small_runs.finished(small_runs.residual("dgma", seed=1)),
    "dgmw-resnet-pairs": lambda: small_runs.finished(
        small_runs.residual("dgmw"), labels=small_runs.SIX, classes_per_task=2
    ),
}


@pytest.fixture(scope="module", params=RUNS)
def memory(request) -> Memory:
    return RUNS[request.param]().memories[-1]


@pytest.fixture(scope="module")
def content() -> bytes:
    return encode(small_runs.unequal().memories[-1])


def sealed(content: bytes) -> bytes:
    """With the right seal for what comes before it."""
    return content[:-32] + hashlib.sha256(content[:-32]).digest()


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, and what comes after it."""
    (size,) = struct.unpack_from("<I", content, 12)
    return json.loads(content[16 : 16 + size]), content[16 + size :]


def joined(header: Any, rest: bytes, version: int = memory_file.FORMAT_VERSION) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return sealed(memory_file.MAGIC + struct.pack("<II", version, len(text)) + text + rest)


class TestRoundTrip:
    def test_draws_bit_for_bit_the_same(self, memory, tmp_path):
        size = memory_file.write(tmp_path / "memory.dgm", memory)
        assert size == (tmp_path / "memory.dgm").stat().st_size
        loaded = load_memory(tmp_path / "memory.dgm")
        checks.assert_equal_trees(small_runs.draw_all(loaded), small_runs.draw_all(memory))
        assert loaded.labels == memory.labels[: memory.n_classes] and loaded.names == memory.names[: memory.n_classes]

    def test_as_of_each_task(self, memory, tmp_path):
        memory_file.write(tmp_path / "memory.dgm", memory)
        for task in range(len(memory.tasks)):
            then = memory.as_of(task + 1)
            drawn = small_runs.draw_all(then)
            checks.assert_equal_trees(small_runs.draw_all(load_memory(tmp_path / "memory.dgm", after_task=task)), drawn)
            checks.assert_equal_trees(small_runs.draw_all(decode(encode(then))), drawn)
        with pytest.raises(NoMemory, match=f"after_task=9, but .*memory.dgm has {len(memory.tasks)} finished tasks"):
            load_memory(tmp_path / "memory.dgm", after_task=9)

    def test_the_same_memory_gives_the_same_bytes(self, memory):
        content = encode(memory)
        assert encode(decode(content)) == content

    def test_only_what_is_drawn_with_is_kept(self, memory):
        """Weights that no task uses may be anything: neither the images nor the file know them."""
        noisy = [
            np.where(used, kernel, np.float32(7))
            for kernel, used in zip(memory.kernels, used_weights(memory), strict=True)
        ]
        other = dataclasses.replace(memory, kernels=noisy)
        assert encode(other) == encode(memory)
        checks.assert_equal_trees(small_runs.draw_all(other), small_runs.draw_all(memory))
        for loaded, kernel, used in zip(decode(encode(memory)).kernels, memory.kernels, used_weights(memory)):
            _, _, c_in, c_out = loaded.shape
            assert not used[:, :, c_in:].any() and not used[..., c_out:].any()
            assert np.array_equal(loaded, np.where(used, kernel, 0)[:, :, :c_in, :c_out])

    def test_a_layout_written_by_hand(self):
        """What docs/formats.md says, read by another program: this one."""
        memory = RUNS["dgmw"]().memories[-1]
        content = encode(memory)
        _, size = json.JSONDecoder().raw_decode(content[16:].decode("latin-1"))
        assert content[:16] == b"\x89DGM\r\n\x1a\n" + struct.pack("<II", 2, size)
        header, body = parts(content)
        first = header["tasks"][0]
        assert (header["network"], header["gates"], first["labels"]) == ("dcgan", "weights", [0])
        c = [header["noise_dim"], *first["widths"]]
        at = 0
        for i, mask in enumerate(memory.tasks[0].masks):
            bits = 16 * c[i] * c[i + 1]
            found = np.unpackbits(np.frombuffer(body, np.uint8, -(-bits // 8), at))[:bits]
            assert np.array_equal(found.reshape(4, 4, c[i], c[i + 1]), mask)
            at += -(-bits // 8)
        for layer, kind in [(i, kind) for i in range(len(c) - 1) for kind in ("scale", "shift")]:
            found = np.frombuffer(body, "<f4", c[layer + 1], at)
            assert np.array_equal(found, getattr(memory.tasks[0].norms[layer], kind))
            at += 4 * c[layer + 1]

    def test_needs_jax_and_numpy_alone(self, tmp_path):
        memory = RUNS["dgmw"]().memories[-1]
        memory_file.write(tmp_path / "memory.dgm", memory)
        code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        others = ("flax", "optax", "orbax", "chex", "PIL", "scipy", "sklearn", "rich", "tyro", "matplotlib", "jinja2",
            "etils", "tensorflow", "tensorflow_datasets", "array_record")
        if name.partition(".")[0] in others:
            raise ImportError(name + " is not to be needed")
sys.meta_path.insert(0, Refuse())
import dgm_jax, jax
print(dgm_jax.load_memory({str(tmp_path / "memory.dgm")!r}).sample(0, 3, jax.random.key(0)).shape)
"""
        (out,) = children.outputs(children.start(code))
        assert out == "(3, 16, 16, 1)\n"


class TestRefused:
    def test_something_else(self, tmp_path):
        path = tmp_path / "memory.dgm"
        for text, said in (
            (b"", "at least 48 bytes, found 0"),
            (b"\x89DGM", "at least 48"),
            (b"PK" * 40, "to begin with"),
        ):
            path.write_bytes(text)
            with pytest.raises(DamagedMemoryFile) as error:
                load_memory(path)
            assert str(path) in str(error.value) and said in str(error.value)

    def test_text_mode_is_noticed(self, content):
        with pytest.raises(DamagedMemoryFile, match="to begin with"):
            decode(content.replace(b"\r\n", b"\n"))

    def test_a_later_format(self, content):
        with pytest.raises(NewerFormat, match="format version 7, this dgm_jax reads up to 2; upgrade"):
            decode(sealed(content[:8] + struct.pack("<I", 7) + content[12:]))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"network": "exec"}, "network 'exec' is none of dcgan, resnet"),
            ({"image_size": 2**40}, "image_size"),
            ({"image_size": True}, "image_size"),
            ({"channels": 4}, "channels"),
            ({"channels": 1.0}, "channels"),
            ({"image_size": 8.0}, "image_size"),
            ({"noise_dim": -1}, "noise_dim"),
            ({"noise_dim": 10**400}, "header is not valid"),
            ({"gates": None}, "gates"),
            ({"gate_before_norm": 0}, "gate_before_norm"),
            ({"tasks": []}, "no task"),
            ({"tasks": {}}, "no task"),
            ({"more": 1}, "cannot be read"),
        ],
    )
    def test_a_header_that_cannot_be(self, content, change, said):
        header, rest = parts(content)
        with pytest.raises(DamagedMemoryFile) as error:
            decode(joined(header | change, rest))
        assert said in str(error.value) and len(str(error.value)) < 400

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"widths": [2**20]}, "announces at least"),
            ({"widths": [2**20 + 1]}, "width 1048577"),
            ({"widths": [3, 3]}, "2 widths of 1 layers"),
            ({"widths": [0]}, "width 0"),
            ({"widths": [3.0]}, "width 3.0"),
            ({"widths": "33"}, "is no list"),
            ({"labels": [1, 1, 2]}, "a label that two classes have"),
            ({"labels": []}, "0 labels and 3 names"),
            ({"names": [1, 2, 3]}, "no text"),
            ({"n_conditioned": 0}, "n_conditioned"),
            ({"n_conditioned": 10**6}, "n_conditioned"),
        ],
    )
    def test_a_task_that_cannot_be(self, content, change, said):
        header, rest = parts(content)
        header["tasks"][0] |= change
        with pytest.raises(DamagedMemoryFile) as error:
            decode(joined(header, rest))
        assert said in str(error.value)

    def test_more_weights_than_are_read(self, content):
        header, rest = parts(content)
        header["tasks"][0]["widths"] = [10_000]
        with pytest.raises(DamagedMemoryFile, match="weights, at most 268,435,456 are read"):
            decode(joined(header | {"noise_dim": 10_000}, rest))

    def test_more_work_than_is_done(self, content):
        """Many tasks that use next to nothing of very wide noise: a small file that would take minutes."""
        header, rest = parts(content)
        task = header["tasks"][0] | {"widths": [16], "n_conditioned": 5000, "names": ["a"]}
        many = [task | {"labels": [label]} for label in range(300)]
        with pytest.raises(DamagedMemoryFile, match="weights in all tasks together, at most"):
            decode(joined(header | {"noise_dim": 2**19, "tasks": many}, rest))

    @pytest.mark.parametrize("text", [b"[" * 100_000, b"null", b"[]", b"\xff", b'{"network":', b"", b"1" * 5000])
    def test_a_header_that_is_none(self, content, text):
        with pytest.raises(DamagedMemoryFile):
            decode(joined(text, parts(content)[1]))

    def test_a_header_written_otherwise(self, content):
        header, rest = parts(content)
        for text in (json.dumps(header).encode(), json.dumps(dict(reversed(header.items()))).encode()):
            with pytest.raises(DamagedMemoryFile, match="not in the form"):
                decode(joined(text, rest))

    @pytest.mark.parametrize(
        ("more", "said"), [(b"\0" * 4, "bytes of arrays, found"), (b"\0", "bytes of arrays, found")]
    )
    def test_more_than_the_header_tells_of(self, content, more, said):
        with pytest.raises(DamagedMemoryFile, match=said):
            decode(sealed(content[:-32] + more + bytes(32)))

    def test_numbers_that_are_none(self, content):
        for bad in (np.nan, np.inf):
            with pytest.raises(DamagedMemoryFile, match="not finite"):
                decode(sealed(content[:-36] + struct.pack("<f", bad) + bytes(32)))

    def test_a_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch):
        memory = RUNS["dgma"]().memories[-1]
        path = tmp_path / "memory.dgm"
        memory_file.write(path, memory.as_of(1))
        before = path.read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            memory_file.write(path, memory)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- ten thousand damaged files ----

_DAMAGES = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 2**20), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, 2**20), st.just(0)),
    st.tuples(st.just("drop"), st.integers(0, 2**20), st.integers(1, 64)),
    st.tuples(st.just("insert"), st.integers(0, 2**20), st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("overwrite"), st.integers(0, 400), st.binary(min_size=1, max_size=16)),
)


def damaged(content: bytes, damage: tuple[str, int, Any]) -> bytes:
    kind, at, value = damage
    at %= len(content)
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "drop":
        return content[:at] + content[at + value :]
    if kind == "insert":
        return content[:at] + value + content[at:]
    return content[:at] + value + content[at + len(value) :]


_MANY = settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@_MANY
@given(damages=st.lists(_DAMAGES, min_size=1, max_size=3))
def test_damage_is_noticed(content, damages):
    changed = content
    for damage in damages:
        changed = damaged(changed, damage) or b"\0"
    if changed == content:
        return
    with pytest.raises(DamagedMemoryFile):
        decode(changed)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_NEAR = st.integers(-2, 40) | st.lists(st.integers(-1, 300), max_size=4) | st.sampled_from(["dcgan", "resnet", "units"])


@_MANY
@given(
    field=st.sampled_from(["network", "image_size", "channels", "noise_dim", "gates", "gate_before_norm", "tasks"])
    | st.tuples(st.integers(0, 2), st.sampled_from(["labels", "names", "widths", "n_conditioned"])),
    value=_JSON | _NEAR,
    damages=st.lists(_DAMAGES, max_size=1),
)
@example(field="gates", value="weights", damages=[])
def test_a_hostile_file_is_refused_or_is_a_memory(content, field, value, damages):
    """With a seal that is right for what it says: nothing but our errors, and what is read is all that was there."""
    header, rest = parts(content)
    if isinstance(field, str):
        header[field] = value
    else:
        header["tasks"][field[0]][field[1]] = value
    changed = joined(header, rest)
    for damage in damages:
        changed = sealed(damaged(changed, damage).ljust(48, b"\0"))
    try:
        memory = decode(changed)
    except (DamagedMemoryFile, NewerFormat):
        return
    assert encode(memory) == changed


def test_the_command(tmp_path):
    workdir, out = RUNS["dgmw"]().workdir, tmp_path / "memory.dgm"
    command = [sys.executable, "-m", "dgm_jax", "export", str(workdir), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert f"{out.stat().st_size:,} bytes" in done.stdout
    checks.assert_equal_trees(small_runs.draw_all(load_memory(out)), small_runs.draw_all(load_memory(workdir)))
    assert np.asarray(load_memory(out).sample(0, 1, jax.random.key(0))).shape == (1, 16, 16, 1)


class TestBounds:
    """What is just within a bound is a memory, what is just outside it is none."""

    @pytest.mark.parametrize("task", [0, 2])
    def test_the_noise_that_carries_the_class(self, content, task):
        """It must name all classes so far, and leave at least one number that varies within a class."""
        header, rest = parts(content)
        known, noise_dim = (3, 5, 6)[task], header["noise_dim"]
        for right in (known, noise_dim - 1):
            header["tasks"][task]["n_conditioned"] = right
            assert decode(joined(header, rest)).tasks[task].n_conditioned == right
        for wrong in (known - 1, noise_dim):
            header["tasks"][task]["n_conditioned"] = wrong
            with pytest.raises(DamagedMemoryFile, match=f"n_conditioned {wrong} is not within {known} to"):
                decode(joined(header, rest))

    def test_a_mask_has_no_gates_beyond_its_last(self, content):
        """A mask ends within a byte; the bits after it are 0, so that one memory has one file."""
        header, rest = parts(content)
        n = header["tasks"][0]["widths"][0]
        assert 0 < n < 8
        for bit in range(8 - n):
            changed = bytes([rest[0] | 1 << bit]) + rest[1:]
            with pytest.raises(DamagedMemoryFile, match="more open gates than gates"):
                decode(joined(header, changed))
        assert decode(joined(header, rest)).n_classes == 6


def test_a_file_of_version_1_does_not_name_its_random_numbers_and_is_read(content):
    header, rest = parts(content)
    old = {name: value for name, value in header.items() if name != "keys"}
    assert encode(decode(joined(old, rest, version=1))) == content
    with pytest.raises(DamagedMemoryFile, match="not in the form"):
        decode(joined(header, rest, version=1))
    with pytest.raises(DamagedMemoryFile, match="not in the form"):
        decode(joined(old, rest, version=2))
    with pytest.raises(DamagedMemoryFile, match="random numbers of 'rbg', only"):
        decode(joined(header | {"keys": "rbg"}, rest))
    with pytest.raises(DamagedMemoryFile, match="format version 0 with a header of"):
        decode(joined(old, rest, version=0))
