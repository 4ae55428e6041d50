"""A memory in one file: it draws what the run's memory draws; whatever is done to the file is noticed."""

import copy
import dataclasses
import json
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
from support import checks, children, damage, small_runs
from support.marks import slow_but

from dgm_jax import Memory, load_memory
from dgm_jax.errors import NewerFormat, NoMemory
from dgm_jax.memory import container, memory_section
from dgm_jax.memory import file as memory_file
from dgm_jax.memory.container import Section, pack
from dgm_jax.memory.file import DamagedMemoryFile, encode
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


@pytest.fixture(scope="module", params=slow_but(list(RUNS), "dgma", "dgmw", "dgma-several-classes", "dgma-resnet"))
def memory(request) -> Memory:
    return RUNS[request.param]().memories[-1]


@pytest.fixture(scope="module")
def content() -> bytes:
    return encode(small_runs.unequal().memories[-1])


@pytest.fixture
def section() -> Section:
    """Of a memory; its header may be changed."""
    made = memory_section.encode(small_runs.unequal().memories[-1])
    return Section(copy.deepcopy(made.header), dict(made.tensors))


def decode(content: bytes) -> Memory:
    memory = memory_file.decode(content).memory
    assert memory is not None
    return memory


def sealed(content: bytes) -> bytes:
    """With the right checksum for what it says."""
    return content[: container._SEAL.start] + container._seal(content) + content[container._SEAL.stop :]


def with_header(content: bytes, change) -> bytes:
    """With another safetensors header, and the right checksum."""
    (size,) = struct.unpack_from("<Q", content)
    text = change(content[8 : 8 + size])
    return sealed(struct.pack("<Q", len(text)) + text + content[8 + size :])


def written(section: Section) -> bytes:
    return pack({"memory": section})


class TestRoundTrip:
    def test_draws_bit_for_bit_the_same(self, memory, tmp_path):
        size = memory_file.write(tmp_path / "memory.safetensors", memory)
        assert size == (tmp_path / "memory.safetensors").stat().st_size
        loaded = load_memory(tmp_path / "memory.safetensors")
        checks.assert_equal_trees(small_runs.draw_all(loaded), small_runs.draw_all(memory))
        assert loaded.labels == memory.labels[: memory.n_classes] and loaded.names == memory.names[: memory.n_classes]

    def test_as_of_each_task(self, memory, tmp_path):
        memory_file.write(tmp_path / "memory.safetensors", memory)
        for task in range(len(memory.tasks)):
            then = memory.as_of(task + 1)
            drawn = small_runs.draw_all(then)
            checks.assert_equal_trees(
                small_runs.draw_all(load_memory(tmp_path / "memory.safetensors", after_task=task)), drawn
            )
            checks.assert_equal_trees(small_runs.draw_all(decode(encode(then))), drawn)
        with pytest.raises(
            NoMemory, match=f"after_task=9, but .*memory.safetensors has {len(memory.tasks)} finished tasks"
        ):
            load_memory(tmp_path / "memory.safetensors", after_task=9)

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

    def test_it_is_not_larger_than_the_arrays_need(self, memory):
        """Many small tasks, too: at most 2 % and 16 kB more than arrays and header without any container."""
        tasks = [dataclasses.replace(memory.tasks[0], classes=(i,)) for i in range(100)]
        tasks = [dataclasses.replace(t, heads=t.heads[:1], n_conditioned=memory.noise_dim - 1) for t in tasks]
        numbers = tuple(range(100))
        many = dataclasses.replace(memory, tasks=tuple(tasks), labels=numbers, names=tuple(map(str, numbers)))
        for each in (memory, many):
            section = memory_section.encode(each)
            arrays = sum(array.nbytes for array in section.tensors.values())
            bare = arrays + len(json.dumps(section.header, separators=(",", ":"))) + 48
            assert len(encode(each)) <= 1.02 * bare + 16 * 1024

    def test_another_program_reads_it(self, tmp_path):
        """With safetensors, and what docs/formats.md says."""
        memory = RUNS["dgmw"]().memories[-1]
        memory_file.write(tmp_path / "memory.safetensors", memory)
        with safetensors.safe_open(tmp_path / "memory.safetensors", framework="np") as file:
            assert list(file.metadata()) == ["dgm_jax"]
            header = json.loads(file.metadata()["dgm_jax"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # It is no dict.
        assert header["format"] == 3 and list(header["sections"]) == ["memory"]
        assert set(arrays) == {"memory.weights"} | {
            f"memory.{t}.{kind}" for t in range(3) for kind in ("masks", "parameters")
        }
        first = header["sections"]["memory"]["tasks"][0]
        assert header["sections"]["memory"]["gates"] == "weights" and first["labels"] == [0]
        c = [header["sections"]["memory"]["noise_dim"], *first["widths"]]
        at = 0
        for i, mask in enumerate(memory.tasks[0].masks):
            bits = 16 * c[i] * c[i + 1]
            found = np.unpackbits(arrays["memory.0.masks"][at : at + -(-bits // 8)])[:bits]
            assert np.array_equal(found.reshape(4, 4, c[i], c[i + 1]), mask)
            at += -(-bits // 8)
        at = 0
        for kind, layers in (("scale shift", memory.tasks[0].norms), ("mean var", memory.tasks[0].statistics)):
            for layer, width in zip(layers, c[1:], strict=True):
                for name in kind.split():
                    assert np.array_equal(arrays["memory.0.parameters"][at : at + width], getattr(layer, name))
                    at += width
        assert np.array_equal(arrays["memory.0.parameters"][at:], memory.tasks[0].heads.ravel())
        used = [kernel[of_kernel] for kernel, of_kernel in zip(memory.kernels, used_weights(memory), strict=True)]
        assert np.array_equal(arrays["memory.weights"], np.concatenate(used))

    def test_every_process_writes_the_same_bytes(self, tmp_path, content):
        path = tmp_path / "memory.safetensors"
        path.write_bytes(content)
        code = f"""
from dgm_jax.memory import file
print(file.encode(*file.read({str(path)!r})) == open({str(path)!r}, "rb").read())
"""
        assert children.outputs(*(children.start(code, PYTHONHASHSEED=str(i)) for i in range(2))) == ["True\n"] * 2


class TestRefused:
    def test_something_else(self, tmp_path, content):
        path = tmp_path / "memory.safetensors"
        other = safetensors.numpy.save({"a": np.ones(3, np.float32)}, {"of": "another program"})
        for text in (b"", b"PK" * 40, content[:40], other):
            path.write_bytes(text)
            with pytest.raises(DamagedMemoryFile) as error:
                load_memory(path)
            assert str(path) in str(error.value) and "does not begin as a file that" in str(error.value)

    def test_every_byte_counts(self, content):
        """A flip of any bit, a cut anywhere, more at the end; the checksum itself counts, too."""
        for at in range(len(content)):
            changed = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
            for wrong in (changed, content[:at]):
                with pytest.raises(DamagedMemoryFile):
                    decode(wrong)
        with pytest.raises(DamagedMemoryFile, match="SHA-256"):
            decode(content + b"\0")
        with pytest.raises(DamagedMemoryFile, match="cannot be read .SafetensorError"):
            decode(sealed(content + b"\0"))

    def test_a_later_format(self, content):
        newer = with_header(content, lambda text: text.replace(rb"\"format\":3", rb"\"format\":7"))
        with pytest.raises(NewerFormat, match="format version 7, this dgm_jax reads up to 3; upgrade"):
            decode(newer)
        for version in (b"2", b"3.0", b"true", b"[]"):
            with pytest.raises(DamagedMemoryFile, match="is not valid"):
                decode(
                    with_header(content, lambda text, v=version: text.replace(rb"\"format\":3", rb"\"format\":" + v))
                )

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
            ({"keys": "rbg"}, "random numbers of 'rbg', only"),
            ({"tasks": []}, "no task"),
            ({"tasks": {}}, "no task"),
            ({"more": 1}, "cannot be read"),
        ],
    )
    def test_a_header_that_cannot_be(self, section, change, said):
        with pytest.raises(DamagedMemoryFile) as error:
            decode(written(Section(section.header | change, section.tensors)))
        assert said in str(error.value) and len(str(error.value)) < 400

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"widths": [2**20]}, "expected uint8 [131072]"),
            ({"widths": [2**20 + 1]}, "width 1048577"),
            ({"widths": [3, 3]}, "2 widths of 1 layers"),
            ({"widths": [0]}, "width 0"),
            ({"widths": [3.0]}, "width 3.0"),
            ({"widths": "33"}, "is no list"),
            ({"labels": [1, 1, 2]}, "a label that two classes have"),
            ({"labels": [41, 1, 2]}, "a label that two classes have"),
            ({"labels": []}, "0 labels and 3 names"),
            ({"names": [1, 2, 3]}, "no text"),
            ({"n_conditioned": 0}, "n_conditioned"),
            ({"n_conditioned": 10**6}, "n_conditioned"),
        ],
    )
    def test_a_task_that_cannot_be(self, section, change, said):
        section.header["tasks"][0] |= change
        with pytest.raises(DamagedMemoryFile) as error:
            decode(written(section))
        assert said in str(error.value)

    def test_more_weights_than_are_read(self, section):
        section.header["tasks"][0]["widths"] = [10_000]
        with pytest.raises(DamagedMemoryFile, match="weights, at most 268,435,456 are read"):
            decode(written(Section(section.header | {"noise_dim": 10_000}, section.tensors)))

    def test_more_work_than_is_done(self, section):
        """Many tasks that use next to nothing of very wide noise: a small file that would take minutes."""
        task = section.header["tasks"][0] | {"widths": [16], "n_conditioned": 5000, "names": ["a"]}
        many = [task | {"labels": [label]} for label in range(300)]
        with pytest.raises(DamagedMemoryFile, match="weights in all tasks together, at most"):
            decode(written(Section(section.header | {"noise_dim": 2**19, "tasks": many}, section.tensors)))

    def test_a_larger_file_than_is_read(self, tmp_path):
        path = tmp_path / "memory.safetensors"
        with path.open("wb") as file:
            file.truncate(2**31 + 1)  # It takes no room on the disk.
        with pytest.raises(DamagedMemoryFile, match="has 2,147,483,649 bytes; an exported file has at most"):
            load_memory(path)

    @pytest.mark.parametrize("text", [b"[" * 100_000, b"null", b"[]", b"\xff", b'{"network":', b"", b"1" * 5000])
    def test_a_header_that_is_none(self, content, text):
        for beginning in (b"", container._BEGINNING + b"0" * 64):
            with pytest.raises(DamagedMemoryFile):
                decode(with_header(content, lambda _, b=beginning: b + text))

    def test_a_header_as_large_as_the_file_or_larger(self, content):
        for size in (len(content) - 7, 2**24 + 1, 2**63, 2**64 - 1):
            with pytest.raises(DamagedMemoryFile, match="a header of .* bytes is not valid"):
                decode(sealed(struct.pack("<Q", size) + content[8:]))

    def test_a_header_written_otherwise(self, section, content):
        for header in (dict(reversed(section.header.items())), section.header | {"tasks": section.header["tasks"][:]}):
            header["tasks"] = [dict(reversed(task.items())) for task in header["tasks"]]
            with pytest.raises(DamagedMemoryFile, match="not in the form"):
                decode(written(Section(header, section.tensors)))
        for old, new in ((b"{", b"{ "), (b"[", b"[ "), (b'"dtype"', b'"\\u0064type"'), (rb"\"format", rb" \"format")):
            at = 200 if len(new) == 2 else 0
            changed = with_header(content, lambda text, o=old, n=new, a=at: text[:a] + text[a:].replace(o, n, 1))
            with pytest.raises(DamagedMemoryFile, match="not in the form"):
                decode(changed)

    def test_arrays_that_are_not_as_the_header_says(self, section):
        tensors = section.tensors
        weights = tensors["weights"]
        for change, said in (
            ({"weights": weights[:-1]}, r"weights is float32 \[\d+\], expected float32"),
            ({"weights": np.append(weights, np.float32(0))}, "weights is float32"),
            ({"weights": weights.view(np.int32)}, "weights is int32"),
            ({"weights": weights[None]}, "weights is float32"),
            ({"weights": weights.astype(np.float64)}, "weights is float64"),
            ({"0.masks": tensors["0.masks"].view(bool)}, "0.masks is bool"),
            ({"1.parameters": tensors["1.parameters"][1:]}, "1.parameters is float32"),
            ({"3.masks": tensors["0.masks"]}, "superfluous ones: 3.masks"),
        ):
            with pytest.raises(DamagedMemoryFile, match=said):
                decode(written(Section(section.header, tensors | change)))
        for name in tensors:
            fewer = {other: array for other, array in tensors.items() if other != name}
            with pytest.raises(DamagedMemoryFile, match=f"lacks arrays or has superfluous ones: {name}"):
                decode(written(Section(section.header, fewer)))

    @pytest.mark.parametrize("name", ["weights", "0.parameters", "2.parameters"])
    def test_numbers_that_are_none(self, section, name):
        for bad in (np.nan, np.inf):
            changed = section.tensors[name].copy()
            changed[-1] = bad
            with pytest.raises(DamagedMemoryFile, match=f"a number in {name} is not finite"):
                decode(written(Section(section.header, section.tensors | {name: changed})))

    def test_a_negative_variance(self, section):
        changed = section.tensors["0.parameters"].copy()
        changed[3 * section.header["tasks"][0]["widths"][0]] = -1
        with pytest.raises(DamagedMemoryFile, match="variance in it is negative"):
            decode(written(Section(section.header, section.tensors | {"0.parameters": changed})))

    def test_a_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch):
        memory = RUNS["dgma"]().memories[-1]
        path = tmp_path / "memory.safetensors"
        memory_file.write(path, memory.as_of(1))
        before = path.read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            memory_file.write(path, memory)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


class TestSections:
    """A later version may add sections: those that are needed are named, those that are optional are passed over."""

    def test_one_that_is_needed(self, section):
        with pytest.raises(NewerFormat, match="has a section 'modes', which this dgm_jax does not know; upgrade"):
            decode(pack({"memory": section, "modes": Section({"optional": False}, {})}))
        with pytest.raises(NewerFormat, match="has a section 'modes'"):
            decode(pack({"modes": Section({}, {"a": np.ones(2)}), "memory": section}))

    def test_one_that_is_optional(self, section, content):
        more = Section({"optional": True, "any": [1]}, {"a.b": np.ones(2)})
        assert encode(decode(pack({"memory": section, "notes": more}))) == content
        with pytest.raises(DamagedMemoryFile, match="holds neither a memory nor a classifier"):
            decode(pack({"notes": more}))

    def test_an_array_of_no_section(self, section):
        made = pack({"memory": section, "other": Section({"optional": True}, {"a": np.ones(2)})})
        with pytest.raises(DamagedMemoryFile, match="cannot be read .KeyError"):
            decode(with_header(made, lambda text: text.replace(rb"\"other\"", rb"\"their\"")))


# ---- ten thousand damaged files ----


def test_damage_is_noticed(content):
    rng = random.Random(0)
    for _ in range(2_000):
        changed = damage.damaged(content, rng)
        if changed != content:
            with pytest.raises(DamagedMemoryFile):
                decode(changed)


def test_a_hostile_file_is_refused_or_is_a_memory(section, content):
    """With the right checksum for what it says: nothing but our errors, and what is read is all that was there."""
    rng = random.Random(1)
    fields: list[Any] = list(section.header)
    fields += [(task, name) for task in range(3) for name in section.header["tasks"][0]]
    read = 0
    for _ in range(2_000):
        header = copy.deepcopy(section.header)
        field, value = rng.choice(fields), damage.value(rng)
        if isinstance(field, str):
            header[field] = value
        else:
            header["tasks"][field[0]][field[1]] = value
        changed = written(Section(header, section.tensors))
        if rng.random() < 0.5:
            changed = sealed(damage.damaged(content, rng).ljust(container._SEAL.stop, b"\0"))
        try:
            memory = decode(changed)
        except (DamagedMemoryFile, NewerFormat):
            continue
        assert encode(memory) == changed
        read += 1
    assert read > 20  # Some changes make another memory, e.g. other labels.


def test_the_command(tmp_path):
    workdir, out = RUNS["dgmw"]().workdir, tmp_path / "memory.safetensors"
    command = [sys.executable, "-m", "dgm_jax", "export", str(workdir), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert f"{out.stat().st_size:,} bytes" in done.stdout
    checks.assert_equal_trees(small_runs.draw_all(load_memory(out)), small_runs.draw_all(load_memory(workdir)))
    assert np.asarray(load_memory(out).sample(0, 1, jax.random.key(0))).shape == (1, 16, 16, 1)


class TestBounds:
    """What is just within a bound is a memory, what is just outside it is none."""

    @pytest.mark.parametrize("task", [0, 2])
    def test_the_noise_that_carries_the_class(self, section, task):
        """It must name all classes so far, and leave at least one number that varies within a class."""
        known, noise_dim = (3, 5, 6)[task], section.header["noise_dim"]
        for right in (known, noise_dim - 1):
            section.header["tasks"][task]["n_conditioned"] = right
            assert decode(written(section)).tasks[task].n_conditioned == right
        for wrong in (known - 1, noise_dim):
            section.header["tasks"][task]["n_conditioned"] = wrong
            with pytest.raises(DamagedMemoryFile, match=f"n_conditioned {wrong} is not within {known} to"):
                decode(written(section))

    def test_a_mask_has_no_gates_beyond_its_last(self, section):
        """A mask ends within a byte; the bits after it are 0, so that one memory has one file."""
        n = section.header["tasks"][0]["widths"][0]
        masks = section.tensors["0.masks"]
        assert 0 < n < 8
        for bit in range(8 - n):
            changed = section.tensors | {"0.masks": masks | np.uint8(1 << bit)}
            with pytest.raises(DamagedMemoryFile, match="more open gates than gates"):
                decode(written(Section(section.header, changed)))
        assert decode(written(section)).n_classes == 6
