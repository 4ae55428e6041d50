"""A process that needs a program that another one compiles waits for it."""

import time

import pytest
from support import children

from dgm_jax.system.compile_once import _WaitingCache

PROGRAM = """
import sys
from dgm_jax.system.compile_once import _WaitingCache
from system.test_compile_once import Files
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


def other_process(folder, key):
    """One that asks for a program."""
    child = children.start(PROGRAM.format(folder=str(folder), key=key))
    assert child.stdout.readline() == "asks\n"
    return child


def test_it_waits_and_reads_what_the_other_has_compiled(cache, tmp_path):
    assert cache.get("a") is None
    child = other_process(tmp_path, "a")
    time.sleep(0.3)
    cache.put("a", b"a program")
    assert children.outputs(child) == ["b'a program'\n"]


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
