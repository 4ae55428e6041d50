"""A process that needs a program that another one compiles waits for it."""

import os
import stat
import threading
import time

import pytest
from support import children

from dgm_jax.system.compile_once import _WaitingCache

PROGRAM = """
from dgm_jax.system import compile_once
from dgm_jax.system.compile_once import _WaitingCache
from system.test_compile_once import Files
compile_once._LONGEST = {longest}
cache = _WaitingCache(Files({folder!r}), {folder!r})
print("asks", flush=True)
print(cache.get({key!r}))
"""


class Files:
    """A cache as JAX has one, as far as it is used."""

    def __init__(self, folder):
        self.folder = folder

    def get(self, key):
        try:
            with open(f"{self.folder}/{key}", "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def put(self, key, value):
        with open(f"{self.folder}/{key}", "wb") as file:
            file.write(value)


@pytest.fixture
def cache(tmp_path):
    return _WaitingCache(Files(str(tmp_path)), str(tmp_path))


def other_process(folder, key, longest=1000):
    """One that asks for a program, and waits no longer than this."""
    child = children.start(PROGRAM.format(folder=str(folder), key=key, longest=longest))
    assert child.stdout.readline() == "asks\n"
    return child


def test_it_waits_and_reads_what_the_other_has_compiled(cache, tmp_path):
    assert cache.get("a") is None
    another = threading.Thread(target=cache.get, args=("b",))  # What a thread asks for releases only what it holds.
    another.start()
    another.join()
    child = other_process(tmp_path, "a")
    time.sleep(0.3)
    cache.put("a", b"a program")
    assert children.outputs(child) == ["b'a program'\n"]


def test_a_program_that_is_never_kept_is_not_waited_for_longer_than_said(cache, tmp_path):
    assert cache.get("a") is None  # This process lives on.
    assert children.outputs(other_process(tmp_path, "a", longest=0.5), seconds=60) == ["None\n"]


def test_who_asks_for_the_next_program_has_done_with_the_last_one(cache, tmp_path):
    """JAX does not keep all programs."""
    assert cache.get("a") is None and cache.get("b") is None
    assert children.outputs(other_process(tmp_path, "a"), seconds=60) == ["None\n"]


def test_whoever_may_write_to_the_folder_may_lock(tmp_path):
    tmp_path.chmod(0o775)
    _WaitingCache(Files(str(tmp_path)), str(tmp_path))
    assert stat.S_IMODE(os.stat(tmp_path / "being-compiled").st_mode) == 0o664


def test_another_program_is_not_waited_for(cache, tmp_path):
    assert cache.get("a") is None
    assert children.outputs(other_process(tmp_path, "b"), seconds=60) == ["None\n"]


def test_nobody_waits_for_a_process_that_has_ended(cache, tmp_path):
    assert children.outputs(other_process(tmp_path, "a")) == ["None\n"]  # It has not put it.
    assert cache.get("a") is None


def test_what_is_there_is_not_locked(cache, tmp_path):
    cache.put("a", b"a program")
    assert cache.get("a") == b"a program"
    assert children.outputs(other_process(tmp_path, "a"), seconds=60) == ["b'a program'\n"]
