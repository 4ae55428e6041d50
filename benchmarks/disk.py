"""What a disk may hold after a power cut: the calls of a process, written down by strace, are replayed.

The replay knows at each moment what is surely on the disk (what was synced) and what may be lost: a write without a
sync of its file, a new, renamed or deleted name without a sync of its folder. This is what POSIX promises; most file
systems keep more. A power cut leaves of the latter all, nothing, a beginning, only names, only data, or any part; of a
write it may leave the beginning, or only the length, with zeros for data. A rename within a folder is never halved.
"""

import functools
import hashlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dgm_jax.errors import UserError

KINDS = ("everything", "nothing", "names", "names and lengths", "data", "a beginning", *["any part"] * 4)
_CALLS = (  # Those that the replay knows; at its end the files on the disk show whether a run used others.
    "open,openat,write,writev,ftruncate,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,fsync,fdatasync,"
    "mmap"
)
_WRITES, _SYNCS = ("write", "writev"), ("fsync", "fdatasync")

Tree = dict[str, bytes | None]  # The content of each file by its path; None: a folder.


def trace(command: Sequence[str], to: Path) -> None:
    """Runs a command, and writes its calls with all their data into a file."""
    strace = ["strace", "-f", "-y", "-xx", "-s", "1000000000", "--seccomp-bpf", "-e", f"trace={_CALLS}", "-o", str(to)]
    subprocess.run([*strace, *command], check=True, stdout=subprocess.DEVNULL)


class NotReplayed(UserError, NotImplementedError):
    """The traced program asked the file system for something that this replay does not know."""


class Call(NamedTuple):
    """A call of the system that succeeded; the text has its other arguments, such as flags."""

    name: str
    paths: Sequence[str]
    data: bytes
    text: str
    descriptor: int
    begun: int  # Its place among all calls.


def calls(trace: Path, base: str, mark: str) -> list[Call]:
    """Reads the calls below a folder from a trace, and the writes of texts that begin with `mark`.

    A change stands where it began, since another thread can see it before strace tells its end; a sync where it ended.
    """
    below, marked = ("".join(f"\\x{byte:02x}" for byte in os.fsencode(text)) for text in (base, mark))
    found: list[Call | None] = []
    begun: dict[str, tuple[int, str]] = {}
    with trace.open() as lines:
        for line in lines:
            thread, _, text = line.strip().partition(" ")
            place, text = len(found), text.lstrip()
            if text.endswith("<unfinished ...>"):
                begun[thread] = place, text.removesuffix("<unfinished ...>")
                found.append(None)
                continue
            if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
                place, first = begun.pop(thread)
                text = first + text[resumed.end() :]
            ended = re.match(r"(\w+)\((.*)\) += (\w+)(?:<.*>)?$", text)
            if ended is None or (below not in text and marked not in text):  # It failed, or it is none of ours.
                continue
            name, arguments, result = ended.groups()
            call = _parse(name, arguments, int(result, 0), place)
            if place == len(found) or call.name in _SYNCS:
                found.append(call)
            else:
                found[place] = call
    return [call for call in found if call is not None]


def _parse(name: str, arguments: str, result: int, place: int) -> Call:
    folder, paths, strings, descriptor = "", [], [], result
    for number, where, string in re.findall(r'(\w+)<([^>]*)>|"([^"]*)"', arguments):
        if number:
            folder, descriptor = os.fsdecode(_bytes(where)), int(number) if number.isdecimal() else descriptor
        else:
            strings.append(_bytes(string))
            paths.append(os.path.join(folder, os.fsdecode(strings[-1])))
    if name.startswith("open"):
        descriptor = result
    elif name in (*_WRITES, *_SYNCS, "ftruncate", "mmap"):
        paths = [folder]
    return Call(name, paths, b"".join(strings), arguments, descriptor, place)


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


@dataclass(frozen=True)
class Change:
    """What a call changes of one file or folder: some names, its length, or a piece of its data."""

    node: int
    names: Mapping[str, int | None] | None = None  # None: the name goes.
    at: int = 0
    data: bytes | None = None  # None, without names: it is cut at `at`.

    def apply(self, nodes: dict[int, Any]) -> None:
        """Changes the content of the node."""
        before = nodes[self.node]
        if self.names is not None:
            merged = before | self.names
            nodes[self.node] = {name: node for name, node in merged.items() if node is not None}
        elif self.data is None:
            nodes[self.node] = before[: self.at]
        else:
            end = self.at + len(self.data)
            nodes[self.node] = before[: self.at].ljust(self.at, b"\0") + self.data + before[end:]

    def zeros(self) -> "Change":
        """Returns a change that gives a file its length without its data; names stay."""
        return self if self.data is None else replace(self, data=bytes(len(self.data)))

    def torn(self, chance: random.Random) -> "Change":
        """Returns a change that writes all, a beginning, or zeros; names stay."""
        if self.data is None:
            return self
        beginning = self.data[: chance.randint(0, len(self.data))]
        return chance.choice([self, replace(self, data=beginning), self.zeros()])


@dataclass
class Disk:
    """The files below a folder: as a process sees them, as they surely are on the disk, and the changes between."""

    base: str
    now: dict[int, Any] = field(default_factory=lambda: {0: {}})
    synced: dict[int, Any] = field(default_factory=lambda: {0: {}})
    pending: list[tuple[int, Change]] = field(default_factory=list)  # Each with the place where it began.
    positions: dict[int, int | None] = field(default_factory=dict)  # Of open files; None: they append.

    def do(self, call: Call) -> None:
        """Does a call; raises NotReplayed for one that this replay does not understand."""
        name, path = call.name, call.paths[0]
        if name.startswith("open"):
            self.positions[call.descriptor] = None if "O_APPEND" in call.text else 0
            if "O_CREAT" in call.text and self.find(path) is None:
                self._make(call, b"")
            elif "O_TRUNC" in call.text:
                self._change(call, Change(self._node(path)))
        elif name.startswith("mkdir"):
            self._make(call, {})
        elif name in _WRITES:
            node, at = self._node(path), self.positions[call.descriptor]
            if at is not None:
                self.positions[call.descriptor] = at + len(call.data)
            self._change(call, Change(node, at=len(self.now[node]) if at is None else at, data=call.data))
        elif name == "ftruncate":
            self._change(call, Change(self._node(path), at=int(call.text.rpartition(", ")[2])))
        elif name in ("unlink", "unlinkat", "rmdir"):
            self._name(call, {path: None})
        elif name.startswith("rename"):
            self._name(call, {path: None, call.paths[1]: self._node(path)})
        elif name in _SYNCS:
            node, left = self._node(path), []
            for begun, change in self.pending:
                if change.node == node and begun < call.begun:
                    change.apply(self.synced)
                else:
                    left.append((begun, change))
            self.pending = left
        elif "MAP_SHARED" in call.text and "PROT_WRITE" in call.text:
            raise NotReplayed(f"{name}({call.text}) is not replayed")

    def find(self, path: str) -> int | None:
        """Returns the file or folder of this path; None if there is none."""
        node: int | None = 0
        for part in Path(path).relative_to(self.base).parts:
            node = None if node is None else self.now[node].get(part)
        return node

    def after_cut(self, kind: str, chance: random.Random) -> Tree:
        """Returns what may be on the disk if the power is cut now."""
        nodes, left = dict(self.synced), [change for _, change in self.pending]
        if kind == "nothing":
            left = []
        elif kind == "names":
            left = [change for change in left if change.names is not None]
        elif kind == "names and lengths":
            left = [change.zeros() for change in left]
        elif kind == "data":
            left = [change for change in left if change.names is None]
        elif kind == "a beginning":
            left = left[: chance.randint(0, len(left))]
            left[-1:] = [change.torn(chance) for change in left[-1:]]
        elif kind == "any part":
            left = [change.torn(chance) for change in left if chance.random() < 0.5]
        for change in left:
            change.apply(nodes)
        return tree(nodes)

    def _node(self, path: str) -> int:
        node = self.find(path)
        if node is None:
            raise NotReplayed(f"{path} is not known to the replay")
        return node

    def _make(self, call: Call, content: bytes | dict[str, int]) -> None:
        node = len(self.now)
        self.now[node] = self.synced[node] = content
        self._name(call, {call.paths[0]: node})

    def _name(self, call: Call, paths: Mapping[str, int | None]) -> None:
        folders = {os.path.dirname(path) for path in paths}
        if len(folders) > 1:
            raise NotReplayed(f"a rename between folders is not replayed: {call.paths}")
        names = {os.path.basename(path): node for path, node in paths.items()}
        self._change(call, Change(self._node(folders.pop()), names))

    def _change(self, call: Call, change: Change) -> None:
        change.apply(self.now)
        self.pending.append((call.begun, change))


def tree(nodes: Mapping[int, Any], node: int = 0, path: str = "") -> Tree:
    """Returns the files and folders that have a name."""
    found: Tree = {}
    for name, child in nodes[node].items():
        below, content = path + name, nodes[child]
        found |= {below: content} if isinstance(content, bytes) else {below: None, **tree(nodes, child, below + "/")}
    return found


def write(content: Tree, folder: Path) -> None:
    """Makes a folder anew, with these files and folders."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, data in content.items():
        (folder / path).mkdir() if data is None else (folder / path).write_bytes(data)


def read(folder: Path) -> Tree:
    """Returns the files and folders of a folder."""
    return {p.relative_to(folder).as_posix(): None if p.is_dir() else p.read_bytes() for p in folder.rglob("*")}


_digest = functools.cache(lambda content: b"" if content is None else hashlib.sha256(content).digest())


def content_hash(content: Tree) -> str:
    """Returns a hash of all names and bytes."""
    return hashlib.sha256(repr(sorted((path, _digest(data)) for path, data in content.items())).encode()).hexdigest()
