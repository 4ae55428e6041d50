"""Small files: whole or not at all, one line at a time, one run to a folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dgm_jax.system import files, lock


def test_write_atomically_replaces_and_leaves_nothing_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_atomically(path, "grün")
    files.write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_new_file_has_the_mode_that_open_gives(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / "a", "")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    files.append_line(tmp_path / "c", "{}")
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_the_error_of_a_file_that_cannot_be_opened_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that there is no temporary file to remove."""

    def refuse(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(PermissionError, match="not yours"):
        files.write_atomically(tmp_path / "a", "")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_write_atomically_keeps_the_old_file_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OSError, match="no space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_write_json_keeps_the_order_of_keys(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [0.1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": [\n    0.1\n  ]\n}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_write_json_refuses_what_json_cannot_hold(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="a.json: .*write None or text instead of NaN and infinity"):
        files.write_json(tmp_path / "a.json", {"x": [value]})
    assert not os.listdir(tmp_path)


def test_lines_come_back_and_a_torn_last_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert files.read_jsonl(path) == []
    for step in range(3):
        files.append_line(path, json.dumps({"step": step}))
    whole = path.read_bytes()
    for torn in (b'{"st', b'{"step": 3, "x": "\xc3', b"12", b"\x00\x00"):
        path.write_bytes(whole + torn)
        assert [record["step"] for record in files.read_jsonl(path)] == [0, 1, 2]


def test_append_line_refuses_two_lines(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not contain a line end"):
        files.append_line(tmp_path / "a", "1\n2")


def test_append_line_takes_back_what_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    files.append_line(path, "{}")
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    with pytest.raises(OSError, match="no room for a whole line"):
        files.append_line(path, '{"step": 1}')
    assert path.read_text() == "{}\n"


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{}\n{"st\n{}\n')
    with pytest.raises(ValueError, match="a, line 2 is not a JSON object"):
        files.read_jsonl(tmp_path / "a")


def test_truncate_keeps_lines_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.truncate_jsonl(path, lambda record: True)
    assert not path.exists()
    path.write_text('{"step":1,  "x": 1e-3}\n{"step": 2}\n{"step": 3}\n{"ste')
    files.truncate_jsonl(path, lambda record: record["step"] <= 2)
    assert path.read_text() == '{"step":1,  "x": 1e-3}\n{"step": 2}\n'
    files.append_line(path, '{"step": 3}')
    assert [record["step"] for record in files.read_jsonl(path)] == [1, 2, 3]


def test_truncate_removes_what_a_power_cut_left_of_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"step": 1}\n' + bytes(11) + b'\n{"step": 3}\n' + bytes(5) + b"\n")
    with pytest.raises(ValueError, match="a, line 2 is not a JSON object"):
        files.truncate_jsonl(path, lambda record: True)
    files.truncate_jsonl(path, lambda record: record["step"] < 2)
    assert path.read_text() == '{"step": 1}\n'


def test_new_names_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append(Path(path)))
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and sorted(synced) == [tmp_path, tmp_path / "a"]
    for _ in range(2):
        files.append_line(tmp_path / "a" / "lines", "{}")
    assert synced[2:] == [tmp_path / "a"]


def test_the_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    workdir = tmp_path / "new" / "run"
    with lock.RunLock(workdir):
        with pytest.raises(lock.WorkdirInUse) as caught, lock.RunLock(workdir):
            pass
        assert str(caught.value) == (
            f"--workdir {workdir} is in use by process {os.getpid()} on host {socket.gethostname()}; "
            "wait until it ends, or choose another --workdir."
        )
    with lock.RunLock(workdir):
        pass


def test_an_unsigned_lock_still_holds(tmp_path: Path) -> None:
    with lock.RunLock(tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(lock.WorkdirInUse, match="in use by another process"), lock.RunLock(tmp_path):
            pass


def test_the_lock_is_let_go_on_error_and_on_death(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock.RunLock(tmp_path):
        raise KeyError
    script = (
        "import signal, sys; from dgm_jax.system.lock import RunLock; lock = RunLock(sys.argv[1]); lock.__enter__(); "
    )
    script += "print('held', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "held\n"
            with pytest.raises(lock.WorkdirInUse, match=f"process {child.pid} "), lock.RunLock(tmp_path):
                pass
        finally:
            child.kill()
    with lock.RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(lock.WorkdirError, match=f"--workdir {workdir} cannot be created"), lock.RunLock(workdir):
            pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(lock.WorkdirError, match="is not writable by this user"), lock.RunLock(tmp_path):
        pass


def watch_the_disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Lists what is flushed to the disk or renamed from now on, each by its number on the disk (inode)."""
    events: list[tuple[str, int]] = []
    flush, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        events.append(("flushed", os.fstat(descriptor).st_ino))
        flush(descriptor)

    def replaced(old: Path, new: Path) -> None:
        events.append(("renamed", os.stat(old).st_ino))
        replace(old, new)

    monkeypatch.setattr(files.os, "fsync", flushed)
    monkeypatch.setattr(files.os, "replace", replaced)
    return events


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = watch_the_disk(monkeypatch)
    files.write_atomically(tmp_path / "a", "text")
    file, folder = (tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino
    assert events == [("flushed", file), ("renamed", file), ("flushed", folder)]


def test_the_content_has_left_python_before_it_is_flushed_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    files.write_atomically(tmp_path / "a", "text")
    assert sizes[0] == 4
