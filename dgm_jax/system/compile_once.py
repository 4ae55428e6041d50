"""Processes that need the same program at the same time compile it once: the others wait, and read it from the cache.

JAX writes a program to its cache only when it is compiled, so two runs that begin together would both compile all of
theirs. JAX has no public place for a lock; this uses one of its inner modules, and without it only costs time.
"""

import errno
import hashlib
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

try:
    import fcntl

    from jax._src import compilation_cache
    from jax._src.compilation_cache_interface import CacheInterface
except ImportError:  # Windows has no such locks, or JAX has changed.
    compilation_cache = None  # type: ignore[assignment]
    CacheInterface = object  # type: ignore[assignment, misc]

_LOCKS = "being-compiled"  # A file in the folder of the cache, with a byte for each program.
_LONGEST = 60.0  # Seconds that a process waits for a program: the other may be stopped, or may never keep it.
_BETWEEN = 0.05  # Seconds between two attempts.


class _Held(threading.local):
    """What a thread has locked."""

    key: str | None = None


class _WaitingCache(CacheInterface):
    """A cache that lets one process compile what it lacks, while others that ask for the same wait.

    The operating system releases a lock when its process ends, even if it is killed. JAX does not keep every program
    that it compiles (one that calls the host, or fails), so a thread also releases its lock when it asks for the next
    one. Threads of one process do not wait for each other.
    """

    def __init__(self, cache: Any, folder: str) -> None:
        self._cache, self._path, self._held = cache, Path(folder), _Held()
        # It stays open: to close a file drops all locks that the process has on it.
        self._locks = os.open(self._path / _LOCKS, os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(OSError):  # Whoever may write to the folder may lock; the owner of the file says so.
            os.fchmod(self._locks, stat.S_IMODE(self._path.stat().st_mode) & 0o666)

    def get(self, key: str) -> bytes | None:
        """The program, or None: then this process has to compile it and to `put` it."""
        if jax.process_count() > 1:  # Only the first one puts, and the others wait for it elsewhere.
            return self._cache.get(key)
        self._release()
        self._held.key = key
        end = time.monotonic() + _LONGEST
        while not self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB) and time.monotonic() < end:
            time.sleep(_BETWEEN)
        value = self._cache.get(key)
        if value is not None:
            self._release()
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program, for those that wait, too."""
        try:
            self._cache.put(key, value)
        finally:
            self._release()

    def _release(self) -> None:
        key, self._held.key = self._held.key, None
        if key is not None:
            self._lock(key, fcntl.LOCK_UN)

    def _lock(self, key: str, how: int) -> bool:
        """Returns False if another process holds the lock."""
        place = int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)
        try:
            fcntl.lockf(self._locks, how, 1, place)
        except OSError as error:  # Some network file systems have no locks.
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True


def compile_once() -> None:
    """Lets the cache that JAX opens next be one that waits."""
    opened = getattr(compilation_cache, "get_file_cache", None)
    if opened is None or getattr(opened, "waits", False):
        return

    def get_file_cache(path: str) -> Any:
        found = opened(path)
        if found is None or "://" in path:  # A bucket has no locks.
            return found
        try:
            return _WaitingCache(found[0], path), found[1]
        except OSError:
            return found

    get_file_cache.waits = True  # type: ignore[attr-defined]
    compilation_cache.get_file_cache = get_file_cache
