"""What is saved comes back bit for bit, or damage is named and the step before it is used."""

import errno
import json
import logging
import os
import shutil
import signal
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

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
        assert type(restored) is dict and list(saved) == list(restored)
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


def undamaged(text: str) -> None:
    raise AssertionError(f"no damage expected: {text}")


def read(directory: Path, step: int | None = None) -> checkpoint.Checkpoint:
    restored = checkpoint.restore(directory, step, on_damage=undamaged)
    assert restored is not None
    return restored


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
    checkpoint.save(tmp_path, 7, tree, METADATA)
    restored = read(tmp_path)
    assert_same(tree, restored.tree)
    assert (restored.step, restored.metadata) == (7, METADATA)


def test_every_bit_of_a_float_survives(tmp_path: Path) -> None:
    # -0, both infinities, quiet and signalling NaNs, the smallest denormal
    bits = [0x80000000, 0x7F800000, 0xFF800000, 0x7FC00123, 0xFFC00001, 0x7F800001, 0x00000001]
    tree = {"x": np.array(bits, np.uint32).view(np.float32), "zero": np.float32(-0.0), "zeros": np.full((9,), -0.0)}
    checkpoint.save(tmp_path, 0, tree, {})
    assert_same(tree, read(tmp_path).tree)


@pytest.mark.parametrize("tree", [{}, [], {"a": {}, "b": [[], {}]}, {"empty": np.zeros((0, 2), np.uint8)}])
def test_trees_without_a_number_come_back(tmp_path: Path, tree: Any) -> None:
    checkpoint.save(tmp_path, 1, tree, METADATA)
    restored = read(tmp_path)
    assert_same(tree, restored.tree)
    assert restored.metadata == METADATA


def test_no_two_keys_are_confused_and_order_is_kept(tmp_path: Path) -> None:
    keys = ["b", "a/b", "a", "a.b", "", "..", "a%2Fb", "0", "d", "c d", "grün", "_METADATA"]
    tree = {key: {"x": np.full(2, i)} for i, key in enumerate(keys)} | {"a": {"b": {"x": np.full(2, -1)}}}
    tree["list"] = [np.full(1, i) for i in range(11)]  # type: ignore[assignment]
    checkpoint.save(tmp_path, 1, tree, {})
    assert_same(tree, read(tmp_path).tree)


def test_views_are_saved_as_they_look(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 6)
    tree = {"transposed": array.T, "strided": array[::2, ::-3], "column": array[:, 1]}
    checkpoint.save(tmp_path, 1, tree, {})
    assert_same(tree, read(tmp_path).tree)


def test_plain_orbax_reads_the_folder(tmp_path: Path) -> None:
    tree = small_tree()
    loaded: Any = ocp.load(checkpoint.save(tmp_path, 1, tree, {}))
    np.testing.assert_array_equal(loaded["generator/0/kernel"], tree["generator"][0]["kernel"])


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"a": [1.5]}, "a/0: expected a dict, a list or an array, got float."),
        ({"a": (np.zeros(1),)}, "a: expected a dict, a list or an array, got tuple."),
        ({"a": None}, "a: expected a dict, a list or an array, got NoneType."),
        ({"a": {1: np.zeros(1)}}, "a: the keys of a dict must be text, got [1]."),
        ({"a": np.array(["x"])}, "a: arrays of dtype <U1 are not saved."),
        ({"a": np.zeros(1, ">f4")}, "a: arrays of dtype >f4 are not saved."),
        (np.zeros(1), "the tree: expected a dict, a list or an array, got ndarray."),
    ],
)
def test_what_is_not_an_array_is_refused(tmp_path: Path, tree: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        checkpoint.save(tmp_path, 1, tree, {})
    assert str(caught.value) == text
    assert not os.listdir(tmp_path)


def test_random_keys_metadata_and_steps_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"k: a random key is saved as its data; pass jax.random.key_data\(key\)"):
        checkpoint.save(tmp_path, 1, {"k": jax.random.key(0)}, {})
    with pytest.raises(ValueError, match="metadata: .*instead of NaN and infinity"):
        checkpoint.save(tmp_path, 1, {}, {"loss": float("nan")})
    with pytest.raises(ValueError, match="step=-1 must be at least 0"):
        checkpoint.save(tmp_path, -1, {}, {})
    assert not os.listdir(tmp_path)


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.restore(tmp_path, on_damage=undamaged) is None
    assert checkpoint.restore(tmp_path / "none", on_damage=undamaged) is None
    assert checkpoint.steps(tmp_path / "none") == []
    checkpoint.save(tmp_path, 3, {}, {})
    with pytest.raises(FileNotFoundError, match=r"there is no .*0000000007; the existing steps are \[3\]"):
        checkpoint.restore(tmp_path, 7, on_damage=undamaged)


def test_steps_are_ascending_and_ignore_what_is_not_one(tmp_path: Path) -> None:
    for step in (10, 2, 12345678901):
        assert checkpoint.save(tmp_path, step, {}, {}).name == f"{step:010d}"
    (tmp_path / ".0000000011.partial").mkdir()
    (tmp_path / "0000000012").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "0000000013").write_text("")
    assert checkpoint.steps(tmp_path) == [2, 10, 12345678901]
    assert read(tmp_path, 2).step == 2


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
    folder = checkpoint.save(tmp_path, 42, tree, METADATA)
    for path, position in flips(folder):
        whole = path.read_bytes()
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(checkpoint.DamagedCheckpoint, match=f"{path.relative_to(folder)}: expected .*, found "):
            read(tmp_path)
        path.write_bytes(whole)
    assert_same(tree, read(tmp_path).tree)


def test_a_digit_that_no_float_needs_is_noticed_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"a": np.ones(2)}, {"seconds": 0.30000001192092896})
    path = tmp_path / "0000000001" / "checkpoint.json"
    text = path.read_text()
    assert float("0.30000001192092897") == 0.30000001192092896
    path.write_text(text.replace("0.30000001192092896", "0.30000001192092897"))
    with pytest.raises(checkpoint.DamagedCheckpoint, match="differs from the way it was written"):
        checkpoint.restore(tmp_path, 1, on_damage=print)
    path.write_text(text)
    assert checkpoint.restore(tmp_path, 1, on_damage=print) is not None


def test_a_leaf_that_orbax_restores_wrongly_is_named(tmp_path: Path) -> None:
    tree = small_tree()
    folder = checkpoint.save(tmp_path, 1, tree, {})
    for kernel, what in [
        (tree["generator"][0]["kernel"] + 1, "sha256"),
        (tree["generator"][0]["kernel"].astype(np.float64), "dtype"),
        (tree["generator"][0]["kernel"][:2], "shape"),
    ]:
        other = {"generator/0/kernel": kernel, "generator/0/mask": tree["generator"][0]["mask"], "key": tree["key"]}
        ocp.save(tmp_path / "other", other, checkpointable_name="arrays", overwrite=True)
        shutil.rmtree(folder / "arrays")
        (tmp_path / "other" / "arrays").rename(folder / "arrays")
        description = checkpoint._unseal(folder / "checkpoint.json") | {"files": {}}
        (folder / "checkpoint.json").write_text(checkpoint.files.to_json(checkpoint._seal(description)))
        with pytest.raises(checkpoint.DamagedCheckpoint, match=f"leaf generator/0/kernel: expected {what} .*, found "):
            checkpoint.restore(tmp_path, 1, on_damage=undamaged)


def data_file(folder: Path) -> Path:
    return max((folder / "arrays" / "d").iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "missing", "no description", "empty folder", "zeros"])
def test_a_damaged_step_is_named_and_the_one_before_it_used(tmp_path: Path, damage: str) -> None:
    old, new = small_tree(1), small_tree(2)
    checkpoint.save(tmp_path, 41, old, {"which": "old"})
    folder = checkpoint.save(tmp_path, 42, new, {"which": "new"})
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
        assert checkpoint.steps(tmp_path) == [41]
        expected = "checkpoint.json: expected a description, found no file"

    messages: list[str] = []
    restored = checkpoint.restore(tmp_path, on_damage=messages.append)
    assert restored is not None and (restored.step, restored.metadata) == (41, {"which": "old"})
    assert_same(old, restored.tree)
    (text,) = messages
    assert text.startswith(f"{folder} is damaged: {expected}")
    assert text.endswith("; step 41 is used instead.")

    others = r"0000000042 is damaged: .*; the other existing steps are \[41\]"
    with pytest.raises(checkpoint.DamagedCheckpoint, match=others):
        checkpoint.restore(tmp_path, 42, on_damage=undamaged)

    checkpoint.save(tmp_path, 42, new, {"which": "again"})  # over the damaged one
    assert_same(new, read(tmp_path).tree)
    assert sorted(os.listdir(tmp_path)) == ["0000000041", "0000000042"]


def test_no_whole_step_is_an_error_that_names_each(tmp_path: Path) -> None:
    for step in (1, 2):
        os.truncate(data_file(checkpoint.save(tmp_path, step, small_tree(), {})), 5)
    with pytest.raises(checkpoint.DamagedCheckpoint) as caught:
        checkpoint.restore(tmp_path, on_damage=undamaged)
    assert "no intact checkpoint is left" in str(caught.value)
    assert "0000000001 is damaged" in str(caught.value) and "0000000002 is damaged" in str(caught.value)


def test_a_folder_under_another_number_is_damaged(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {}, {}).rename(tmp_path / "0000000005")
    with pytest.raises(checkpoint.DamagedCheckpoint, match="expected step 5, as the folder says, found 1"):
        checkpoint.restore(tmp_path, 5, on_damage=undamaged)


def test_a_newer_format_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {}, {})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 2)
        folder = checkpoint.save(tmp_path, 2, {}, {})
    with pytest.raises(checkpoint.NewerFormat) as caught:
        checkpoint.restore(tmp_path, on_damage=undamaged)
    assert str(caught.value) == f"{folder} has format version 2, this dgm_jax reads up to 1; upgrade dgm_jax."
    description = json.loads((tmp_path / "0000000001" / "checkpoint.json").read_text())
    assert description["format_version"] == 1


def test_a_save_that_dies_leaves_the_old_steps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = small_tree()
    whole = checkpoint.save(tmp_path, 1, tree, {})
    for name in (".0000000002.partial", ".0000000002.partial.orbax-checkpoint-tmp", ".0000000000.deleted"):
        shutil.copytree(whole, tmp_path / name)  # what a kill leaves, in the worst case complete but for its name
    assert checkpoint.steps(tmp_path) == [1]
    assert_same(tree, read(tmp_path).tree)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.files, "write_json", fail)
        with pytest.raises(OSError, match="no space left"):
            checkpoint.save(tmp_path, 1, small_tree(5), {})
    assert os.listdir(tmp_path) == ["0000000001"]
    assert_same(tree, read(tmp_path).tree)


def test_ctrl_c_lets_a_save_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return save(*arguments, **options)

    save = ocp.save
    monkeypatch.setattr(checkpoint.ocp, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 1, small_tree(), METADATA)
    restored = checkpoint.restore(tmp_path, on_damage=pytest.fail)
    assert restored is not None and restored.step == 1
    assert_same(small_tree(), restored.tree)


def test_delete_renames_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, small_tree(step), {})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)  # killed before anything is removed
        checkpoint.delete(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == [1]
    assert read(tmp_path).step == 1
    with pytest.raises(FileNotFoundError):
        checkpoint.delete(tmp_path, 2)
    checkpoint.delete(tmp_path, 1)
    assert os.listdir(tmp_path) == []


def test_saving_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("absl").level
    with caplog.at_level(logging.INFO):
        checkpoint.save(tmp_path, 1, small_tree(), {})
        read(tmp_path)
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
    folder = checkpoint.save(tmp_path, 1, small_tree(), METADATA)
    at = events.index(("renamed", folder.stat().st_ino))
    before = {number for _, number in events[:at]}
    assert {path.stat().st_ino for path in (folder, *folder.rglob("*"))} <= before
    assert events[at + 1 :] == [("flushed", tmp_path.stat().st_ino)]

    events.clear()
    number = folder.stat().st_ino
    checkpoint.delete(tmp_path, 1)
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
    checkpoint.save(tmp_path, 1, tree, {})
    free[0] -= 1
    if not needed:
        checkpoint.save(tmp_path, 2, tree, {})
        return
    with pytest.raises(OSError, match="0000000002.*partial") as caught:
        checkpoint.save(tmp_path, 2, tree, {})
    assert caught.value.errno == errno.ENOSPC
    assert checkpoint.steps(tmp_path) == [1]


@pytest.mark.parametrize(
    "failure", [MemoryError("Unable to allocate 2.00 GiB"), OSError(errno.EMFILE, os.strerror(errno.EMFILE))]
)
def test_a_failure_of_the_environment_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """The newest checkpoint is whole: an older one in its place would lose work."""
    for step in (1, 2):
        checkpoint.save(tmp_path, step, small_tree(step), {})
    told: list[str] = []
    for where in ((checkpoint.ocp, "load"), (checkpoint, "_describe_files"), (Path, "read_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(*where, lambda *_, **__: (_ for _ in ()).throw(failure))
            with pytest.raises(type(failure)):
                checkpoint.restore(tmp_path, on_damage=told.append)
    restored = checkpoint.restore(tmp_path, on_damage=undamaged)
    assert not told and restored is not None and restored.step == 2


def test_what_orbax_cannot_read_here_is_said_to_be_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, small_tree(step), {})
    monkeypatch.setattr(checkpoint.ocp, "load", lambda *_, **__: (_ for _ in ()).throw(KeyError("another version")))
    with pytest.raises(checkpoint.UnreadableCheckpoint, match="0000000002 is intact, but Orbax cannot read it here"):
        checkpoint.restore(tmp_path, on_damage=undamaged)


def test_a_process_that_reads_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    alone = checkpoint._without_other_processes().multiprocessing
    assert (alone.primary_host, alone.active_processes) == (3, {3})
    assert alone.barrier_sync_key_prefix == "process_3"
