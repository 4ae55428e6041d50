"""Writes and reads small files: JSON, JSON lines, npz. All files are written atomically."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PathLike = str | os.PathLike[str]


def write_atomically(path: PathLike, data: bytes | str) -> None:
    """Writes a file atomically: after a crash at any moment, the file has either its old or its new content.

    Args:
      path: the file to create or replace; its folder must exist.
      data: the content; text is written as UTF-8.

    Raises:
      OSError: if the folder does not exist or cannot be written; the old file is then unchanged.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:  # Not mkstemp: the file would keep its mode 0600.
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: PathLike, value: Any) -> None:
    """Writes `value` (dicts, lists, text, numbers, booleans, None) as indented JSON, atomically, with keys in order.

    Raises:
      ValueError: if a number is NaN or infinite, which JSON cannot hold.
      TypeError: if `value` holds anything else that is not JSON.
    """
    try:
        text = to_json(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; write None or text instead of NaN and infinity.") from error
    write_atomically(path, text)


def to_json(value: Any) -> str:
    """The text that `write_json` writes; raises the same errors."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_npz(path: PathLike, **arrays: np.ndarray) -> None:
    """Writes arrays by name as a compressed .npz file, atomically."""
    write_atomically(path, to_npz(arrays))


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as the bytes of a compressed .npz file."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # The type stub takes them for allow_pickle.
    return content.getvalue()


def append_line(path: PathLike, text: str) -> None:
    """Appends a line in one system call, so that lines never mix and a kill leaves only the last one incomplete.

    The file is created if it is missing; its name is on the disk then, its lines only after `sync`. Only one process at
    a time writes to it (see `lock.RunLock`).

    Raises:
      ValueError: if `text` contains a line end.
      OSError: if the disk is too full for the line; the file is then unchanged.
    """
    if "\n" in text:
        raise ValueError(f"{path}: a line must not contain a line end: {text!r}.")
    line = text.encode("utf-8") + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, line) != len(line):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, "no room for a whole line", os.fspath(path))
    finally:
        os.close(descriptor)
    if size == 0:  # Syncing a file does not sync its name: a power cut could take the whole file away.
        sync(Path(path).parent)


def read_jsonl(path: PathLike) -> list[dict[str, Any]]:
    """Reads a file with one JSON object per line; if there is no file, returns no records.

    What cannot be read at the end of the file is ignored: the process died while writing it.

    Raises:
      ValueError: if a line before others is not a JSON object; the message names the line.
    """
    return [record for _, record in _jsonl(Path(path), lambda _: True)]


def truncate_jsonl(path: PathLike, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Removes the lines of a JSON-lines file that `keep` does not accept, atomically; other lines do not change.

    A resumed run calls this before it appends, to remove records newer than its checkpoint, and what cannot be read
    after the last record that stays: a power cut can leave zeros in place of several lines. Nothing happens if there is
    no file; raises as `read_jsonl` if a record that stays comes after what cannot be read.
    """
    path = Path(path)
    if path.exists():
        write_atomically(path, b"".join(line + b"\n" for line, _ in _jsonl(path, keep)))


def make_folder(path: PathLike) -> None:
    """Makes a folder, and those above it, if they are missing; a power cut after this does not take it away."""
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        with contextlib.suppress(PermissionError):  # One may write in some folders that one may not read.
            sync(folder.parent)


def sync(path: PathLike) -> None:
    """Flushes a file, or the list of names of a folder, to the disk, so that a rename is not lost in a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> list[tuple[bytes, dict[str, Any]]]:
    """Each complete line to keep, without its line end, and its record."""
    if not path.exists():
        return []
    records = []
    unreadable: ValueError | None = None
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if unreadable is None:
                unreadable = ValueError(f"{path}, line {number} is not a JSON object ({error}): {line[:80]!r}")
            continue
        if keep(record):
            if unreadable is not None:
                raise unreadable
            records.append((line, record))
    return records
