"""What is saved comes back bit for bit, or its damage is named. What is used then: runs/test_checkpoints."""

import errno
import json
import logging
import os
import shutil
import signal
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from support import format_1

from dgm_jax.system import checkpoint

METADATA = {"task": 3, "widths": [4, 5], "rate": 1e-4, "name": "grün", "none": None}


def small_tree(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "generator": [{"kernel": rng.normal(size=(3, 4)).astype(np.float32), "mask": rng.random(7) < 0.5}, {}, []],
        "key": np.asarray(jax.random.key_data(jax.random.key(seed))),
        "none yet": np.zeros((0, 3), np.float32),
    }


def assert_same(saved: Any, restored: Any) -> None:
    if isinstance(saved, dict):
        assert type(restored) is dict and set(saved) == set(restored)
        for key in saved:
            assert_same(saved[key], restored[key])
    elif isinstance(saved, list):
        assert type(restored) is list and len(saved) == len(restored)
        for a, b in zip(saved, restored, strict=True):
            assert_same(a, b)
    else:
        saved = np.asarray(saved)
        assert type(restored) is np.ndarray
        assert (saved.shape, saved.dtype) == (restored.shape, restored.dtype)
        assert saved.tobytes() == restored.tobytes()


DTYPES = ["bool", "uint8", "int8", "int32", "uint32", "int64", "float16", "bfloat16", "float32", "float64", "complex64"]
VALUES = [0, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_round_trip_of_all_dtypes_and_shapes(tmp_path: Path, make: Any) -> None:
    tree: dict[str, Any] = {}
    for dtype in DTYPES:
        if make is jnp.asarray and dtype in ("int64", "float64"):
            continue  # JAX has them only with x64 on
        values = np.asarray(VALUES).astype(jnp.dtype(dtype))
        shaped = [values.reshape(shape) for shape in [(6,), (2, 3), (1, 6, 1)]]
        tree[dtype] = [make(array) for array in (*shaped, values[1], values[:0].reshape(2, 0))]
    checkpoint.save(tmp_path / "7", tree, METADATA)
    restored = checkpoint.read(tmp_path / "7")
    assert_same(tree, restored.tree)
    assert (restored.folder, restored.metadata) == (tmp_path / "7", METADATA)


def test_every_bit_of_a_float_survives(tmp_path: Path) -> None:
    # -0, both infinities, quiet and signalling NaNs, the smallest denormal
    bits = [0x80000000, 0x7F800000, 0xFF800000, 0x7FC00123, 0xFFC00001, 0x7F800001, 0x00000001]
    tree = {"x": np.array(bits, np.uint32).view(np.float32), "zero": np.float32(-0.0), "zeros": np.full((9,), -0.0)}
    checkpoint.save(tmp_path / "0", tree, {})
    assert_same(tree, checkpoint.read(tmp_path / "0").tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"a": {}, "b": [[], {}]},
        {"empty": np.zeros((0, 2), np.uint8)},
        [np.zeros((3, 0), np.float64), np.ones(1), {"a": [np.zeros(0, bool)]}, np.zeros((0, 0), jnp.bfloat16)],
    ],
)
def test_what_holds_no_number_comes_back(tmp_path: Path, tree: Any) -> None:
    """Orbax refuses arrays without numbers: it gets None in their place."""
    checkpoint.save(tmp_path / "1", tree, METADATA)
    restored = checkpoint.read(tmp_path / "1")
    assert_same(tree, restored.tree)
    assert restored.metadata == METADATA


def test_no_two_keys_are_confused(tmp_path: Path) -> None:
    keys = ["b", "a", "", "a%2Fb", "0", "d", "c d", "grün", "_METADATA"]
    tree = {key: {"x": np.full(2, i)} for i, key in enumerate(keys)} | {"a": {"b": {"x": np.full(2, -1)}}}
    tree["list"] = [np.full(1, i) for i in range(11)]  # type: ignore[assignment]
    checkpoint.save(tmp_path / "1", tree, {})
    assert_same(tree, checkpoint.read(tmp_path / "1").tree)


def test_views_are_saved_as_they_look(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 6)
    tree = {"transposed": array.T, "strided": array[::2, ::-3], "column": array[:, 1]}
    checkpoint.save(tmp_path / "1", tree, {})
    assert_same(tree, checkpoint.read(tmp_path / "1").tree)


def test_plain_orbax_reads_the_folder(tmp_path: Path) -> None:
    """Nested as it was saved, with None in place of arrays without numbers; docs/ship.md has Orbax's own readers."""
    tree = small_tree()
    checkpoint.save(tmp_path / "1", tree, METADATA)
    loaded: Any = ocp.load(tmp_path / "1")
    assert loaded.pop("none yet") is None
    del tree["none yet"]
    assert_same(tree, loaded)
    assert ocp.metadata(tmp_path / "1").custom_metadata == METADATA


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"a": [1.5]}, "a/0: expected a dict, a list or an array, got float."),
        ({"a": (np.zeros(1),)}, "a: expected a dict, a list or an array, got tuple."),
        ({"a": None}, "a: expected a dict, a list or an array, got NoneType."),
        ({"a": {1: np.zeros(1)}}, "a/1: the keys of a dict must be text, got 1."),
        ({"a": OrderedDict(b=np.zeros(1))}, "a: expected a dict, a list or an array, got OrderedDict."),
        ({"a": np.array(["x"])}, "a: arrays of dtype <U1 are not saved."),
        ({"a": np.zeros(1, ">f4")}, "a: arrays of dtype >f4 are not saved."),
        (np.zeros(1), "the tree: expected a dict, a list or an array, got ndarray."),
    ],
)
def test_what_is_not_an_array_is_refused(tmp_path: Path, tree: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        checkpoint.save(tmp_path / "1", tree, {})
    assert str(caught.value) == text
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"a.b": np.zeros(1), "a": {"b": np.ones(1)}}, "a.b: the keys of a dict must not hold '.' or '/', got 'a.b'."),
        ({"x": [{"a/b": np.zeros(1)}]}, "x/0/a/b: the keys of a dict must not hold '.' or '/', got 'a/b'."),
        ({"a": {"..": {}}}, "a/..: the keys of a dict must not hold '.' or '/', got '..'."),
        ({}, "the tree is empty; a checkpoint needs an array."),
        ([], "the tree is empty; a checkpoint needs an array."),
    ],
)
def test_what_orbax_would_confuse_is_refused(tmp_path: Path, tree: Any, text: str) -> None:
    """Of {"a.b": x, "a": {"b": y}} it gives y twice."""
    with pytest.raises(ValueError) as caught:
        checkpoint.save(tmp_path / "1", tree, {})
    assert str(caught.value) == text
    assert not os.listdir(tmp_path)


def test_random_keys_and_metadata_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"k: a random key is saved as its data; pass jax.random.key_data\(key\)"):
        checkpoint.save(tmp_path / "1", {"k": jax.random.key(0)}, {})
    with pytest.raises(ValueError, match="metadata: .*instead of NaN and infinity"):
        checkpoint.save(tmp_path / "1", {"a": np.ones(1)}, {"loss": float("nan")})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("there", [False, True])
def test_no_folder_or_an_empty_one_is_no_checkpoint(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "1").mkdir()
    with pytest.raises(checkpoint.DamagedCheckpoint) as caught:
        checkpoint.read(tmp_path / "1")
    assert str(caught.value) == f"{tmp_path / '1'} is damaged: checkpoint.json: expected a description, found no file"
    assert not checkpoint.is_described(tmp_path / "1")


def flips(folder: Path) -> list[tuple[Path, int]]:
    """Some eight places in each file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return [
        (path, position)
        for path in paths
        for position in sorted({int(x) for x in np.linspace(0, path.stat().st_size - 1, 8)})
    ]


def test_a_flipped_byte_never_changes_data_silently(tmp_path: Path) -> None:
    tree = small_tree()
    folder = tmp_path / "42"
    checkpoint.save(folder, tree, METADATA)
    for path, position in flips(folder):
        whole = path.read_bytes()
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(checkpoint.DamagedCheckpoint, match=f"{path.relative_to(folder)}: expected .*, found "):
            checkpoint.read(folder)
        path.write_bytes(whole)
    assert_same(tree, checkpoint.read(folder).tree)


def test_a_digit_that_no_float_needs_is_noticed_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "1", {"a": np.ones(2)}, {"seconds": 0.30000001192092896})
    path = tmp_path / "1" / "checkpoint.json"
    text = path.read_text()
    assert float("0.30000001192092897") == 0.30000001192092896
    path.write_text(text.replace("0.30000001192092896", "0.30000001192092897"))
    with pytest.raises(checkpoint.DamagedCheckpoint, match="differs from the way it was written"):
        checkpoint.read(tmp_path / "1")
    path.write_text(text)
    assert checkpoint.read(tmp_path / "1").metadata == {"seconds": 0.30000001192092896}


def replace_state(folder: Path, other: Any) -> None:
    """As if Orbax restored something else although all files are as they were written."""
    ocp.save(folder.parent / "other", other, checkpointable_name="state", overwrite=True)
    shutil.rmtree(folder / "state")
    (folder.parent / "other" / "state").rename(folder / "state")
    description = checkpoint._unseal(folder / "checkpoint.json") | {"files": {}}
    (folder / "checkpoint.json").write_text(checkpoint.files.to_json(checkpoint._seal(description)))


def test_a_leaf_that_orbax_restores_wrongly_is_named(tmp_path: Path) -> None:
    tree, folder = small_tree(), tmp_path / "1"
    checkpoint.save(folder, tree, {})
    first = tree["generator"][0]
    kernel = first["kernel"]
    for wrong, text in [
        (kernel + 1, "leaf generator/0/kernel: expected sha256 .*, found "),
        (kernel.astype(np.float64), "leaf generator/0/kernel: expected dtype .*, found "),
        (kernel[:2], "leaf generator/0/kernel: expected shape .*, found "),
        (None, r"leaf generator/0/kernel: expected shape \[3, 4\], found nothing"),
        ({"a": kernel}, r"expected the arrays \['generator/0/kernel', .*\], found \['generator/0/kernel/a', "),
    ]:
        replace_state(folder, tree | {"generator": [first | {"kernel": wrong}, {}, []], "none yet": None})
        with pytest.raises(checkpoint.DamagedCheckpoint, match=text):
            checkpoint.read(folder)
    replace_state(folder, tree | {"none yet": None})
    assert_same(tree, checkpoint.read(folder).tree)


def data_file(folder: Path) -> Path:
    return max((folder / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "missing", "no description", "empty folder", "zeros"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    folder, tree = tmp_path / "42", small_tree()
    checkpoint.save(folder, tree, {})
    path = data_file(folder)
    size, name = path.stat().st_size, path.relative_to(folder).as_posix()
    if damage == "truncated":
        os.truncate(path, size // 2)
        expected = f"{name}: expected bytes {size}, found {size // 2}"
    elif damage == "emptied":
        os.truncate(path, 0)
        expected = f"{name}: expected bytes {size}, found 0"
    elif damage == "missing":
        path.unlink()
        expected = f"{name}: expected {size} bytes, found no file"
    elif damage == "zeros":  # what a power cut may leave
        path.write_bytes(bytes(size))
        expected = f"{name}: expected sha256 "
    else:
        (folder / "checkpoint.json").unlink()
        if damage == "empty folder":
            shutil.rmtree(folder)
            folder.mkdir()
        expected = "checkpoint.json: expected a description, found no file"
    with pytest.raises(checkpoint.DamagedCheckpoint) as caught:
        checkpoint.read(folder)
    assert str(caught.value).startswith(f"{folder} is damaged: {expected}")

    checkpoint.save(folder, tree, {"which": "again"})  # over the damaged one
    assert_same(tree, checkpoint.read(folder).tree)
    assert os.listdir(tmp_path) == ["42"]


def test_a_newer_format_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "2"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 3)
        checkpoint.save(folder, small_tree(), {})
    with pytest.raises(checkpoint.NewerFormat) as caught:
        checkpoint.read(folder)
    assert str(caught.value) == f"{folder} has format version 3, this dgm_jax reads up to 2; upgrade dgm_jax."
    checkpoint.save(folder, small_tree(), {})
    assert json.loads((folder / "checkpoint.json").read_text())["format_version"] == 2


def test_format_1_is_read(tmp_path: Path) -> None:
    """Orbax had a flat dict without empty arrays, and the description the nesting, with any keys."""
    for tree in (small_tree() | {"a.b": np.ones(2), "a/b": np.zeros(2), "a": {"b": np.full(2, 2)}}, {}, [np.zeros(0)]):
        format_1.save(tmp_path / "0000999999", tree, METADATA)
        restored = checkpoint.read(tmp_path / "0000999999")
        assert_same(tree, restored.tree)
        assert restored.metadata == METADATA
    format_1.save(tmp_path / "0000999999", small_tree(), METADATA)
    for path, position in flips(tmp_path / "0000999999"):
        whole = path.read_bytes()
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(checkpoint.DamagedCheckpoint, match="expected .*, found "):
            checkpoint.read(tmp_path / "0000999999")
        path.write_bytes(whole)


def test_a_save_that_dies_leaves_the_old_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, whole = small_tree(), tmp_path / "1"
    checkpoint.save(whole, tree, {})
    for name in (".2.partial", ".2.partial.orbax-checkpoint-tmp", ".0.deleted"):
        shutil.copytree(whole, tmp_path / name)  # what a kill leaves, in the worst case complete but for its name

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.files, "write_json", fail)
        with pytest.raises(OSError, match="no space left"):
            checkpoint.save(whole, small_tree(5), {})
    assert os.listdir(tmp_path) == ["1"]
    assert_same(tree, checkpoint.read(whole).tree)


def test_ctrl_c_lets_a_save_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return save(*arguments, **options)

    save = ocp.save
    monkeypatch.setattr(checkpoint.ocp, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "1", small_tree(), METADATA)
    assert_same(small_tree(), checkpoint.read(tmp_path / "1").tree)


def test_delete_renames_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1", "2"):
        checkpoint.save(tmp_path / name, small_tree(), {})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)  # killed before anything is removed
        checkpoint.delete(tmp_path / "2")
    assert sorted(os.listdir(tmp_path)) == [".2.deleted", "1"]
    with pytest.raises(FileNotFoundError):
        checkpoint.delete(tmp_path / "2")
    checkpoint.delete(tmp_path / "1")
    assert os.listdir(tmp_path) == []


def test_saving_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("absl").level
    with caplog.at_level(logging.INFO):
        checkpoint.save(tmp_path / "1", small_tree(), {})
        checkpoint.read(tmp_path / "1")
    assert not [record for record in caplog.records if record.name == "absl"]
    assert logging.getLogger("absl").level == level


def test_everything_is_on_the_disk_before_the_step_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut could leave a step whose name is there, but not its content; then its name is kept too."""
    events: list[tuple[str, int]] = []
    flush, rename = os.fsync, Path.rename

    def flushed(descriptor: int) -> None:
        events.append(("flushed", os.fstat(descriptor).st_ino))
        flush(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        if path.parent == tmp_path:
            events.append(("renamed", path.stat().st_ino))
        return rename(path, target)

    monkeypatch.setattr(checkpoint.os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    folder = tmp_path / "1"
    checkpoint.save(folder, small_tree(), METADATA)
    at = events.index(("renamed", folder.stat().st_ino))
    before = {number for _, number in events[:at]}
    assert {path.stat().st_ino for path in (folder, *folder.rglob("*"))} <= before
    assert events[at + 1 :] == [("flushed", tmp_path.stat().st_ino)]

    events.clear()
    number = folder.stat().st_ino
    checkpoint.delete(folder)
    assert events == [("renamed", number), ("flushed", tmp_path.stat().st_ino)]


@pytest.mark.parametrize("blocks, needed", [(1, True), (0, False)])
def test_a_disk_has_room_for_twice_the_arrays_and_their_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, needed: bool
) -> None:
    """A disk that does not know how large it is (it has 0 blocks) is tried."""
    free = [0]
    space = lambda _: types.SimpleNamespace(f_blocks=blocks, f_bavail=free[0], f_frsize=8)  # noqa: E731
    monkeypatch.setattr(checkpoint.os, "statvfs", space)
    tree = {"a": np.ones(3000), "b": np.ones((50, 20), np.float32)}  # 24,000 and 4,000 bytes.
    free[0] = (2 * 28_000 + 2**17) // 8
    checkpoint.save(tmp_path / "1", tree, {})
    free[0] -= 1
    if not needed:
        checkpoint.save(tmp_path / "2", tree, {})
        return
    with pytest.raises(OSError, match="/.2.partial") as caught:
        checkpoint.save(tmp_path / "2", tree, {})
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize(
    "failure", [MemoryError("Unable to allocate 2.00 GiB"), OSError(errno.EMFILE, os.strerror(errno.EMFILE))]
)
def test_a_failure_of_the_environment_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    checkpoint.save(tmp_path / "1", small_tree(), {})
    for where in ((checkpoint.ocp, "load"), (checkpoint, "_describe_files"), (Path, "read_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(*where, lambda *_, **__: (_ for _ in ()).throw(failure))
            with pytest.raises(type(failure)):
                checkpoint.read(tmp_path / "1")
    assert_same(small_tree(), checkpoint.read(tmp_path / "1").tree)


def test_what_orbax_cannot_read_here_is_said_to_be_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "2", small_tree(), {})
    monkeypatch.setattr(checkpoint.ocp, "load", lambda *_, **__: (_ for _ in ()).throw(KeyError("another version")))
    with pytest.raises(checkpoint.UnreadableCheckpoint, match="/2 is intact, but Orbax cannot read it here"):
        checkpoint.read(tmp_path / "2")


def test_a_process_that_reads_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    alone = checkpoint._without_other_processes().multiprocessing
    assert (alone.primary_host, alone.active_processes) == (3, {3})
    assert alone.barrier_sync_key_prefix == "process_3"
