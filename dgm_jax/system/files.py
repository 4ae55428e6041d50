"""The one place that writes small files: whole or not at all, and one run to a folder."""

from __future__ import annotations

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
    """Writes a file that a reader, or a crash at any moment, sees old or new but never in part.

    Args:
      path: the file to make or replace; its folder must exist.
      data: the content; text is written as UTF-8.

    Raises:
      OSError: if the folder does not exist or cannot be written; the old file is then untouched and nothing left over.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:  # not mkstemp: its mode 0600 would outlive the rename
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically, keys in the order they were inserted.

    Args:
      path: the file to make or replace.
      value: dicts, lists, text, numbers, booleans and None.

    Raises:
      ValueError: if a number is NaN or infinite, which JSON cannot hold.
      TypeError: if `value` holds anything else that is not JSON.
    """
    try:
        text = to_json(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; write None, or text, in place of NaN and infinity.") from error
    write_atomically(path, text)


def to_json(value: Any) -> str:
    """The text that `write_json` writes; raises what it does."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_npz(path: PathLike, **arrays: np.ndarray) -> None:
    """Writes arrays by name as a compressed .npz file, atomically."""
    write_atomically(path, to_npz(arrays))


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as the bytes of a compressed .npz file."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # Its stub takes them for allow_pickle.
    return content.getvalue()


def append_line(path: PathLike, text: str) -> None:
    """Appends `text` and a line end in one system call, so that lines never mix and at most the last one can be torn.

    Args:
      path: the file, made if missing; one process at a time writes it (see `RunLock`).
      text: one line, without its line end.

    Raises:
      ValueError: if `text` holds a line end.
      OSError: if the line did not fit (a full disk); the file is then as before.
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


def read_jsonl(path: PathLike) -> list[dict[str, Any]]:
    """Reads a JSON-lines file; no file is no records.

    A last line that is torn (the process died while writing it) is ignored.

    Args:
      path: a file whose every line is a JSON object.

    Raises:
      ValueError: if a line other than the last is not a JSON object; the text names the line.
    """
    return [record for _, record in _jsonl(Path(path))]


def truncate_jsonl(path: PathLike, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites a JSON-lines file, atomically, with only the lines that `keep` accepts, byte for byte as they were.

    A run that resumes calls this before it appends: records newer than the checkpoint go, and so does a torn last line.

    Args:
      path: the file; none is none to rewrite.
      keep: says of one record whether it stays.

    Raises:
      ValueError: if a line other than the last is not a JSON object.
    """
    path = Path(path)
    if path.exists():
        write_atomically(path, b"".join(line + b"\n" for line, record in _jsonl(path) if keep(record)))


def sync(path: PathLike) -> None:
    """Flushes a file or a folder (its list of names) to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _jsonl(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each whole line, without its end, with its record."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not a JSON object ({error}): {line[:80]!r}") from error
        records.append((line, record))
    return records
